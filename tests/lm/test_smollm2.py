"""The embedded backbone: same tokens and same text as the original."""

import pytest
import torch

from mossrepro import assets
from mossrepro.data.documents import question_prompt
from mossrepro.lm.checkpoint import from_pretrained, save_pretrained
from mossrepro.lm.decode import Sampling, generate
from mossrepro.lm.task import open_start
from mossrepro.vocab import Grid


@pytest.fixture(scope="module")
def smollm2():
    return open_start("smollm2", 64, 4, "copy", 0)


def test_tokens_of_digits_and_spaces(smollm2) -> None:
    _, tokenizer = smollm2
    assert tokenizer.encode("The capital is 123").tokens == ["The", "Ġcapital", "Ġis", "Ġ", "1", "2", "3"]
    assert tokenizer.encode("<|im_start|>user").ids[0] == 1
    assert tokenizer.decode(tokenizer.encode(" Buenos Aires, isn't it?").ids) == " Buenos Aires, isn't it?"


def test_it_knows_paris_and_survives_saving(smollm2, tmp_path) -> None:
    model, tokenizer = smollm2
    grid = Grid(tokenizer, 64)
    prompt = question_prompt(grid, "T2T", "What is the capital of France?")
    reply = generate(model, [prompt], grid.ids, Sampling(max_rows=10))[0]
    assert tokenizer.decode(reply.text) == "The capital of France is Paris."
    save_pretrained(model, tokenizer, tmp_path)
    again, tokens = from_pretrained(tmp_path)
    assert tokens.to_str() == tokenizer.to_str()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_perplexity_of_a_plain_fact(smollm2) -> None:
    model, tokenizer = smollm2
    ids = torch.tensor(tokenizer.encode("Water freezes at zero degrees and boils at one hundred degrees Celsius.").ids)
    with torch.no_grad():
        logits = model.text_head(model(torch.stack([ids, ids], -1)[None], tails=("text",)).text)[0]
    assert (
        torch.nn.functional.cross_entropy(logits[:-1], ids[1:]).exp() < 60
    )  # a wrong order of q and k rows gives thousands


def test_the_file_is_the_one_we_know() -> None:
    assert assets.get("smollm2").name.endswith(".gguf")
