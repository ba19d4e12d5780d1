"""A speech tail that sees its own reply alone: the same in one pass and one by one, alone and in a batch."""

import pytest
import torch
from lm_toys import IDS, prompt, small_model

from mossrepro.lm import checkpoint
from mossrepro.lm.decode import GenerationConfig, generate
from mossrepro.lm.model import reply_mask, reply_starts
from mossrepro.lm.task import LayerSplitTask
from mossrepro.utils.errors import ConfigError
from mossrepro.utils.layers import Packing

S, P = IDS.sosp, IDS.pad


def test_a_reply_begins_at_its_sosp_however_the_sequence_comes():
    text = torch.tensor([[1, 9, S, P, P, 20, S, P, 3], [S, P, 1, 1, 1, 1, 1, 1, 1]])
    whole = reply_starts(text, S)
    assert whole.tolist() == [[-1, -1, 2, 2, 2, 2, 6, 6, 6], [0] * 9]
    first = reply_starts(text[:, :4], S)
    assert torch.equal(torch.cat((first, reply_starts(text[:, 4:], S, 4, first[:, -1])), 1), whole)
    seen = reply_mask(whole)[0, 0]
    assert seen[4].nonzero().flatten().tolist() == [2, 3, 4] and seen[7].nonzero().flatten().tolist() == [6, 7]
    assert seen[1].nonzero().flatten().tolist() == [0, 1]  # before any speech: everything before


@torch.no_grad()
def test_decoding_sees_what_training_saw():
    """Codes are those of whole passes, in a batch with padding too; and a tail that sees everything says others."""
    torch.manual_seed(1)
    prompts = [
        prompt([1, 9, 11, 30, S]),
        prompt([1, 20, 21, S]),
        prompt([1, S, P, P, P, 20, S], [1, 1, 3, 4, 40, 1, 1]),
    ]
    config, found = GenerationConfig(max_positions=7), {}
    for sees in (S, None):
        model = small_model(speech_from=sees).eval()
        replies = generate(model, prompts, IDS, config)
        found[sees] = [reply.codes for reply in replies]
        for start, reply in zip(prompts, replies, strict=True):
            assert [one.codes for one in generate(model, [start], IDS, config)] == [reply.codes]
            text, speech = start.text.tolist(), start.speech.tolist()
            for i, code in enumerate(reply.codes):
                grid = torch.tensor([list(zip(text, speech, strict=True))])
                logits = model.speech_head(model(grid, tails=("speech",)).speech[0, -1])[: IDS.eosp + 1]
                logits[IDS.eosp] = -torch.inf if i < 1 else logits[IDS.eosp]
                assert int(logits.argmax()) == code
                text, speech = [*text, P], [*speech, code]
    assert found[S] != found[None]


@torch.no_grad()
def test_the_tail_cannot_look_at_the_prompt():
    """With the trunk's output as it is, other states of the prompt change nothing that is said."""
    model = small_model(speech_from=S).eval()
    grid = torch.tensor([[[1, 1], [9, 1], [11, 1], [S, 1], [P, 3], [P, 4]]])
    x, table = torch.randn(1, 6, 32), model.rotary(torch.arange(6)[None])
    other = torch.cat((torch.randn(1, 3, 32), x[:, 3:]), 1)
    mask = reply_mask(reply_starts(grid[..., 0], S))
    said, again = (model.channel("speech", one, table, mask, None)[:, 3:] for one in (x, other))
    assert torch.equal(said, again)
    assert not torch.equal(*(model.channel("speech", one, table, None, None)[:, 3:] for one in (x, other)))


def test_it_is_kept_in_the_checkpoint_and_refuses_what_it_cannot_do(folder, tmp_path):
    from mossrepro.lm.mini import MiniBackboneTask

    shape = {"codes": 64, "tail_layers": 1, "layers": 2, "dim": 32, "ffn_dim": 64, "heads": 2}
    MiniBackboneTask(str(folder / "tokenizer.json"), **shape).save_pretrained(tmp_path)
    task = LayerSplitTask(str(tmp_path), codes=64, train="speech", tail_sees="reply")
    assert task.model.config.speech_from is not None
    (tmp_path / "out").mkdir()
    checkpoint.save_pretrained(task.model, task.tokenizer, tmp_path / "out")
    again, _ = checkpoint.from_pretrained(tmp_path / "out")
    assert again.config.speech_from == task.model.config.speech_from
    assert LayerSplitTask(str(tmp_path / "out"), codes=64).model.config.speech_from == again.config.speech_from
    assert LayerSplitTask(str(tmp_path / "out"), codes=64, tail_sees="all").model.config.speech_from is None
    with pytest.raises(ConfigError, match="choose all or reply"):
        LayerSplitTask(str(tmp_path), codes=64, tail_sees="nothing")
    grid = torch.zeros(1, 4, 2, dtype=torch.long)
    with pytest.raises(ConfigError, match="pack=false"):
        again(grid, mask=Packing((2, 2)))
