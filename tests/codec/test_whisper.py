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


def test_what_is_no_whisper_is_refused(folder) -> None:
    path, _ = folder
    (path / "config.json").write_text(json.dumps({"encoder_layers": 3}))
    with pytest.raises(CheckpointError, match="layers.2"):
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
