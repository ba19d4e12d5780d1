"""Files of any content: read, or refused in one line; no traceback, no memory that the file does not fill."""

import io
import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hostile_files import JSON, changed, check, often
from hostile_sounds import RATE, WAVE, pcm
from hypothesis import strategies as st

from mossrepro.data.corpus import MANIFEST, Clip, read_manifest
from mossrepro.data.layouts import find_recordings
from mossrepro.data.tables import read_table
from mossrepro.data.token_store import TokenStore
from mossrepro.report.claims import read_claims
from mossrepro.training import sizes
from mossrepro.training.config import changed_size, read_config
from mossrepro.utils import audio
from mossrepro.utils.errors import MossError


@often
@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3", "aiff", "au", "caf"])
def test_headers_of_sound(suffix, examples, tmp_path):
    path, buffer = tmp_path / f"x.{suffix}", io.BytesIO()
    audio.soundfile.write(buffer, WAVE[:2_000], RATE, format=suffix.upper())

    def read(data: bytes) -> None:
        path.write_bytes(data)
        wave = audio.load(path)
        assert wave.dtype == np.float32 and np.isfinite(wave).all() and np.abs(wave).max() <= 1

    check(examples, changed(buffer.getvalue(), 60), read)


@often
def test_wavs_of_any_header(examples, tmp_path):
    """Channels, rate, bits and lengths that do not fit each other."""
    numbers = st.sampled_from([0, 1, 2, 3, 8, 24, 255, 1_024, 65_535]) | st.integers(0, 65_535)
    lengths = st.sampled_from([0, 1, 4_000, 0x7FFFFFFF, 0xFFFFFFFF]) | st.integers(0, 1 << 32 - 1)
    rates = st.sampled_from([0, 1, 100, 8_000, 16_000, 768_000, 0x7FFFFFFF, 0xFFFFFFFF])

    def read(values) -> None:
        kind, channels, rate, bytes_, frame, bits, whole, length = values
        head = struct.pack(
            "<4sI4s4sIHHIIHH", b"RIFF", whole, b"WAVE", b"fmt ", 16, kind, channels, rate, bytes_, frame, bits
        )
        (tmp_path / "x.wav").write_bytes(head + b"data" + struct.pack("<I", length) + pcm(WAVE[:2_000]))
        audio.load(tmp_path / "x.wav")

    kinds = st.sampled_from([1, 3, 6, 7, 0x11, 0xFFFE])
    bits = st.sampled_from([0, 4, 8, 16, 24, 32, 64])
    check(examples, st.tuples(kinds, numbers, rates, lengths, numbers, bits, lengths, lengths), read)


@often
def test_manifests(examples, tmp_path):
    good = json.loads(Clip("a", "audio/a.flac", RATE, 1.0, "x", "me", "train", [["x", 0.0, 1.0]]).line())
    fields = st.dictionaries(st.sampled_from(sorted(good)), JSON, max_size=2)
    lines = (fields.map(lambda change: {**good, **change}) | JSON).map(json.dumps) | st.text(max_size=20)

    def read(some: list[str]) -> None:
        (tmp_path / MANIFEST).write_text("\n".join(some), "utf-8", "surrogatepass")
        clips = read_manifest(tmp_path)
        assert len({clip.id for clip in clips}) == len(clips)
        for clip in clips:
            assert (
                clip.seconds > 0 and json.loads(clip.line().encode()) and type(clip.text) is type(clip.speaker) is str
            )
            assert os.path.realpath(tmp_path / clip.audio).startswith(os.path.realpath(tmp_path) + "/")

    check(examples, st.lists(lines, max_size=3), read)


@often
def test_token_stores(examples, tmp_path):
    (tmp_path / "codes.u16").write_bytes(bytes(range(32)) * 2)
    number = st.sampled_from([0, 1, 3, 32, 33, -1, 1 << 40, 1e308]) | JSON
    row = st.fixed_dictionaries({"id": st.sampled_from(["a", "b"]) | JSON, "start": number, "length": number})
    rows = st.lists(row.map(json.dumps) | JSON.map(json.dumps) | st.text(max_size=9), max_size=3)

    def read(files) -> None:
        meta, lines = files
        (tmp_path / "store.json").write_text(json.dumps(meta))
        (tmp_path / "index.jsonl").write_text("".join(f"{line}\n" for line in lines), "utf-8", "surrogatepass")
        store = TokenStore(tmp_path)
        for name in store:
            assert len(store[name]) == store.length(name) <= 32

    meta = st.fixed_dictionaries({"codes": st.sampled_from([1, 8_192, 65_536, 65_537]) | JSON}) | JSON
    check(examples, st.tuples(meta, rows), read)


@often
@pytest.mark.parametrize("name", ["metadata.csv", "transcripts.tsv", "transcripts.csv", "1.trans.txt"])
def test_tables(name, examples, tmp_path):
    (tmp_path / "a.wav").write_bytes(b"x")
    parts = st.sampled_from(
        ["a", "a.wav", "/", "..", "../a.wav", "\0", "|", "\t", ",", '"', "\n", "\r", "file", "text", " ", "~"]
    )
    text = st.lists(parts | st.text(max_size=4), max_size=12).map("".join)

    def read(data: bytes) -> None:
        (tmp_path / name).write_bytes(data)
        if name[0] != "1":
            read_table(tmp_path / name)
        for recording in find_recordings(tmp_path).recordings:
            assert "\0" in str(recording.path) or os.path.realpath(recording.path).startswith(
                os.path.realpath(tmp_path)
            )

    check(examples, text.map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(max_size=30), read)


SYNTAX = ": |:\n  |\n|- |[|]|{|}|&a |*a|<<: *a|!!binary |!!int |!!python/object:os.system |2001-99-99|1e999|.nan".split(
    "|"
)
WORDS = "size base small name backbone shape id low codec steps ${size} ${oc.env:HOME} ~ ' \" # | > % @ ? ,".split()
PIECES = [*SYNTAX, *WORDS, " ", "\t", "\x85", "\ufeff", "9" * 50, "x" * 300]
YAML = st.lists(st.sampled_from(PIECES) | st.text(max_size=3), max_size=12).map("".join)


@often
def test_yaml(examples, tmp_path):
    path = tmp_path / "x.yaml"

    def read(text: str) -> None:
        path.write_text(text, "utf-8", "surrogatepass")
        for reader in (read_config, read_claims, lambda path: sizes.build_size(changed_size(path), "x")):
            try:
                reader(path)
            except MossError as error:
                assert str(error).strip()

    keys = st.sampled_from(["size", "base", "name", "backbone", "shape", "codec", "id", "low", "data"])
    plain = st.recursive(JSON, lambda inner: st.dictionaries(keys, inner, max_size=3), max_leaves=5).map(json.dumps)
    check(examples, YAML | plain, read)


@pytest.mark.parametrize("reader", [read_config, read_claims, changed_size])
def test_a_yaml_that_multiplies_itself_is_refused_at_once(reader, tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    for name, text in {
        "laughs": "\n".join(lines),
        "round": "a: &a [*a]",
        "deep": "[" * 50_000,
        "maps": "{a: " * 50_000,
    }.items():
        path: Path = tmp_path / f"{name}.yaml"
        path.write_text(text)
        with pytest.raises(MossError, match=f"{name}.yaml"):
            reader(path)
