"""Two `reproduce` in one folder, with one empty cache: both end well, and what they leave is one whole run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mossrepro import cli
from mossrepro.experiments import stages
from mossrepro.training import metrics, runs

ROOT = Path(__file__).parents[2]
COMMAND = ["reproduce", "--size", "smoke"]


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(5))
def test_two_reproduce_at_once_leave_one_whole_run(attempt, tmp_path, monkeypatch):
    """The second one starts while the first is at another place each time."""
    home, work = tmp_path / "home", tmp_path / "work"
    work.mkdir()
    environment = {**os.environ, "MOSSREPRO_HOME": str(home), "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "mossrepro", *COMMAND]

    def start(seconds: float) -> subprocess.Popen:
        line = f"import subprocess, sys, time; time.sleep({seconds}); sys.exit(subprocess.call({words!r}))"
        command = [sys.executable, "-c", line]
        return subprocess.Popen(command, cwd=work, env=environment, stdout=-1, stderr=-1, text=True)

    both = [start(0), start(7 * attempt)]
    said = [process.communicate(timeout=3_600) for process in both]
    for process, (_, err) in zip(both, said, strict=True):
        assert process.returncode in (0, 1) and "Traceback" not in err and "fault of ours" not in err, err[-3_000:]
    assert both[0].returncode == both[1].returncode  # the same claims hold
    left = [path.name for path in [*home.rglob("*"), *work.rglob("*")]]
    assert not [name for name in left if name.endswith((".partial", ".old")) or name.startswith(".new")]
    run = work / "runs" / "smoke"
    parts = runs.read_parts(run)
    assert all(Path(folder).is_dir() for folder in parts.values()) and (run / "report.html").is_file()
    assert metrics.read_metrics(run) and json.loads((run / "stages.json").read_text())
    monkeypatch.setenv("MOSSREPRO_HOME", str(home))
    monkeypatch.chdir(work)
    monkeypatch.setattr(stages, "run_stage", lambda *_: pytest.fail("every stage is cached"))
    assert cli.main(COMMAND) == both[0].returncode
    for stage in ("codec", "stage1", "sft", "flow", "vocoder"):  # made once, not by each
        assert len(list(home.glob(f"fit-{stage}/*/done.json"))) == 1, stage
