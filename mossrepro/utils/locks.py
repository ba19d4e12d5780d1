"""Locks: a file or folder that only one process at a time writes to. A waiting process says whom it waits for."""

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from mossrepro.utils.errors import CheckpointError, MossError, visible

_LONGEST = 120  # characters of another process's command line that are shown


@contextlib.contextmanager
def exclusive(folder: str | Path, seconds: float = 120.0) -> Iterator[None]:
    """Holds `folder/.lock` so that two processes never write to one folder; waits up to `seconds` for another one.

    Raises:
        CheckpointError: another process still holds it after `seconds`.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    busy = CheckpointError(f"{folder}: another process is writing to it")
    with hold_lock(Path(folder) / ".lock", seconds, busy):
        yield


def hold_lock(path: str | Path, seconds: float, busy: MossError) -> BinaryIO:
    """Locks a file and returns it, open for appending, unbuffered; the lock ends when it is closed or the process ends.

    Args:
        path: the file; made where there is none.
        seconds: how long another process is waited for; infinity: until it ends.
        busy: raised when it still holds the lock then, with the process that does where the system tells.
    """
    deadline, announced = time.monotonic() + seconds, False
    while True:
        file = open(path, "ab", buffering=0)
        if _try_lock(file) and _is_at(file, path):
            return file
        who = holder(file)
        file.close()  # another process has it, or had it and put a new file in its place
        if time.monotonic() > deadline:
            raise type(busy)(f"{busy}{who}")
        if not announced:
            limit = f" up to {seconds:.0f} s" if seconds != float("inf") else ""
            print(visible(f"mossrepro: waiting{limit}; {busy}{who}"), file=sys.stderr)
            announced = True
        time.sleep(0.1)


def holder(file: BinaryIO) -> str:
    """The process that holds the lock of an open file: " (process 17: mossrepro reproduce)"; "" where none is known.

    Linux lists all locks by the file's number.
    """
    try:
        locks = Path("/proc/locks").read_text().splitlines()
        number = str(os.fstat(file.fileno()).st_ino)
    except OSError:
        return ""
    for line in locks:  # 1: FLOCK  ADVISORY  WRITE 708 08:01:131 0 EOF; one that waits has "->" as its second word
        words = line.split()
        if len(words) > 5 and words[1] == "FLOCK" and words[5].rpartition(":")[2] == number and words[4].isdecimal():
            return f" (process {words[4]}{_command(words[4])})"
    return ""


def _command(number: str) -> str:
    """ ": " and the command line of a process; "" where it is not told."""
    try:
        words = Path(f"/proc/{number}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return ""
    text = " ".join(words).strip()
    return f": {text if len(text) <= _LONGEST else text[:_LONGEST] + '...'}" if text else ""


def _is_at(file: BinaryIO, path: str | Path) -> bool:
    """Whether an open file is the one of that name: another process may have removed or replaced it."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _try_lock(file: Any) -> bool:
    """An exclusive lock that the system drops when the process ends, however it ends."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        pass
    return True
