"""What version 0.1 wrote is read: models, scripts and stores with the names of then."""

import json

import numpy as np
import pytest
import torch
from codec_toys import TINY
from lm_toys import small_model
from safetensors.torch import load_file, save_file

from mossrepro.codec import SpeechCodec
from mossrepro.data.script import Line, read_script
from mossrepro.data.token_store import TokenWriter, code_table
from mossrepro.evaluation.artifacts import has_text_guidance
from mossrepro.lm import checkpoint
from mossrepro.lm.tokenizer import mini_tokenizer
from mossrepro.utils import old_names
from mossrepro.utils.old_names import renamed
from mossrepro.vocoder.checkpoint import save_module
from mossrepro.vocoder.flow import FlowDecoder
from mossrepro.vocoder.generator import Vocoder

# Written out once more: a name that is lost from the tables of the package must be missed here.
CODEC = {"width": "dim", "feedforward": "ffn_dim", "books": "codebooks", "reader_width": "recogniser_dim"}
CODEC |= {f"reader_{name}": f"recogniser_{name}" for name in ("layers", "kernel", "dropout")}
LM = {"hidden": "ffn_dim", "extra": "extra_layers", "max_rows": "max_positions"}
VOCODER = {"width": "dim", "fine_width": "fine_dim", "pitch_width": "pitch_dim"}


def age(folder, config: dict[str, str], tensors: dict[str, str] | None = None) -> None:
    """Give a model's files the names of then."""
    path = folder / "config.json"
    plain = renamed(json.loads(path.read_text()), {new: old for old, new in config.items()})
    path.write_text(json.dumps(plain))
    weights = renamed(load_file(folder / "model.safetensors"), {new: old for old, new in (tensors or {}).items()})
    save_file(weights, folder / "model.safetensors")
    assert set(config) & set(plain) and all(any(name.startswith(old) for name in weights) for old in tensors or ())


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_codec(tmp_path):
    codec = SpeechCodec(TINY)
    codec.save_pretrained(tmp_path)
    age(tmp_path, CODEC, {"narrow.": "pre_quant_proj."})
    assert same(SpeechCodec.from_pretrained(tmp_path), codec)


@pytest.mark.parametrize("changes", [{}, {"tail_layers": 0, "extra_layers": 1}])
def test_a_language_model(tmp_path, changes):
    model = small_model(**changes)
    checkpoint.save_pretrained(model, mini_tokenizer(["one two three"], 300), tmp_path)
    age(tmp_path, LM)
    read, _ = checkpoint.from_pretrained(tmp_path)
    assert read.config == model.config and same(read, model)


def test_flow_decoder_and_vocoder(tmp_path):
    flow = FlowDecoder(16, dim=64, blocks=1, fine_blocks=1, flow_blocks=1, steps=2)
    save_module(flow, flow.config, tmp_path / "flow")
    _age_tensors(tmp_path / "flow")
    assert same(FlowDecoder.from_pretrained(tmp_path / "flow"), flow)
    vocoder = Vocoder(dim=32, blocks=1, fine_dim=32, fine_blocks=1, pitch_dim=16)
    save_module(vocoder, vocoder.config, tmp_path / "vocoder")
    age(tmp_path / "vocoder", VOCODER)
    assert same(Vocoder.from_pretrained(tmp_path / "vocoder"), vocoder)


def _age_tensors(folder) -> None:
    weights = load_file(folder / "model.safetensors")
    old = renamed(weights, {new: old for old, new in {"sketch.": "coarse_mel."}.items()})
    assert set(old) != set(weights)
    save_file(old, folder / "model.safetensors")


def test_a_script_and_a_token_store(tmp_path):
    roles = {"hear": "user_speech", "say": "assistant_speech", "state": "false_statement", "ask": "question"}
    lines = [{"id": role, "role": role, "text": "x", "voice": "v", "split": "train"} for role in (*roles, "answer")]
    (tmp_path / "script.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [line.role for line in read_script(tmp_path)] == [*roles.values(), "answer"]
    assert isinstance(read_script(tmp_path)[0], Line)
    with TokenWriter(tmp_path / "store", 4) as writer:
        writer.add([("a", np.arange(4))])
    np.save(tmp_path / "store" / "sounds.npy", np.ones((4, 40), np.float32))
    assert code_table(tmp_path / "store", "code_phone_probs", 4).shape == (4, 40)


def test_the_parts_of_a_run():
    assert renamed({"reader": "r", "sft": "s"}, old_names.PARTS) == {"recogniser": "r", "sft": "s"}


def test_a_stage_with_text_guidance(tmp_path):
    for key, value in (("guide", True), ("text_guidance", True), ("text_guidance", False)):
        (tmp_path / "fit.json").write_text(json.dumps({"data": {"init_args": {key: value}}}))
        assert has_text_guidance(tmp_path) is value
