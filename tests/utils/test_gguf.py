"""Our reader of GGUF files against the gguf package's own, on a small file written by the package."""

import struct
import time

import gguf
import numpy as np
import pytest

from mossrepro.utils.errors import CheckpointError
from mossrepro.utils.gguf import GGUFFile
from mossrepro.utils.random import rng


@pytest.fixture
def path(tmp_path):
    """Scalars, strings and arrays of several types; tensors in full, half and two quantised precisions."""
    path = tmp_path / "toy.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("llama.block_count", 3)
    writer.add_float32("llama.rope.freq_base", 10_000.0)
    writer.add_bool("toy.flag", True)
    writer.add_array("tokenizer.ggml.tokens", ["a", "Ġb", "", "ünï"])
    writer.add_array("tokenizer.ggml.token_type", [1, 3, 1, 6])
    for i, kind in enumerate(("F32", "F16", "Q8_0", "Q4_1")):
        values = rng(0, i).standard_normal((5, 64)).astype(np.float32)
        kind = gguf.GGMLQuantizationType[kind]
        writer.add_tensor(f"t{i}", gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_it_reads_what_the_package_reads(path):
    ours, theirs = GGUFFile(path), gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
    assert ours.metadata == fields and ours.metadata["tokenizer.ggml.tokens"][3] == "ünï"
    tensors = ours.tensors()
    assert list(tensors) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        expected = gguf.dequantize(tensor.data, tensor.tensor_type)
        assert tensors[tensor.name].dtype == np.float32 and tensors[tensor.name].flags.writeable
        assert np.array_equal(tensors[tensor.name], expected)


def patched(path, old: bytes, new: bytes) -> None:
    whole = path.read_bytes()
    assert old in whole
    path.write_bytes(whole.replace(old, new, 1))


def sized(code: str, *values: int) -> bytes:
    return struct.pack(code, *values)


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        (sized("<QQ", 4, 6), sized("<QQ", 1 << 60, 6), "tensors in"),  # counts in the header
        (sized("<QQ", 4, 6), sized("<QQ", 4, 1 << 60), "metadata entries in"),
        (sized("<IQ", 8, 4), sized("<IQ", 8, 1 << 60), "strings in"),  # length of an array of strings
        (sized("<IQ", 5, 4), sized("<IQ", 5, 1 << 60), "numbers in"),
        (sized("<IQ", 5, 4), sized("<IQ", 9, 1 << 60), "arrays in"),
        (sized("<QQ", 64, 5), sized("<QQ", 1 << 62, 1 << 62), "t0"),  # a shape
        (sized("<IQQ", 2, 64, 5), sized("<IQQ", 1 << 31, 64, 5), "axes of t0"),
        (sized("<QQI", 64, 5, 0), sized("<QQI", 64, 5, 99), "t0"),  # a type that does not exist
        (sized("<QQI", 64, 5, 0), sized("<QQI", 64, 5, 16), "t0"),  # one whose blocks have another length
    ],
    ids=["tensors", "entries", "strings", "numbers", "arrays", "shape", "axes", "type", "block"],
)
def test_counts_that_the_file_cannot_hold_are_named_at_once(path, old, new, named):
    patched(path, old, new)
    started = time.monotonic()
    with pytest.raises(CheckpointError, match=f"toy.gguf: broken GGUF file .*{named}.*fetch it again"):
        GGUFFile(path).tensors()
    assert time.monotonic() - started < 20  # not the hours that so many layers take


def test_tensors_that_are_said_to_share_their_place_are_refused(path):
    whole = path.read_bytes()
    place = whole.index(b"t3")
    path.write_bytes(whole[:place] + whole[place:].replace(sized("<QQI", 64, 5, 3), sized("<QQI", 64, 20, 0), 1))
    with pytest.raises(CheckpointError, match="t3: the file ends inside it"):
        GGUFFile(path).tensors()


def test_nested_arrays_and_a_missing_file_are_one_line(path, tmp_path):
    deep = sized("<IQ", 9, 1) * 100_000
    path.write_bytes(b"GGUF" + sized("<IQQ", 3, 0, 1) + sized("<Q", 1) + b"a" + sized("<I", 9) + deep)
    with pytest.raises(CheckpointError, match="toy.gguf: broken GGUF file"):
        GGUFFile(path)
    with pytest.raises(CheckpointError, match="nowhere.gguf: cannot be read"):
        GGUFFile(tmp_path / "nowhere.gguf")


@pytest.mark.parametrize("kept", [0, 3, 40, -30])
def test_a_broken_file_is_named(path, kept):
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="toy.gguf"):
        GGUFFile(path).tensors()
    path.write_bytes(b"RIFF" + b"0" * 60)
    with pytest.raises(CheckpointError, match="no GGUF file"):
        GGUFFile(path)
