"""Whatever goes wrong, the command line says one line, and its exit code says whose fault it is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mossrepro import cli
from mossrepro.utils.errors import AudioError

ROOT = Path(__file__).parents[2]


def fails(monkeypatch, error: BaseException) -> int:
    """The exit code of a verb that raises `error`."""

    def verb(args):
        raise error

    monkeypatch.setattr(cli, "_report", verb)
    return cli.main(["report"])


def test_a_fault_of_ours_is_one_line_and_exit_code_70(monkeypatch, capsys):
    monkeypatch.delenv("MOSSREPRO_DEBUG", raising=False)
    assert fails(monkeypatch, KeyError("bug")) == 70
    (line,) = capsys.readouterr().err.splitlines()
    assert "KeyError: 'bug'" in line and "test_command_line.py:" in line
    assert "report it" in line and "MOSSREPRO_DEBUG=1" in line
    monkeypatch.setenv("MOSSREPRO_DEBUG", "1")
    assert fails(monkeypatch, KeyError("bug")) == 70
    said = capsys.readouterr().err
    assert "Traceback" in said and "raise error" in said and said.splitlines()[-1] == line


def test_a_file_that_the_system_refuses_is_named(monkeypatch, capsys):
    assert fails(monkeypatch, PermissionError(13, "Permission denied", "corpora/mine")) == 2
    assert capsys.readouterr().err == "mossrepro: corpora/mine: Permission denied\n"
    assert fails(monkeypatch, OSError(28, "No space left on device")) == 2
    assert capsys.readouterr().err == "mossrepro: No space left on device\n"
    assert fails(monkeypatch, OSError("a socket")) == 70


def test_no_message_moves_the_cursor_or_fills_two_lines(monkeypatch, capsys):
    assert fails(monkeypatch, AudioError("a\nb\x1b[2J\u202e\udce9.wav: is empty")) == 2
    assert capsys.readouterr().err == "mossrepro: a\\nb\\x1b[2J\\u202e\\udce9.wav: is empty\n"


@pytest.mark.parametrize("wish", ["none", "0", "-1", "²", "1e3", "9" * 30])
def test_threads_that_are_no_number_are_one_line(wish):
    environment = {**os.environ, "MOSSREPRO_THREADS": wish, "PYTHONPATH": str(ROOT)}
    environment.pop("OMP_NUM_THREADS", None)
    words = [sys.executable, "-m", "mossrepro", "--version"]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith(f"mossrepro: MOSSREPRO_THREADS={wish!r} is not a")


NO_SIZES = ["{}", "size: {}", "size: {name: 3}", "size: {name: [a]}", "size: null", "base: smoke\nsize: {name: null}"]


@pytest.mark.parametrize("text", NO_SIZES)
@pytest.mark.parametrize("verb", [["report"], ["eval", "lm"], ["ablate", "no_split"], ["reproduce", "--backbone", "."]])
def test_a_file_that_is_no_size_is_one_line(verb, text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(text)
    assert cli.main([*verb, "--size", "mine.yaml"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("mossrepro: mine.yaml: ") and err.count("\n") == 1, err


def test_a_backbone_that_is_a_link_in_a_circle_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("round").symlink_to("round")
    for folder in ("round", "a\0b"):
        assert cli.main(["reproduce", "--size", "smoke", "--backbone", folder]) == 2
        err = capsys.readouterr().err
        assert "no shape of a text model" in err or "neither a name nor a hub folder" in err and err.count("\n") == 1
