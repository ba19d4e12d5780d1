"""Weights, settings, tokenizers and checkpoints of any content: read, or refused in one line, with bounded memory."""

import io
import json
import struct

import numpy as np
import pytest
import torch
from gguf_toys import mergeable, write_gguf
from hostile_files import JSON, changed, check, often
from hypothesis import strategies as st
from safetensors.torch import save_file
from toy_run import write_toy_run

from mossrepro.codec.model import SpeechCodec
from mossrepro.data.token_store import read_table
from mossrepro.lm import checkpoint
from mossrepro.lm.tokenizer import mini_tokenizer, open_tokenizer
from mossrepro.training.callbacks import AtomicCheckpointIO
from mossrepro.utils.errors import CheckpointError
from mossrepro.utils.gguf import GGUFFile
from mossrepro.utils.safetensors_io import INDEX, Shards
from mossrepro.vocoder.speech_decoder import SpeechDecoder


@often
def test_headers_of_safetensors(examples, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file({"a.weight": torch.zeros(3, 4), "b": torch.ones(2, dtype=torch.bfloat16)}, path)
    good = path.read_bytes()
    head = st.fixed_dictionaries(
        {"dtype": st.sampled_from(["F32", "BF16", "I64", "F8_E4M3", "X"]) | JSON,
         "shape": st.lists(st.sampled_from([0, 1, 3, 4, -1, 1 << 40, 1 << 63]), max_size=3) | JSON,
         "data_offsets": st.lists(st.sampled_from([0, 4, 48, 52, -1, 1 << 63]), max_size=3) | JSON}
    )  # fmt: skip
    made = st.dictionaries(st.sampled_from(["a", "b", "__metadata__", ""]), head | JSON, max_size=3).map(
        lambda plain: (text := json.dumps(plain).encode()) and struct.pack("<Q", len(text)) + text + good[-52:]
    )

    def read(data: bytes) -> None:
        path.unlink()  # a file that is mapped into memory must not change
        path.write_bytes(data)
        shards = Shards(tmp_path)
        for name in shards.names:
            assert tuple(shards[name].shape) == shards.shape(name)

    check(examples, changed(good, len(good) - 53) | made, read)


@often
def test_indexes_of_safetensors(examples, tmp_path):
    save_file({"a": torch.zeros(2)}, tmp_path / "a.safetensors")
    files = st.sampled_from(["a.safetensors", "b.safetensors", "../a.safetensors", "/a.safetensors", "\0", ""]) | JSON
    maps = st.dictionaries(st.sampled_from(["a", "b"]), files) | JSON

    def read(plain) -> None:
        (tmp_path / INDEX).write_text(json.dumps(plain))
        Shards(tmp_path)

    check(examples, st.fixed_dictionaries({"weight_map": maps}) | JSON, read)


def speak(parts) -> None:
    SpeechDecoder.from_pretrained(parts("flow"), parts("vocoder"), torch.device("cpu")).speak([1, 2, 3])


def hear(parts) -> None:
    SpeechCodec.from_pretrained(parts("codec")).prepare_for_inference(torch.device("cpu")).encode(torch.ones(1, 2_000))


def think(parts) -> None:
    model, _ = checkpoint.from_pretrained(parts("sft"))
    model(torch.zeros(1, 3, 2, dtype=torch.int64))


NUMBERS = st.sampled_from([0, 1, 2, 3, 16, 64, -1, 0.5, 1e-300, 1e308, 10**30, 1 << 20, 1 << 62]) | JSON


@often
@pytest.mark.parametrize(("part", "use"), [("codec", hear), ("sft", think), ("flow", speak), ("vocoder", speak)])
def test_settings_of_a_part(part, use, examples, tmp_path):
    """Read with its weights, and used: what is refused is refused before that."""
    write_toy_run(tmp_path / "run", tmp_path)
    path = tmp_path / f"fit-{part}" / part / "config.json"
    good = json.loads(path.read_text())
    changes = st.dictionaries(st.sampled_from(sorted(good)), NUMBERS, min_size=1, max_size=2)
    torch.set_default_dtype(torch.float32)

    def read(plain) -> None:
        path.write_text(json.dumps(plain))
        with torch.inference_mode():
            use(lambda name: tmp_path / f"fit-{name}" / name)

    check(examples, changes.map(lambda change: {**good, **change}) | JSON, read)


def test_a_number_that_no_float_can_hold_is_refused_with_its_name(tmp_path):
    """Python reads whole numbers of any length from JSON, and PyTorch takes none beyond 64 bits."""
    write_toy_run(tmp_path / "run", tmp_path)
    for part, use in (("codec", hear), ("sft", think), ("flow", speak), ("vocoder", speak)):
        path = tmp_path / f"fit-{part}" / part / "config.json"
        good = json.loads(path.read_text())
        for name in sorted(name for name, value in good.items() if isinstance(value, float)):
            path.write_text(json.dumps({**good, name: 10**30}))
            with pytest.raises(CheckpointError, match=rf"config.json: {name}\b"):
                use(lambda name: tmp_path / f"fit-{name}" / name)
        path.write_text(json.dumps(good))


def test_a_whole_number_does_for_a_float(tmp_path):
    """As written by hand, or by another language's JSON: 0 for 0.0."""
    write_toy_run(tmp_path / "run", tmp_path)
    path = tmp_path / "fit-flow" / "flow" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "mel_mean": 0, "mel_std": 1, "temperature": 0}))
    speak(lambda name: tmp_path / f"fit-{name}" / name)


@often
def test_gguf(examples, tmp_path):
    path = tmp_path / "toy.gguf"
    write_gguf(
        path, mergeable(mini_tokenizer(["the old man and the sea", "system user assistant"], 300), 300), layers=1
    )
    good = path.read_bytes()

    def read(data: bytes) -> None:
        path.write_bytes(data)
        file = GGUFFile(path)
        assert sum(array.size for array in file.tensors().values()) <= 8 * len(data)
        checkpoint.load_gguf(path, 64, 1)

    check(examples, changed(good, 400) | changed(good, len(good)), read)


@often
def test_tables_of_numbers(examples, tmp_path):
    path, buffer = tmp_path / "codebook.npy", io.BytesIO()
    np.save(buffer, np.arange(12, dtype=np.float32).reshape(3, 4))
    shapes = st.lists(st.sampled_from([0, 1, 3, 4, -1, 1 << 40, 1 << 63, "x"]), max_size=3).map(tuple)
    kinds = st.sampled_from(["<f4", "<f8", ">f2", "|O", "<U9", "<c8", "V4", "x", "[('a', '<f4')]"])
    head = st.builds("{{'descr': {!r}, 'fortran_order': {}, 'shape': {}, }}".format, kinds, st.booleans(), shapes)

    def made(head: str) -> bytes:
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head) + 1) + head.encode() + b"\n" + bytes(48)

    def read(data: bytes) -> None:
        path.unlink(missing_ok=True)
        path.write_bytes(data)
        table = read_table(path)
        assert table.ndim == 2 and table.nbytes <= len(data)

    check(examples, changed(buffer.getvalue(), 128) | head.map(made), read)


@often
def test_checkpoints(examples, tmp_path):
    path, reader = tmp_path / "x.ckpt", AtomicCheckpointIO()
    plain = {"state_dict": {"a": torch.arange(8.0)}, "global_step": 3, "pytorch-lightning_version": "2.6.4"}
    torch.save(plain, path)
    good = path.read_bytes()
    fields = st.dictionaries(st.sampled_from(sorted(plain)), JSON, max_size=2)

    def read(file) -> None:
        path.unlink(missing_ok=True)
        path.write_bytes(file) if isinstance(file, bytes) else torch.save(file, path)
        assert reader.load_checkpoint(path)["global_step"] >= 0

    check(examples, changed(good, len(good)) | fields.map(lambda change: {**plain, **change}) | JSON, read)


@often
def test_tokenizers(examples, tmp_path):
    path = tmp_path / "tokenizer.json"
    mini_tokenizer(["the old man and the sea", "system user assistant"], 300).save(str(path))
    good = json.loads(path.read_text())
    words = sorted(good["model"]["vocab"])

    def read(plain) -> None:
        path.write_text(json.dumps(plain), "utf-8", "surrogatepass")
        try:
            tokenizer = open_tokenizer(path)
        except CheckpointError:
            return
        tokenizer.decode(tokenizer.encode("the sea").ids)

    outer = st.dictionaries(st.sampled_from(sorted(good)), JSON, max_size=2).map(lambda change: {**good, **change})
    ids = st.integers(0, 400) | JSON
    vocab = st.dictionaries(st.sampled_from(words) | st.text(max_size=3), ids, max_size=4)
    inner = st.fixed_dictionaries(
        {}, optional={"vocab": vocab, "merges": st.lists(st.lists(st.sampled_from(words), max_size=3)) | JSON,
                      "unk_token": JSON, "type": st.sampled_from(["BPE", "WordPiece", "Unigram", "x"])}
    )  # fmt: skip
    check(examples, outer | inner.map(lambda change: {**good, "model": {**good["model"], **change}}) | JSON, read)
