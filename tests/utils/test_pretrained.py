"""Our own folders: settings and weights are compared before a model is built, whatever the model."""

import json
import struct
import time

import pytest
import torch
from codec_toys import TINY
from safetensors.torch import load_file, save_file

from mossrepro.codec import SpeechCodec
from mossrepro.codec.acoustic import AcousticCodec, AcousticConfig
from mossrepro.utils.errors import CheckpointError
from mossrepro.vocoder.checkpoint import save_module
from mossrepro.vocoder.flow import FlowDecoder
from mossrepro.vocoder.generator import Vocoder

LAYERS = {"codec": "layers", "acoustic": "codebooks", "flow": "flow_blocks", "vocoder": "fine_blocks"}


@pytest.fixture(params=LAYERS)
def own(request, tmp_path):
    """The name of a kind of model, a folder with a small one, and how it is loaded."""
    folder = tmp_path / "own"
    if request.param == "codec":
        SpeechCodec(TINY).save_pretrained(folder)
        return request.param, folder, SpeechCodec.from_pretrained
    if request.param == "acoustic":
        AcousticCodec(AcousticConfig(codes=8, codebooks=2, dim=4, filters=2)).save_pretrained(folder)
        return request.param, folder, AcousticCodec.from_pretrained
    if request.param == "flow":
        model = FlowDecoder(16, dim=64, blocks=1, fine_blocks=1, flow_blocks=1, steps=2)
    else:
        model = Vocoder(dim=32, blocks=1, fine_dim=32, fine_blocks=1, pitch_dim=16)
    save_module(model, model.config, folder)
    return request.param, folder, type(model).from_pretrained


def settings(folder) -> dict:
    return json.loads((folder / "config.json").read_text())


def change(folder, **values) -> None:
    (folder / "config.json").write_text(json.dumps(settings(folder) | values))


def test_what_was_saved_comes_back_and_no_random_number_is_used_up_by_the_check(own) -> None:
    _, folder, load = own
    held, model = load_file(folder / "model.safetensors"), load(folder)
    assert not model.training and not any(value.is_meta for value in (*model.parameters(), *model.buffers()))
    assert all(torch.equal(value, held[name]) for name, value in model.state_dict().items())
    torch.manual_seed(0)
    type(model)(**settings(folder)) if own[0] in ("flow", "vocoder") else type(model)(model.config)
    after = torch.rand(3)
    torch.manual_seed(0)
    load(folder)
    assert torch.equal(torch.rand(3), after)


@pytest.mark.parametrize("value", ["1", -1, 10**9, 10**30, 1.5, float("nan"), True, [1], None], ids=str)
@pytest.mark.parametrize("key", ["layers", "dim", "codes or bands"])
def test_numbers_that_no_model_has_are_one_line_at_once(own, key, value) -> None:
    kind, folder, load = own
    name = {"layers": LAYERS[kind], "dim": "dim"}.get(key) or ("bands" if kind == "vocoder" else "codes")
    change(folder, **{name: value})
    started = time.monotonic()
    with pytest.raises(CheckpointError, match=f"own/config.json: {name}="):
        load(folder)
    assert time.monotonic() - started < 20  # not the hours that so many layers take


def test_sizes_are_those_of_the_weights_before_a_model_is_built(own, monkeypatch) -> None:
    kind, folder, load = own
    size = "codes" if kind in ("codec", "acoustic") else "dim"
    change(folder, **{size: settings(folder)[size] + 64})
    built = []
    real = torch.nn.Module.__init__
    monkeypatch.setattr(torch.nn.Module, "__init__", lambda self: built.append(torch.empty(0).device) or real(self))
    with pytest.raises(CheckpointError, match=r"own: .* is \(.*\), the model's is \("):
        load(folder)
    assert {device.type for device in built} == {"meta"}


def test_unknown_settings_and_tensors_and_missing_ones_are_named(own) -> None:
    _, folder, load = own
    path, held = folder / "model.safetensors", load_file(folder / "model.safetensors")
    save_file(held | {f"new.{i}": torch.ones(1) for i in range(4)}, path)
    with pytest.raises(
        CheckpointError, match=r"own: 4 tensors are not part of this model \(new.0, new.1, new.2, \.\.\."
    ):
        load(folder)
    lost = sorted(held)[0]
    save_file({name: value for name, value in held.items() if name != lost}, path)
    with pytest.raises(CheckpointError, match=f"own: tensor {lost} is missing"):
        load(folder)
    save_file(held, path)
    change(folder, colour=3)
    with pytest.raises(CheckpointError, match="own/config.json: unknown key 'colour'"):
        load(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match="own/config.json"):
        load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match="own/config.json"):
        load(folder)


@pytest.mark.parametrize("how", ["cut", "header", "length", "gone", "fp8"])
def test_broken_and_quantised_weights_are_named(own, how) -> None:
    _, folder, load = own
    path = folder / "model.safetensors"
    whole, held = path.read_bytes(), load_file(path)
    if how == "gone":
        path.unlink()
    elif how == "fp8":
        save_file({k: v.to(torch.float8_e4m3fn) if v.is_floating_point() else v for k, v in held.items()}, path)
    else:
        header = struct.pack("<Q", 1 << 50) + whole[8:]
        path.write_bytes({"cut": whole[: len(whole) // 2], "header": whole[:20], "length": header}[how])
    named = {"gone": "own: there is no .safetensors", "fp8": "own: quantised weights"}
    with pytest.raises(CheckpointError, match=named.get(how, "own/model.safetensors: not a safetensors file")):
        load(folder)


@pytest.mark.parametrize(
    ("own", "values"),
    [("codec", {"levels": 3}), ("codec", {"levels": ["a"]}), ("codec", {"levels": [4, 5]}), ("codec", {"plain": "no"}),
     ("codec", {"front": 3}), ("codec", {"front": "other"}), ("codec", {"heads": 0}), ("codec", {"window": "x"}),
     ("codec", {"recogniser_dropout": "x"}), ("codec", {"recogniser_dropout": float("inf")}),
     ("flow", {"steps": 10**6}), ("flow", {"guidance": "x"}), ("flow", {"mel_std": float("nan")}),
     ("flow", {"dim": 65}), ("vocoder", {"rate": "24000"}), ("vocoder", {"hop": None})],
    ids=str,
    indirect=["own"],
)  # fmt: skip
def test_settings_that_stand_in_no_tensor_are_checked_too(own, values) -> None:
    change(own[1], **values)
    with pytest.raises(CheckpointError, match="own/config.json: "):
        own[2](own[1])
