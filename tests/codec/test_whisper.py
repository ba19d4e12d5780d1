"""A Whisper folder of the hub: whole, in shards, or not one."""

import json

import pytest
import torch
from safetensors.torch import save_file

from mossrepro.codec.whisper import NAMES, HubEncoder
from mossrepro.utils.errors import CheckpointError


def tensors(prefix: str) -> dict[str, torch.Tensor]:
    out = {f"{prefix}{conv}.{end}": torch.randn(3) for conv in ("conv1", "conv2") for end in ("weight", "bias")}
    for i in range(2):
        for theirs in NAMES.values():
            out |= {f"{prefix}layers.{i}.{theirs}.{end}": torch.randn(4) for end in ("weight", "bias")}
    return {name: value for name, value in out.items() if not name.endswith("k_proj.bias")}


@pytest.fixture(params=["whole", "shards", "encoder only"])
def folder(request, tmp_path):
    state = tensors("encoder." if request.param == "encoder only" else "model.encoder.")
    (tmp_path / "config.json").write_text(json.dumps({"encoder_layers": 2}))
    if request.param != "shards":
        save_file(state, tmp_path / "model.safetensors")
        return tmp_path, state
    names = sorted(state)
    parts = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, held in parts.items():
        save_file({name: state[name] for name in held}, tmp_path / file)
    index = {"weight_map": {name: file for file, held in parts.items() for name in held}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    return tmp_path, state


def test_weights_come_under_our_names(folder) -> None:
    path, state = folder
    read = HubEncoder(str(path))()
    (fc1,) = (value for name, value in state.items() if name.endswith("layers.1.fc1.weight"))
    assert torch.equal(read["layers.1.mlp_in.weight"], fc1)
    assert torch.equal(read["layers.0.attention.k.bias"], torch.zeros(4)) and len(read) == 4 + 2 * 16


def test_only_the_encoder_is_read_and_all_of_it(tmp_path) -> None:
    state, path = tensors("model.encoder."), tmp_path / "model.safetensors"
    (tmp_path / "config.json").write_text(json.dumps({"encoder_layers": 2}))
    beside = ("model.decoder.layers.0.fc1.weight", "proj_out.weight", "model.encoder.layer_norm.weight")
    save_file(state | {name: torch.ones(1) for name in (*beside, "model.encoder.embed_positions.weight")}, path)
    assert len(HubEncoder(str(tmp_path))()) == 4 + 2 * 16
    save_file(state | {"model.encoder.adapter.weight": torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match=r"1 tensor is not part of this model \(adapter.weight\)"):
        HubEncoder(str(tmp_path))()
    save_file({name: value for name, value in state.items() if "layers.1.fc2.bias" not in name}, path)
    with pytest.raises(CheckpointError, match=r"layers.1.fc2.bias is missing"):
        HubEncoder(str(tmp_path))()
    save_file({name: value.to(torch.float8_e4m3fn) for name, value in state.items()}, path)
    with pytest.raises(CheckpointError, match=r"quantised weights .* bf16 weights"):
        HubEncoder(str(tmp_path))()


def test_what_is_no_whisper_is_refused(folder) -> None:
    path, _ = folder
    (path / "config.json").write_text(json.dumps({"encoder_layers": 3}))
    with pytest.raises(CheckpointError, match="encoder_layers=3, the files hold 2"):
        HubEncoder(str(path))()
    for wrong in ("2", -1, 10**9, None):
        (path / "config.json").write_text(json.dumps({"encoder_layers": wrong}))
        with pytest.raises(CheckpointError, match=f"encoder_layers={wrong!r}"):
            HubEncoder(str(path))()
    (path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="encoder_layers"):
        HubEncoder(str(path))()
    for file in path.glob("*.safetensors"):
        file.write_bytes(b"torn")
    (path / "config.json").write_text(json.dumps({"encoder_layers": 2}))
    with pytest.raises(CheckpointError, match="not a Whisper"):
        HubEncoder(str(path))()
    with pytest.raises(CheckpointError, match="nowhere"):
        HubEncoder(str(path / "nowhere"))()
