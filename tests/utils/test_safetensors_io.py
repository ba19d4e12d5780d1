"""Weights in one file or in several: read by name, replaced whole."""

import json

import pytest
import torch

from mossrepro.utils import safetensors_io
from mossrepro.utils.errors import CheckpointError

STATE = {f"layer.{i}.weight": torch.randn(40, 40, generator=torch.Generator().manual_seed(i)) for i in range(5)}


@pytest.mark.parametrize(("size", "files"), [("1GB", 1), ("15KB", 3)])
def test_what_is_written_is_read_by_name(size, files, tmp_path) -> None:
    safetensors_io.write(STATE, tmp_path, size)
    assert len(list(tmp_path.glob("*.safetensors"))) == files
    held = safetensors_io.Shards(tmp_path)
    assert held.names == set(STATE) and held.shape("layer.3.weight") == (40, 40)
    assert all(torch.equal(held[name], value) for name, value in STATE.items())
    with pytest.raises(CheckpointError, match="layer.9.weight is missing"):
        held["layer.9.weight"]


def test_fewer_shards_than_before_leave_no_index_and_no_old_file(tmp_path) -> None:
    safetensors_io.write(STATE, tmp_path, "15KB")
    safetensors_io.write({"other.weight": torch.ones(2)}, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    assert safetensors_io.Shards(tmp_path).names == {"other.weight"}


def test_a_broken_folder_is_one_line(tmp_path) -> None:
    with pytest.raises(CheckpointError, match="no .safetensors"):
        safetensors_io.Shards(tmp_path)
    safetensors_io.write(STATE, tmp_path, "15KB")
    index = tmp_path / safetensors_io.INDEX
    lost = sorted(set(json.loads(index.read_text())["weight_map"].values()))[1]
    (tmp_path / lost).unlink()
    with pytest.raises(CheckpointError, match=f"{lost}: this shard is missing"):
        safetensors_io.Shards(tmp_path)
    index.write_text("{}")
    with pytest.raises(CheckpointError, match="not an index"):
        safetensors_io.Shards(tmp_path)


def test_a_model_on_meta_is_filled_or_the_first_misfit_is_named(tmp_path) -> None:
    safetensors_io.write({"w": torch.ones(3, 2), "b": torch.zeros(4)}, tmp_path)
    with torch.device("meta"):
        good, bad = torch.nn.Linear(2, 3, bias=False), torch.nn.Linear(2, 4, bias=False)
    safetensors_io.fill_from(good, safetensors_io.Shards(tmp_path), {"weight": "w"})
    assert torch.equal(good.weight, torch.ones(3, 2)) and good.weight.requires_grad
    with pytest.raises(CheckpointError, match=r"w is \(3, 2\).*weight is \(4, 2\)"):
        safetensors_io.fill_from(bad, safetensors_io.Shards(tmp_path), {"weight": "w"})
    assert bad.weight.is_meta
