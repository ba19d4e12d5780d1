"""Our reader of GGUF files against the gguf package's own, on a small file written by the package."""

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


@pytest.mark.parametrize("kept", [0, 3, 40, -30])
def test_a_broken_file_is_named(path, kept):
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match="toy.gguf"):
        GGUFFile(path).tensors()
    path.write_bytes(b"RIFF" + b"0" * 60)
    with pytest.raises(CheckpointError, match="no GGUF file"):
        GGUFFile(path)
