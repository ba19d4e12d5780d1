"""A stage ends with the command that started it: asked to by SIGTERM or Ctrl-C, or killed, loaders included."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mossrepro import cli

TESTS = Path(__file__).parents[1]
SMALL = str(TESTS.parent / "configs" / "size" / "small.yaml")
STAGE = """
model: {class_path: toy_stage.Task, init_args: {pause: 0.2}}
data: {class_path: toy_stage.Data, init_args: {num_workers: 1}}
trainer: {max_steps: 5000, accelerator: cpu, enable_progress_bar: false}
"""
REPRODUCE = """
import signal, sys
from mossrepro import cli
from mossrepro.experiments.processes import run_stage
signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background of a script have it ignored
cli._report = lambda args: run_stage("toy", sys.argv[1:])
sys.exit(cli.main(["report"]))
"""
CASES = [(signal.SIGTERM, "fit predict"), (signal.SIGKILL, "fit predict")]
CASES += [pytest.param(signal.SIGINT, "fit predict", marks=pytest.mark.slow)]  # of the command alone, not of a terminal
CASES += [pytest.param(number, "validate", marks=pytest.mark.slow) for number in (signal.SIGTERM, signal.SIGKILL)]


@pytest.fixture
def started(tmp_path, verbs):
    """A command that runs a stage in a process of its own, one for every verb, all of them at work."""
    (tmp_path / "stage.yaml").write_text(STAGE)
    commands = {}
    for verb in verbs.split():
        options = ["-c", str(tmp_path / "stage.yaml"), "-c", SMALL, "--output", str(tmp_path / verb)]
        environment = {**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}", "TOY_MARK": str(tmp_path / f"{verb}.at")}
        with open(tmp_path / f"{verb}.err", "w") as errors:
            command = [sys.executable, "-c", REPRODUCE, verb, *options]
            commands[verb] = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=errors)
    try:
        assert wait_for(lambda: all((tmp_path / f"{verb}.at").exists() for verb in commands), 300)
        yield commands
    finally:
        for number in alive(tmp_path):  # of a test that failed
            os.kill(number, signal.SIGKILL)
        for command in commands.values():
            command.wait()


def wait_for(done, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not done() and time.monotonic() < deadline:
        time.sleep(0.05)
    return done()


def alive(folder: Path) -> list[int]:
    """The processes of these commands, those of their loaders included: all of them inherit $TOY_MARK."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            state = (entry.parent / "stat").read_text().rpartition(")")[2].split()[0]
            if state != "Z" and f"TOY_MARK={folder}/".encode() in entry.read_bytes():
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize(("number", "verbs"), CASES)
def test_a_stage_ends_with_the_command_that_started_it(started, tmp_path, number, capsys, monkeypatch) -> None:
    assert len(alive(tmp_path)) >= 2 * len(started) + ("fit" in started)  # and loaders
    for command in started.values():
        command.send_signal(number)
    codes = {verb: command.wait(60) for verb, command in started.items()}
    assert set(codes.values()) == {-9 if number == signal.SIGKILL else 130}, codes
    # A second, and five for a loader whose parent was killed, on an idle machine; without an end they take an hour.
    assert wait_for(lambda: not alive(tmp_path), 60), alive(tmp_path)
    said = {verb: (tmp_path / f"{verb}.err").read_text() for verb in started}
    assert not any("Traceback" in text for text in said.values()), said
    assert all("mossrepro: interrupted" in text for verb, text in said.items() if verb != "fit" or number != 9)
    if "fit" not in said:
        return
    assert "the same command continues from" in said["fit"]
    step = torch.load(tmp_path / "fit" / "ckpt" / "last.ckpt", weights_only=True)["global_step"]
    assert step > 0 and not (tmp_path / "fit" / "done.json").exists()
    if number == signal.SIGKILL:  # nobody trains into the folder any more
        monkeypatch.syspath_prepend(str(TESTS))
        (tmp_path / "short.yaml").write_text("trainer: {limit_val_batches: 0, max_time: {seconds: 1}}")
        again = ["fit", "-c", str(tmp_path / "stage.yaml"), "-c", SMALL, "-c", str(tmp_path / "short.yaml")]
        assert cli.main([*again, "--output", str(tmp_path / "fit")]) == 0
        assert "continuing from" in capsys.readouterr().err
