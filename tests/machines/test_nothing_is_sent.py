"""Nothing is sent anywhere (SECURITY.md): packages that report what they are used for are told not to."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# What makes onnxruntime keep silent by itself; a user's machine has none of them.
SILENT = (
    "CI",
    "GITHUB_ACTIONS",
    "TF_BUILD",
    "ORT_RUNNING_UNIT_TESTS",
    "ORT_DISABLE_TELEMETRY",
    "HF_HUB_DISABLE_TELEMETRY",
)


def left_behind(code: str, folder: Path) -> list[str]:
    """The files that a process leaves in its home and its folder for temporary files."""
    environment = {name: value for name, value in os.environ.items() if name not in SILENT}
    environment |= {"HOME": str(folder), "XDG_CACHE_HOME": str(folder / ".cache"), "TMPDIR": str(folder)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("first", ["mossrepro", "mossrepro.cli", "mossrepro.speech.voices"])
def test_onnxruntime_keeps_no_record_of_its_user(first, tmp_path):
    """From 1.29 on it makes an id of the machine and a store of events as soon as it is imported, and uploads them."""
    pytest.importorskip("onnxruntime")
    session = "onnxruntime.SessionOptions(), onnxruntime.get_available_providers()"
    assert left_behind(f"import {first}, onnxruntime; {session}", tmp_path) == []


def test_who_wants_to_report_may(tmp_path):
    """A choice that the user has made stays."""
    code = "from os import environ as e; e['ORT_DISABLE_TELEMETRY'] = '0'; import mossrepro; "
    left_behind(code + "assert (e['ORT_DISABLE_TELEMETRY'], e['HF_HUB_DISABLE_TELEMETRY']) == ('0', '1')", tmp_path)
