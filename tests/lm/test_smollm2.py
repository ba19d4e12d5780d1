"""The embedded backbone: same tokens and same text as the original."""

from copy import deepcopy

import pytest
import torch
import transformers

from mossrepro.lm import hub
from mossrepro.lm.checkpoint import from_pretrained, save_pretrained
from mossrepro.lm.decode import GenerationConfig, generate
from mossrepro.lm.grid import Grid, question_prompt
from mossrepro.lm.inference import fuse_projections
from mossrepro.lm.init_from import open_start
from mossrepro.utils import assets
from mossrepro.utils.errors import ConfigError


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
    reply = generate(model, [prompt], grid.ids, GenerationConfig(max_positions=10))[0]
    assert tokenizer.decode(reply.text) == "The capital of France is Paris."
    save_pretrained(model, tokenizer, tmp_path)
    again, tokens = from_pretrained(tmp_path)
    assert tokens.to_str() == tokenizer.to_str()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_transformers_writes_the_same_tokens_from_these_weights(smollm2) -> None:
    """An ordinary Llama of `transformers`, filled with the file's weights, goes on token for token as ours does."""
    model, tokenizer = smollm2
    c = model.config
    config = transformers.LlamaConfig(
        hidden_size=c.dim, intermediate_size=c.ffn_dim, num_hidden_layers=c.layers, num_attention_heads=c.heads,
        num_key_value_heads=c.kv_heads, vocab_size=c.text_vocab, rms_norm_eps=c.eps, tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": c.theta}, max_position_embeddings=512,
    )  # fmt: skip
    theirs = transformers.LlamaForCausalLM(config).eval()
    state = {theirs: model.state_dict()[ours] for ours, theirs in hub.names(model).items()}
    missing, extra = theirs.load_state_dict(state, strict=False)
    assert missing == ["lm_head.weight"] and not extra
    grid, fast = Grid(tokenizer, 64), fuse_projections(deepcopy(model))
    for question in ("What is the capital of France?", "Tell me something about the sea."):
        prompt = question_prompt(grid, "T2T", question)
        reply = generate(model, [prompt], grid.ids, GenerationConfig(max_positions=24))[0]
        assert generate(fast, [prompt], grid.ids, GenerationConfig(max_positions=24))[0] == reply
        ids = torch.from_numpy(prompt.text)[None]
        more = theirs.generate(ids, max_new_tokens=24, do_sample=False, eos_token_id=grid.ids.im_end, pad_token_id=0)
        written = more[0, ids.shape[1] :].tolist()
        assert reply.text == [id for id in written if id != grid.ids.im_end]


def test_a_text_that_holds_the_modality_pad_is_refused(smollm2) -> None:
    grid = Grid(smollm2[1], 64)
    with pytest.raises(ConfigError, match="empty_output"):
        grid.text("what is <empty_output>?")


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
