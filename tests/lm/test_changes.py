"""A language model as its changes of the text model that it started from: packed, it is the same one."""

import json
import shutil

import numpy as np
import pytest
import torch
from codec_toys import TINY
from gguf_toys import mergeable, write_gguf
from safetensors.torch import load_file, save_file
from sound_toys import sound_parts

from mossrepro.cli import main
from mossrepro.lm import checkpoint
from mossrepro.lm.changes import CHANGES_OF, changes, inherited
from mossrepro.lm.decode import GenerationConfig
from mossrepro.lm.init import start_parts
from mossrepro.lm.init_from import open_start
from mossrepro.lm.tokenizer import mini_tokenizer
from mossrepro.pipeline import Assistant
from mossrepro.utils import assets, packs
from mossrepro.utils.checksums import write_sums
from mossrepro.utils.errors import CheckpointError

VOCAB = 300


@pytest.fixture(scope="module")
def tokenizer():
    return mini_tokenizer(["Say the word, and what is the capital of Spain?"], VOCAB)


@pytest.fixture(scope="module")
def made(tokenizer, tmp_path_factory):
    """A model that started as a toy GGUF, trunk, speech tail, head and mouth changed, and its pack beside "sound"."""
    folder = tmp_path_factory.mktemp("made")
    write_gguf(folder / "toy.gguf", mergeable(tokenizer, VOCAB), layers=3)
    with pytest.MonkeyPatch.context() as patch:
        place(folder, patch)
        model, own = open_start("smollm2", TINY.codes, 1, "copy", 0)
        start_parts(model, own, mouth=1, ears=2, inner_ear=None, passes=False, seed=0)
        torch.manual_seed(0)
        with torch.no_grad():
            for part in (model.trunk, model.speech_tail, model.speech_head, model.mouth):
                for weight in part.parameters():
                    weight.add_(0.1 * torch.randn_like(weight))
        checkpoint.save_pretrained(model, own, folder / "trained")
        flags = [word for name, part in sound_parts(folder).items() for word in (f"--{name}", str(part))]
        assert main(["run", "teach", "-o", str(folder / "packs" / "sound"), *flags]) == 0
        assert pack(folder / "trained") == 0
    return folder


def place(folder, patch):
    patch.setenv("MOSSREPRO_HOME", str(folder / "home"))
    patch.setattr(packs, "PACKS", folder / "packs")
    patch.setattr(assets, "get", lambda name: folder / "toy.gguf")


@pytest.fixture
def trained(made, tmp_path, monkeypatch):
    """A copy of what was `made`; gives the folder of the model."""
    for name in ("toy.gguf", "trained", "packs"):
        (shutil.copytree if (made / name).is_dir() else shutil.copy)(made / name, tmp_path / name)
    place(tmp_path, monkeypatch)
    return tmp_path / "trained"


def pack(folder, *flags, to="answers"):
    flags = flags or ("--beside", "sound")
    return main(["run", "teach", "-o", str(packs.PACKS / to), "--sft", str(folder), *flags])


def test_a_packed_model_is_the_one_that_was_packed(trained):
    (mine, own), (theirs, same) = checkpoint.from_pretrained(trained), checkpoint.from_pretrained("pack:answers")
    assert mine.config == theirs.config and own.get_vocab() == same.get_vocab()
    before, after = mine.state_dict(), theirs.state_dict()
    assert before.keys() == after.keys()
    for name in before:  # toys are too small to be rounded
        assert torch.allclose(before[name], after[name], atol=1e-6), name
    for name in ("text_embed.weight", "text_tail.0.self_attn.q_proj.weight", "text_norm.weight"):
        assert torch.equal(before[name], after[name])


def test_what_is_equal_takes_no_room_and_what_started_alike_is_not_shared(trained):
    kept = packs._weights(packs.PACKS / "answers" / "sft" / "weights.gz")
    assert not any(name.startswith("text_") for name in kept) and "speech_norm.weight" not in kept
    model, _ = checkpoint.from_pretrained("pack:answers")
    assert torch.equal(model.speech_norm.weight, model.text_norm.weight)
    assert not any(p is q for p, q in zip(model.speech_tail.parameters(), model.text_tail.parameters(), strict=True))
    model.speech_norm.weight.data.zero_()
    assert model.text_norm.weight.all()


def test_a_pack_of_answers_is_talked_to_with_the_parts_of_the_pack_beside_it(trained, tmp_path, monkeypatch):
    folder = packs.find_folder("pack:answers")
    inside = ("codec", "flow", "sft", "vocoder")
    assert json.loads((folder / "parts.json").read_text()) == {name: name for name in inside}
    (tmp_path / "elsewhere" / "codec").mkdir(parents=True)  # is not taken for the pack's
    monkeypatch.chdir(tmp_path / "elsewhere")
    wave = np.sin(np.arange(16000) / 20).astype(np.float32)
    answer = Assistant.from_run("pack:answers").answer(wave, spoken=False, config=GenerationConfig(max_positions=4))
    assert isinstance(answer.text, str)


@pytest.mark.parametrize(
    "change",
    [
        lambda: (packs.PACKS / "sound" / packs.BESIDE).write_text("{}"),
        lambda: (packs.PACKS / "sound" / "SHA256SUMS").write_text(""),
        lambda: (packs.PACKS / "answers" / packs.BESIDE).write_text("3"),
        lambda: (packs.PACKS / "answers" / packs.BESIDE).write_text(json.dumps({"beside": "\ud800", "sums": ""})),
        lambda: (packs.PACKS / "answers" / packs.BESIDE).write_text(json.dumps({"beside": "../x", "sums": ""})),
    ],
    ids=["a third", "another", "no names", "no text", "outside"],
)
def test_a_pack_beside_that_is_not_the_one_is_refused(trained, change):
    change()
    write_sums(packs.PACKS / "answers")
    with pytest.raises(CheckpointError, match="pack.json: "):
        packs.find_folder("pack:answers")
    (packs.PACKS / "answers" / "SHA256SUMS").write_text(
        "".join(line for line in (packs.PACKS / "answers" / "SHA256SUMS").open() if packs.BESIDE not in line)
    )
    assert not (packs.find_folder("pack:answers") / "codec").exists()  # what no checksum covers is not read


def test_packs_that_do_not_fit_are_refused(trained, tmp_path, capsys):
    assert pack(trained, to="answers") == 2 and "is there already" in capsys.readouterr().err
    assert pack(trained, "--beside", "nothing", to="new") == 2 and "no pack 'nothing'" in capsys.readouterr().err
    assert pack(trained, "--data", "x", to="new") == 2 and "give --beside NAME" in capsys.readouterr().err
    assert pack(tmp_path / "nothing", to="new") == 2 and not (packs.PACKS / "new").exists()
    assert pack(trained, "--beside", "answers", to="new") == 2
    assert "parts of its own" in capsys.readouterr().err
    model, _ = checkpoint.from_pretrained(trained)
    start, _ = checkpoint.load_gguf(tmp_path / "toy.gguf", TINY.codes, 1)
    state = model.state_dict() | {"trunk.0.mlp.up_proj.weight": torch.zeros(2, 2)}
    with pytest.raises(CheckpointError, match="trunk.0.mlp.up_proj.weight is .* did not start from"):
        changes(state, inherited(start.state_dict()), 4)
    with pytest.raises(CheckpointError, match="rank 1 keeps .* did not start from"):
        changes(model.state_dict(), inherited(start.state_dict()), 1)
    model.trunk[0].mlp.up_proj.weight.data[0, 0] = torch.nan
    checkpoint.save_pretrained(model, checkpoint.from_pretrained(trained)[1], tmp_path / "nan")
    assert pack(tmp_path / "nan", to="new") == 2
    assert "trunk.0.mlp.up_proj.weight holds numbers that are none" in capsys.readouterr().err


def test_an_embedding_that_was_trained_is_packed_once(trained, tmp_path):
    model, own = checkpoint.from_pretrained(trained)
    model.text_embed.weight.data[3] += 1
    checkpoint.save_pretrained(model, own, tmp_path / "more")
    assert pack(tmp_path / "more", to="more") == 0
    again, _ = checkpoint.from_pretrained("pack:more")
    assert torch.allclose(again.text_head.weight, model.text_head.weight, atol=1e-5)
    assert again.text_head.weight is again.text_embed.weight


@pytest.mark.parametrize("value", ["qwen3", "", None, 3])
def test_changes_of_what_is_not_known_are_refused(trained, tmp_path, value):
    folder = packs.find_folder("pack:answers", "sft")
    plain = json.loads((folder / "config.json").read_text())
    assert plain[CHANGES_OF] == "smollm2"
    (folder / "config.json").write_text(json.dumps(plain | {CHANGES_OF: value}))
    with pytest.raises(CheckpointError, match="config.json: .*changes_of"):
        checkpoint.from_pretrained(folder)


STEM = "trunk.0.mlp.up_proj.weight"
BAD = {
    "alone": lambda t: t.pop(f"{STEM}.left"),
    "beside the whole": lambda t: t.update({STEM: torch.zeros(24, 16)}),
    "no factors": lambda t: t.update({f"{STEM}.left": torch.zeros(24, 3)}),
    "no matrices": lambda t: t.update({f"{STEM}.left": torch.zeros(24)}),
    "huge": lambda t: t.update({f"{STEM}.left": torch.zeros(10**6, 1), f"{STEM}.right": torch.zeros(1, 10**6)}),
    "a vector of another size": lambda t: t.update({"speech_norm.weight": torch.zeros(3)}),
    "factors of what is no change": lambda t: t.update({"speech_embed.weight.left": torch.zeros(3, 3)}),
}


@pytest.mark.parametrize("change", BAD.values(), ids=BAD)
def test_changes_that_do_not_fit_what_they_change_are_refused(trained, change):
    folder = packs.find_folder("pack:answers", "sft")
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"sft: .*(weight|tensor)"):
        checkpoint.from_pretrained(folder)


def test_changes_of_another_shape_are_refused(trained, tmp_path, tokenizer):
    write_gguf(tmp_path / "toy.gguf", mergeable(tokenizer, VOCAB - 1), layers=3)
    with pytest.raises(CheckpointError, match="text_embed.weight|text_vocab"):
        checkpoint.from_pretrained("pack:answers")


def test_large_changes_are_kept_as_two_narrow_matrices_in_few_bits():
    torch.manual_seed(0)
    start = {"trunk.0.w": torch.randn(192, 160), "trunk.0.n": torch.ones(160)}
    change = torch.randn(192, 100) @ torch.randn(100, 160) * torch.linspace(1, 0, 160)
    assert changes(start, start, 64) == {}
    kept = packs.quantise(changes(start | {"trunk.0.w": start["trunk.0.w"] + change}, start, 64), levels=15)
    left, right = kept["trunk.0.w.left"], kept["trunk.0.w.right"]
    assert left.shape == (192, 64) and right.shape == (64, 160) and left.dtype == right.dtype == torch.int8
    assert left.abs().max() <= 15 and {f"trunk.0.w.{side}.scale" for side in ("left", "right")} <= kept.keys()
    back = packs.dequantise(kept)
    close = torch.cosine_similarity((back["trunk.0.w.left"] @ back["trunk.0.w.right"]).flatten(), change.flatten(), 0)
    assert close > 0.9


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
