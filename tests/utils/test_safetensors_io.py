"""Weights in one file or in several: read by name, replaced whole."""

import json
import struct

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


def header(path, entries, data: bytes = b"", length: int | None = None) -> None:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


@pytest.mark.parametrize(
    ("shape", "offsets", "data", "length"),
    [
        ([2], [0, 8], b"1234", None),
        ([2], [0, 8], b"12345678", 10**15),
        ([2], [0, 8], b"12345678", 3),
        ([2], [10**18, 10**18 + 8], b"12345678", None),
        ([2], [8, 0], b"12345678", None),
        ([1 << 62, 8], [0, 8], b"12345678", None),
        ([-2], [0, 8], b"12345678", None),
    ],
)
@pytest.mark.parametrize("indexed", [False, True])
def test_a_broken_header_is_named_before_anything_is_read(shape, offsets, data, length, indexed, tmp_path) -> None:
    header(tmp_path / "a.safetensors", {"a": {"dtype": "F32", "shape": shape, "data_offsets": offsets}}, data, length)
    if indexed:
        (tmp_path / safetensors_io.INDEX).write_text(json.dumps({"weight_map": {"a": "a.safetensors"}}))
    with pytest.raises(CheckpointError, match="a.safetensors: not a safetensors file"):
        safetensors_io.Shards(tmp_path)


@pytest.mark.parametrize("places", [[], {}, None, {"a": 3}, {"a": ["b"]}, {"a": "../a.safetensors"}, 7])
def test_an_index_that_is_none_is_named(places, tmp_path) -> None:
    safetensors_io.write({"a": torch.ones(2)}, tmp_path)
    (tmp_path / safetensors_io.INDEX).write_text(json.dumps({"weight_map": places}))
    with pytest.raises(CheckpointError, match="index.json: not an index of shards"):
        safetensors_io.Shards(tmp_path)


def test_an_index_that_names_another_shard_is_refused_at_once(tmp_path) -> None:
    for name in "ab":
        header(tmp_path / f"{name}.safetensors", {name: {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}})
    index = tmp_path / safetensors_io.INDEX
    index.write_text(json.dumps({"weight_map": {"a": "b.safetensors", "b": "b.safetensors"}}))
    with pytest.raises(CheckpointError, match="b.safetensors: has no tensor a"):
        safetensors_io.Shards(tmp_path)


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "I8", "U8", "I32", "C64"])
def test_weights_that_are_no_plain_floats_are_refused(dtype, tmp_path) -> None:
    entry = {"dtype": dtype, "shape": [0], "data_offsets": [0, 0]}
    header(tmp_path / "a.safetensors", {"layer.weight": entry})
    with pytest.raises(CheckpointError, match=rf"quantised weights \(layer.weight is {dtype}\).* bf16 weights"):
        safetensors_io.Shards(tmp_path)
    if dtype[0] not in "FC":  # a counter may be whole
        header(tmp_path / "a.safetensors", {"layer.seen": entry})
        assert safetensors_io.Shards(tmp_path).names == {"layer.seen"}


def test_floats_of_every_width_are_read(tmp_path) -> None:
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        safetensors_io.write({"layer.weight": torch.ones(2, dtype=dtype)}, tmp_path)
        assert safetensors_io.Shards(tmp_path)["layer.weight"].dtype == dtype


@pytest.mark.parametrize(
    "name",
    ["weight_scale", "weight_scale_inv", "input_scale", "k_scale", "weight_packed", "weight_zero_point", "qweight",
     "qzeros", "scales", "g_idx", "weight.absmax", "weight.quant_map", "SCB", "weight.quant_state.bitsandbytes__nf4",
     "gate_up_proj_scales"],
)  # fmt: skip
def test_a_tensor_that_only_quantised_models_have_is_named(name, tmp_path) -> None:
    safetensors_io.write({f"layer.{name}": torch.ones(2), "layer.weight": torch.ones(2)}, tmp_path)
    with pytest.raises(CheckpointError, match=rf"{tmp_path.name}: quantised weights \(it holds layer.{name}\)"):
        safetensors_io.Shards(tmp_path)
    safetensors_io.write({"block.scale": torch.ones(2), "descale.weight": torch.ones(2)}, tmp_path)
    assert len(safetensors_io.Shards(tmp_path).names) == 2  # of ConvNeXt blocks


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"quantization_config": {"quant_method": "compressed-tensors", "format": "float-quantized"}}, "compressed"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "gptq"),
        ({"quantization_config": {"load_in_4bit": True, "quant_method": "bitsandbytes"}}, "bitsandbytes"),
        ({"quantization_config": {"quant_method": "fp8"}}, "fp8"),
        ({"quantization": {"group_size": 64, "bits": 4}}, "4 bits"),
        ({"quantization_config": "yes"}, "yes"),
    ],
)
def test_a_config_that_says_quantised_is_believed(settings, named, tmp_path) -> None:
    safetensors_io.write({"layer.weight": torch.ones(2)}, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(CheckpointError, match=rf"quantised weights \({named}.*\) cannot be read; take the folder"):
        safetensors_io.Shards(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": None}))
    assert safetensors_io.Shards(tmp_path).names == {"layer.weight"}


def test_layers_are_counted_and_a_gap_is_named(tmp_path) -> None:
    names = [f"m.layers.{i}.{part}" for i in (0, 1, 2) for part in ("a", "b")]
    assert safetensors_io.count_layers(tmp_path, [*names, "m.norm"], "m.layers.") == 3
    assert safetensors_io.count_layers(tmp_path, ["m.norm"], "m.layers.") == 0
    for odd in ("m.layers.4.a", "m.layers.1000000000.a", "m.layers.x.a", "m.layers.03.a"):
        with pytest.raises(CheckpointError, match="m.layers.3 is missing"):
            safetensors_io.count_layers(tmp_path, [*names, odd], "m.layers.")


def test_unknown_tensors_are_counted_and_three_are_named(tmp_path) -> None:
    safetensors_io.refuse_unknown(tmp_path, ["a.inv_freq"], r".*inv_freq")
    with pytest.raises(CheckpointError, match=r"4 tensors are not part of this model \(a, b, c, \.\.\.\); take"):
        safetensors_io.refuse_unknown(tmp_path, ["d", "b", "a", "c", "x.inv_freq"], r".*inv_freq")
    with pytest.raises(CheckpointError, match=r"1 tensor is not part of this model \(a\)"):
        safetensors_io.refuse_unknown(tmp_path, ["a"])


def test_a_model_on_meta_is_filled_or_the_first_misfit_is_named(tmp_path) -> None:
    safetensors_io.write({"w": torch.ones(3, 2), "b": torch.zeros(4)}, tmp_path)
    with torch.device("meta"):
        good, bad = torch.nn.Linear(2, 3, bias=False), torch.nn.Linear(2, 4, bias=False)
    safetensors_io.fill_from(good, safetensors_io.Shards(tmp_path), {"weight": "w"})
    assert torch.equal(good.weight, torch.ones(3, 2)) and good.weight.requires_grad
    with pytest.raises(CheckpointError, match=r"w is \(3, 2\).*weight is \(4, 2\)"):
        safetensors_io.fill_from(bad, safetensors_io.Shards(tmp_path), {"weight": "w"})
    assert bad.weight.is_meta
