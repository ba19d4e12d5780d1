"""Homes, users, places and neighbours: what a machine may be like, and what is said where it cannot be."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from toy_run import write_toy_run

from mossrepro import cli
from mossrepro.data import alignment, corpus
from mossrepro.experiments import graph, reproduce, stages
from mossrepro.pipeline import Assistant, newest_run
from mossrepro.training import lightning_cli, metrics, runs
from mossrepro.utils import cache, io, locks
from mossrepro.utils.errors import ConfigError, DataError, DiskError

ROOT = Path(__file__).parents[2]
NOBODY = 54_321  # a user without an entry


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """Neither HOME nor an entry in the table of users."""

    def missing(uid):
        raise KeyError("nobody")

    monkeypatch.delenv("MOSSREPRO_HOME", raising=False)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", missing)


def test_without_a_home_folder_one_line_says_what_to_set(nowhere, capsys, monkeypatch, tmp_path):
    with pytest.raises(ConfigError, match="no home folder .* set MOSSREPRO_HOME"):
        cache.home()
    assert cli.main(["data", "make", "--size", "smoke"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and "set MOSSREPRO_HOME" in said[0]
    monkeypatch.setenv("MOSSREPRO_HOME", str(tmp_path))
    assert cache.home() == tmp_path


def test_a_relative_home_is_the_same_folder_from_everywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("cache", "./cache", "x y/../cache"):
        monkeypatch.setenv("MOSSREPRO_HOME", name)
        assert cache.home().is_absolute() and os.path.normpath(cache.home()) == str(tmp_path / "cache")
    made = cache.cached("toys", {}, lambda folder: None)
    monkeypatch.chdir("/")
    assert made.is_dir()  # the name stands in parts.json


@pytest.mark.parametrize("name", ["with space", "ümlaut", "hash #1", "{x}", "[y]", "'q'", "-o", "*"])
def test_any_name_of_a_folder_goes_through_the_command_line(name, tmp_path):
    folder = tmp_path / name / "codec"
    folder.mkdir(parents=True)
    words = ["-c", str(ROOT / "configs" / "tokenise.yaml"), "-c", str(ROOT / "configs" / "smoke.yaml")]
    flags = [f"--model.init_args.codec={folder}", f"--data.init_args.corpus={folder}", f"--output={folder}"]
    config = lightning_cli.parse([*words, *flags])
    assert config["output"] == config["model"]["init_args"]["codec"] == str(folder)


def as_nobody(work) -> str:
    """What `work` says on standard error, with its exit code, as a user without an entry and without a home."""
    if os.getuid() != 0:
        pytest.skip("only root may become somebody else")
    read, write = os.pipe()
    child = os.fork()  # not a new interpreter: this one may lie in a folder of root's
    if not child:
        try:
            os.environ.pop("HOME", None)
            os.setgroups([]), os.setgid(NOBODY), os.setuid(NOBODY)
            sys.stderr = open(write, "w")
            print(f"exit code {work()}", file=sys.stderr)
            sys.stderr.flush()
        finally:
            os._exit(0)
    os.close(write)
    with open(read) as stream:
        said = stream.read()
    os.waitpid(child, 0)
    return said


def test_another_user_reads_a_cache_and_is_told_where_to_write(empty_home, tmp_path, monkeypatch):
    for folder in tmp_path.parents:
        if len(folder.parts) > 2:
            folder.chmod(0o755)
    tmp_path.chmod(0o755)
    monkeypatch.setattr(cli, "_report", lambda args: cache.cached("toys", {}, lambda folder: None) and 0)
    work = lambda: cli.main(["report"])  # noqa: E731
    said = as_nobody(work).splitlines()
    assert len(said) == 2 and said[1] == "exit code 2", said
    assert "Permission denied" in said[0] and "set MOSSREPRO_HOME to a folder that you can write to" in said[0]
    cache.cached("toys", {}, lambda folder: None)
    assert as_nobody(work) == "exit code 0\n"
    monkeypatch.delenv("MOSSREPRO_HOME")
    said = as_nobody(work).splitlines()
    assert len(said) == 2 and "set MOSSREPRO_HOME" in said[0] and said[1] == "exit code 2", said


def test_a_cache_that_is_removed_under_its_builder_is_one_line(empty_home):
    def build(folder):
        io.write_text(folder / "a", "x")
        (folder / "a").unlink()
        folder.rmdir()

    with pytest.raises(DiskError, match="was removed while it was made; give the same command again"):
        cache.cached("toys", {}, build)
    assert cache.cached("toys", {}, lambda folder: None).is_dir()


def test_temporary_files_stand_beside_their_target(tmp_path, monkeypatch):
    """$TMPDIR is on another disk, and full: nothing is moved from there."""
    monkeypatch.setenv("TMPDIR", "/proc")
    io.write_text(tmp_path / "a", "x")
    io.copy_file(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_text() == "x"


def test_a_file_that_two_write_at_once_is_one_of_theirs(tmp_path):
    """A neighbour's half-written file is not removed while the neighbour lives."""
    name = next(iter(_partials(tmp_path)))
    neighbour = tmp_path / name.replace(f".{os.getpid()}.", f".{os.getppid()}.")
    neighbour.write_bytes(b"half")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = tmp_path / name.replace(f".{os.getpid()}.", f".{dead.pid}.")
    left.write_bytes(b"half")
    io.write_text(tmp_path / "a", "whole")
    assert neighbour.exists() and not left.exists() and (tmp_path / "a").read_text() == "whole"


def _partials(folder: Path) -> list[str]:
    """The names of temporary files of folder/a, as its writer gives them."""
    found = []
    io.write_atomic(folder / "a", lambda file: found.extend(path.name for path in folder.glob(".*.partial")))
    return found


def test_a_pipe_is_written_to_and_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()))
    reader.start()
    io.write_text(tmp_path / "pipe", "through")
    reader.join(10)
    assert read == ["through"] and (tmp_path / "pipe").is_fifo()


HOLD = "import sys; from mossrepro.utils.locks import hold_lock; file = hold_lock(sys.argv[1], 0, OSError())\n"
HOLD += "print('held', flush=True); sys.stdin.read()"


@pytest.mark.skipif(not Path("/proc/locks").is_file(), reason="the system does not list its locks")
def test_a_waiting_lock_says_whom_it_waits_for(empty_home, capsys, monkeypatch):
    lock = empty_home / "toys" / f"{cache.digest({})}.lock"
    lock.parent.mkdir()
    command = [sys.executable, "-c", HOLD, str(lock)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True, env=environment) as process:
        assert process.stdout.readline() == "held\n"
        monkeypatch.setattr(time, "sleep", lambda seconds: process.stdin.close() if seconds == 0.1 else None)
        assert cache.cached("toys", {}, lambda folder: None).is_dir()
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"mossrepro: waiting; {empty_home}/toys/{cache.digest({})}: another process is making it")
    assert f"(process {process.pid}: {sys.executable} -c import sys;" in said
    with locks.hold_lock(lock, 0, DataError("busy")), pytest.raises(DataError, match=f"busy .process {os.getpid()}:"):
        locks.hold_lock(lock, 0, DataError("busy"))


def test_the_newest_run_is_the_one_that_was_finished_last(tmp_path, capsys):
    for name in ("first", "second", "copied"):
        metrics.record(tmp_path / name, metrics.Metric("x", "x", 1.0))
        runs.write_record(tmp_path / name, "toy")
        (tmp_path / name / "parts.json").write_text("{}")
        time.sleep(0.01)
    for name in ("copied", "first"):  # copied later: the copy has a new time on the disk
        os.utime(tmp_path / name / "parts.json")
    (tmp_path / "copied" / "run.json").write_text((tmp_path / "first" / "run.json").read_text())
    assert newest_run(tmp_path).name == "second"
    for odd in ("", "[", "3", '{"finished": NaN}', '{"finished": "x"}', '{"finished": 1e999}', None):
        path = tmp_path / "first" / "run.json"  # then the disk's time counts
        path.write_text(odd) if odd is not None else path.unlink()
        assert runs.finished(tmp_path / "first") == (tmp_path / "first" / "parts.json").stat().st_mtime
    assert newest_run(tmp_path).name == "first"


def collect(folder: Path, version: int) -> None:
    """The end of `reproduce`, in a process or thread of its own."""
    measured = folder / f"measured{version}"
    for path in ("facts/x.json", "wav/a.wav", "wav/index.json", "families.json"):
        (measured / path).parent.mkdir(parents=True, exist_ok=True)
        (measured / path).write_text(str(version))
    chain = SimpleNamespace(parts=lambda: {"codec": f"codec{version}"}, costs={}, cached=lambda *_: measured)
    chain.size = SimpleNamespace(name=f"size{version}")
    reproduce._collect(chain, folder / "run")


def test_many_that_finish_one_run_leave_the_run_of_one(tmp_path):
    errors = []

    def work(version):
        try:
            for _ in range(3):
                collect(tmp_path, version)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(version,)) for version in range(5)]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    assert not errors
    run = tmp_path / "run"
    codec = json.loads((run / "parts.json").read_text())["codec"]
    found = {(run / name).read_text() for name in ("facts/x.json", "wav/a.wav", "wav/index.json", "families.json")}
    assert found == {codec.removeprefix("codec")} and runs.read_record(run)["size"] == f"size{found.pop()}"
    assert not list(run.glob(".new*")) and not list(run.rglob("*.partial")) and not list(run.rglob("*.old"))


TWICE = """
import sys, time
from mossrepro.utils import cache, io
def build(folder):
    print("built", flush=True)
    time.sleep(0.3)
    io.write_text(folder / "a", "x")
print(cache.cached("toys", {"n": 1}, build))
"""


def test_of_two_that_want_one_folder_one_makes_it(empty_home):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", TWICE]
    many = [subprocess.Popen(command, env=environment, stdout=-1, stderr=-1, text=True) for _ in range(3)]
    said = [process.communicate()[0].split() for process in many]
    assert sum("built" in words for words in said) == 1 and len({words[-1] for words in said}) == 1


def test_a_torn_line_is_cut_and_not_fatal(tmp_path, empty_home, monkeypatch):
    """A power cut or SIGKILL leaves half a line; a last line that is whole and has no end is kept."""
    monkeypatch.setattr(alignment, "align_phones", lambda wave, text: [("W", 0.0, 0.1)])
    monkeypatch.setattr(alignment, "_CHUNK", 1)
    wave = 0.1 * np.sin(np.arange(1_600) / 9).astype(np.float32)
    with corpus.CorpusWriter(tmp_path / "c") as writer:
        for i in range(3):
            writer.add(f"clip{i}", wave, 16_000, "one", "me", "train")
    manifest = tmp_path / "c" / "manifest.jsonl"
    whole = manifest.read_bytes()
    made = alignment.phone_times(tmp_path / "c", workers=1)
    partial = made.with_name(f"{made.name}.partial")
    for torn in (b'{"id": "clip1", "pho', b'{"id": "clip1", "phones": []}', b"\x00\x00\x00", b""):
        made.rename(partial)
        first = (partial / "phones.jsonl").read_bytes().splitlines(True)[0]
        (partial / "phones.jsonl").write_bytes(first + torn)
        assert alignment.phone_times(tmp_path / "c", workers=1) == made
        assert sorted(alignment.read_phones(made)) == ["clip0", "clip1", "clip2"], torn
    manifest.write_bytes(whole[:-20])
    assert [clip.id for clip in corpus.read_manifest(tmp_path / "c")] == ["clip0", "clip1"]  # its readers go on
    manifest.write_bytes(whole[:-1])
    with corpus.CorpusWriter(tmp_path / "c") as writer:  # written by hand, the last line without an end
        assert len(writer.ids) == 3
    assert manifest.read_bytes() == whole


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"seconds": "x"}', '{"seconds": null, "hardware": 3}', "{}"])
def test_costs_that_nobody_can_read_cost_nothing(text, empty_home):
    chain = graph.StageGraph.__new__(graph.StageGraph)
    chain.costs, chain._counted = {}, set()
    partial = empty_home / "toys" / f"{cache.digest({})}.partial"
    partial.mkdir(parents=True)
    (partial / "cost.json").write_text(text)
    made = chain.cached("codec", "toys", {}, lambda folder: None)
    assert stages.read_cost(made)["seconds"] >= 0 and chain.costs["codec"]["minutes"] >= 0


def test_a_read_only_run_and_cache_answer(tmp_path, monkeypatch):
    """Nothing is written beside a run that answers, or into the cache of its parts."""
    monkeypatch.setenv("MOSSREPRO_HOME", str(tmp_path / "home"))
    run = write_toy_run(tmp_path / "runs" / "toy", tmp_path / "home")
    monkeypatch.setattr(io, "_put", lambda *_: pytest.fail("writes"))
    before = sorted(tmp_path.rglob("*"))
    Assistant.from_run(run, "cpu")
    assert sorted(tmp_path.rglob("*")) == before
