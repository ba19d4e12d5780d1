"""Stages in processes of their own, through the same command line as a user's."""

import os
import signal
import subprocess
import sys

from mossrepro.utils.errors import MossError
from mossrepro.utils.signals import CHILD

_STOPPED = (130, -signal.SIGINT, -signal.SIGTERM)  # exit codes of a stage that was asked to stop


def run_stage(name: str, arguments: list[str]) -> None:
    """Run a command of `mossrepro` as a stage, in a process of its own.

    Raises:
        MossError: the stage failed; it has said why in a line of its own.
        KeyboardInterrupt: this process or the stage was stopped by SIGINT or SIGTERM. The stage has saved and ended.
    """
    code = _run([sys.executable, "-m", "mossrepro", *arguments])
    if code in _STOPPED:
        raise KeyboardInterrupt
    if code:
        mend = "its own line says why" if code in (2, 70) else "run the command again"
        raise MossError(f"stage {name} stopped with exit code {code}; what it had done is kept, {mend}")


def _run(command: list[str]) -> int:
    """The exit code of a verb in a process of its own. When this one is stopped, so is that, with time to save."""
    child = subprocess.Popen(command, env={**os.environ, CHILD: str(os.getpid())})
    try:
        return child.wait()
    except KeyboardInterrupt:
        child.terminate()  # Ctrl-C in a terminal has reached it too; SIGTERM and `kill -INT` came to this process only
        child.wait()
        raise
