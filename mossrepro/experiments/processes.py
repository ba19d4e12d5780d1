"""Stages in processes of their own, through the same command line as a user's."""

import os
import subprocess
import sys

from mossrepro.utils.errors import MossError


def run_stage(name: str, arguments: list[str]) -> None:
    """Run a command of `mossrepro` as a stage, in a process of its own. MossError if it fails."""
    code = _run([sys.executable, "-m", "mossrepro", *arguments])
    if code in (130, -2):
        raise KeyboardInterrupt
    if code:
        raise MossError(f"stage {name} stopped with exit code {code}; what it had done is kept, run the command again")


def _run(command: list[str]) -> int:
    """The exit code of a verb in a process of its own. On Ctrl-C it is left the time to save, then the key goes on."""
    child = subprocess.Popen(command, env={**os.environ, "MOSSREPRO_CHILD": "1"})
    try:
        return child.wait()
    except KeyboardInterrupt:
        child.wait()
        raise
