"""A language model as its changes of the text model that it started from: packed, it is the same one."""

import json

import pytest
import torch
from codec_toys import TINY
from gguf_toys import mergeable, write_gguf

from mossrepro.cli import main
from mossrepro.codec import SpeechCodec
from mossrepro.lm import checkpoint
from mossrepro.lm.changes import CHANGES_OF, changes, inherited
from mossrepro.lm.init import start_parts
from mossrepro.lm.init_from import open_start
from mossrepro.lm.tokenizer import mini_tokenizer
from mossrepro.utils import assets, packs
from mossrepro.utils.checksums import write_sums
from mossrepro.utils.errors import CheckpointError, ConfigError

VOCAB = 300


@pytest.fixture
def tokenizer():
    return mini_tokenizer(["Say the word, and what is the capital of Spain?"], VOCAB)


@pytest.fixture
def trained(tokenizer, tmp_path, monkeypatch):
    """A folder of a model that started as a toy GGUF: trunk, speech tail, head and mouth changed."""
    monkeypatch.setenv("MOSSREPRO_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(packs, "PACKS", tmp_path / "packs")
    write_gguf(tmp_path / "toy.gguf", mergeable(tokenizer, VOCAB), layers=3)
    monkeypatch.setattr(assets, "get", lambda name: tmp_path / "toy.gguf")
    model, own = open_start("smollm2", TINY.codes, 1, "copy", 0)
    start_parts(model, own, mouth=1, ears=2, inner_ear=None, passes=False, seed=0)
    torch.manual_seed(0)
    with torch.no_grad():
        for part in (model.trunk, model.speech_tail, model.speech_head, model.mouth):
            for weight in part.parameters():
                weight.add_(0.1 * torch.randn_like(weight))
    checkpoint.save_pretrained(model, own, tmp_path / "trained")
    return tmp_path / "trained"


def pack(folder, *flags):
    return main(["run", "teach", "-o", str(packs.PACKS / "answers"), "--sft", str(folder), *flags])


def test_a_packed_model_is_the_one_that_was_packed(trained):
    assert pack(trained) == 0
    (mine, own), (theirs, same) = checkpoint.from_pretrained(trained), checkpoint.from_pretrained("pack:answers")
    assert mine.config == theirs.config and own.get_vocab() == same.get_vocab()
    before, after = mine.state_dict(), theirs.state_dict()
    assert before.keys() == after.keys()
    for name in before:  # toys are too small to be rounded
        assert torch.allclose(before[name], after[name], atol=1e-6), name
    for name in ("text_embed.weight", "text_tail.0.self_attn.q_proj.weight", "text_norm.weight"):
        assert torch.equal(before[name], after[name])


def test_what_is_equal_takes_no_room_and_what_started_alike_is_not_shared(trained):
    assert pack(trained) == 0
    kept = packs._weights(packs.PACKS / "answers" / "sft" / "weights.gz")
    assert not any(name.startswith("text_") for name in kept) and "speech_norm.weight" not in kept
    model, _ = checkpoint.from_pretrained("pack:answers")
    assert torch.equal(model.speech_norm.weight, model.text_norm.weight)
    model.speech_norm.weight.data.zero_()
    assert model.text_norm.weight.all()


def test_a_pack_of_answers_brings_the_parts_of_the_pack_beside_it(trained, tmp_path):
    torch.manual_seed(0)
    SpeechCodec(TINY).save_pretrained(tmp_path / "codec")
    packs.write_part(packs.PACKS / "sound" / "codec", SpeechCodec(TINY).state_dict(), vars(TINY))
    write_sums(packs.PACKS / "sound")
    assert pack(trained, "--beside", "sound") == 0
    folder = packs.find_folder("pack:answers")
    assert json.loads((folder / "parts.json").read_text()) == {"codec": "codec", "sft": "sft"}
    assert SpeechCodec.from_pretrained(folder / "codec").config == TINY
    (packs.PACKS / "answers" / packs.BESIDE).write_text('{"beside": "answers"}')
    write_sums(packs.PACKS / "answers")
    with pytest.raises(CheckpointError, match=r"pack.json: names no pack that stands by itself"):
        packs.find_folder("pack:answers")


def test_packs_that_do_not_fit_are_refused(trained, tmp_path, capsys):
    assert pack(trained, "--beside", "nothing") == 2 and "no pack 'nothing'" in capsys.readouterr().err
    assert pack(tmp_path / "nothing") == 2 and not (packs.PACKS / "answers").exists()
    model, _ = checkpoint.from_pretrained(trained)
    start, _ = checkpoint.load_gguf(tmp_path / "toy.gguf", TINY.codes, 1)
    state = model.state_dict() | {"trunk.0.mlp.up_proj.weight": torch.zeros(2, 2)}
    with pytest.raises(CheckpointError, match="trunk.0.mlp.up_proj.weight is .* did not start from"):
        changes(state, inherited(start.state_dict()), 4)


@pytest.mark.parametrize("value", ["qwen3", "", None, 3])
def test_changes_of_what_is_not_known_are_refused(trained, tmp_path, value):
    assert pack(trained) == 0
    folder = packs.find_folder("pack:answers", "sft")
    plain = json.loads((folder / "config.json").read_text())
    assert plain[CHANGES_OF] == "smollm2"
    (folder / "config.json").write_text(json.dumps(plain | {CHANGES_OF: value}))
    with pytest.raises(CheckpointError, match="config.json: .*changes_of"):
        checkpoint.from_pretrained(folder)


def test_changes_that_do_not_fit_what_they_change_are_refused(trained, tmp_path, tokenizer):
    assert pack(trained) == 0
    write_gguf(tmp_path / "toy.gguf", mergeable(tokenizer, VOCAB - 1), layers=3)
    with pytest.raises(CheckpointError, match="text_embed.weight|text_vocab"):
        checkpoint.from_pretrained("pack:answers")


def test_few_levels_keep_the_direction_of_a_change():
    torch.manual_seed(0)
    change = 1e-3 * torch.randn(64, 256)
    kept = packs.quantise({"w": change}, levels=1)
    assert set(kept["w"].unique().tolist()) == {-1, 0, 1}
    back = packs.dequantise(kept)["w"]
    assert torch.cosine_similarity(back.flatten(), change.flatten(), 0) > 0.88  # 0.80 for two values, 0.90 at best
    assert (back - change).square().mean() < 0.22 * change.square().mean()
    assert (packs.dequantise(packs.quantise({"w": torch.zeros(64, 256)}, levels=1))["w"] == 0).all()


def test_other_names_than_text_and_trunk_are_of_no_text_model():
    state = {
        name: torch.ones(1) for name in ("trunk.0.x", "text_tail.0.x", "text_norm.w", "text_embed.w", "speech_embed.w")
    }
    assert set(inherited(state)) == {
        *("trunk.0.x", "text_tail.0.x", "text_norm.w", "text_embed.w", "speech_tail.0.x", "speech_norm.w")
    }


def test_a_size_for_no_pack_is_an_error(trained):
    assert main(["run", "teach", "-o", str(trained / "new"), "--beside", "sound"]) == 2
    with pytest.raises(ConfigError):
        packs.find_folder("pack:answers")
