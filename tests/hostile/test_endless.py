"""Files without an end, or with more than any memory holds: a pipe is not waited for, a gap on the disk is not read."""

import json
import os
import signal
import time

import numpy as np
import pytest
import soundfile
from hostile_sounds import RATE, WAVE

from mossrepro import cli
from mossrepro.data.corpus import MANIFEST, read_manifest
from mossrepro.data.facts import read_facts
from mossrepro.data.script import read_script
from mossrepro.data.token_store import TokenStore, code_table
from mossrepro.report.claims import read_claims
from mossrepro.report.run_data import read_curve
from mossrepro.training.config import changed_size, read_config, read_shape
from mossrepro.training.metrics import read_metrics
from mossrepro.training.runs import read_parts
from mossrepro.utils.errors import MossError
from mossrepro.utils.gguf import GGUFFile
from mossrepro.utils.safetensors_io import INDEX, Shards
from mossrepro.utils.safetensors_io import read_config as read_settings


def pipe(path):
    os.mkfifo(path)


def gap(path):
    """A file of 8 GB that takes no room."""
    with open(path, "wb") as file:
        file.truncate(8 << 30)


def device(path):
    path.symlink_to("/dev/zero")


@pytest.fixture(params=[pipe, gap, device], ids=lambda make: make.__name__)
def endless(request):
    """Puts something without an end at a path; who reads it is stopped after ten seconds."""

    def late(*_):
        raise TimeoutError("reads for ever")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(10)
    yield request.param
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


READERS = {
    MANIFEST: read_manifest,
    "script.jsonl": read_script,
    "facts.json": read_facts,
    "store.json": TokenStore,
    "index.jsonl": TokenStore,
    "codebook.npy": lambda folder: code_table(folder, "codebook", 4),
    "parts.json": read_parts,
    "facts/x.json": read_metrics,
    "config.json": read_settings,
    INDEX: Shards,
    "model.safetensors": Shards,
    "x.gguf": lambda folder: GGUFFile(folder / "x.gguf"),
    "x.jsonl": lambda folder: read_curve(folder / "x.jsonl"),
    "claims.yaml": lambda folder: read_claims(folder / "claims.yaml"),
    "x.yaml": lambda folder: read_config(folder / "x.yaml"),
    "size.yaml": lambda folder: changed_size(folder / "size.yaml"),
    "hub/config.json": lambda folder: read_shape(folder / "hub"),
}


@pytest.mark.parametrize("name", READERS)
def test_a_file_without_an_end_is_refused_at_once(name, endless, tmp_path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    if name == "index.jsonl":
        (tmp_path / "store.json").write_text('{"codes": 64}')
    endless(tmp_path / name)
    started = time.monotonic()
    with pytest.raises(MossError) as caught:
        READERS[name](tmp_path)
    assert str(tmp_path) in str(caught.value) or name == "size.yaml"
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("name", ["x.txt", "transcripts.tsv", "1.trans.txt", "x.wav"])
def test_data_add_skips_it_alone(name, endless, tmp_path, capsys):
    here = tmp_path / "in"
    here.mkdir()
    for i, stem in enumerate(("a", "x")):
        soundfile.write(here / f"{stem}.wav", WAVE[: 4_000 + i], RATE)
        (here / f"{stem}.txt").write_text(stem)
    (here / name).unlink(missing_ok=True)
    endless(here / name)
    code = cli.main(["data", "add", str(here), "-o", str(tmp_path / "out"), "--outside"])
    said = capsys.readouterr().err
    table = name in ("transcripts.tsv", "1.trans.txt")  # with one nothing else is looked at
    assert code == (2 if table else 0) and name in said and "Traceback" not in said, said
    if not table:
        assert [clip.text for clip in read_manifest(tmp_path / "out")] == ["a"]


def test_large_files_of_many_lines_are_read(tmp_path):
    """A limit is for what nobody means: numbers of a table are no sizes of memory."""
    (tmp_path / "facts.json").write_text(" " * (1 << 20) + json.dumps([["capital", "France", "Paris", "A"]]))
    np.save(tmp_path / "codebook.npy", np.zeros((4, 1 << 16), np.float32))
    assert len(read_facts(tmp_path)) == 1 and code_table(tmp_path, "codebook", 4).shape == (4, 1 << 16)
