"""Atomic writing of files, and folders that only one process at a time writes to."""

import contextlib
import errno
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

from mossrepro.utils.errors import CheckpointError, DataError, MossError


def write_atomic(path: str | Path, write: Any) -> None:
    """Calls `write(file)` on a temporary binary file beside `path`, flushes it to the disk and renames it to `path`.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written; the old file at `path` is untouched.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for stale in path.parent.glob(f".{path.name}.*.partial"):  # left by a killed process
            stale.unlink(missing_ok=True)
        with open(partial, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except (OSError, RuntimeError) as error:  # torch wraps a failed write into RuntimeError
        partial.unlink(missing_ok=True)
        cause = _os_error(error)
        if cause is None:
            raise
        reason = "the disk is full" if cause.errno == errno.ENOSPC else cause.strerror
        kept = "; the last good one is kept" if path.exists() else ""
        raise CheckpointError(f"could not write {path}: {reason}{kept}") from error
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def _os_error(error: BaseException | None) -> OSError | None:
    """The OSError behind an exception, if there is one."""
    while error is not None:
        if isinstance(error, OSError):
            return error
        error = error.__cause__ or error.__context__
    return None


def read_lines(path: str | Path, whole: bool = False) -> list[str]:
    """The lines of a UTF-8 text file without their ends; a byte order mark is dropped.

    Lines end at newlines alone. `str.splitlines` also cuts at U+0085, U+2028 and others, which JSON and transcripts
    hold inside a line.

    Args:
        path: the file.
        whole: drop a last line that has no end: its writer was killed.

    Raises:
        DataError: the file is not UTF-8.
    """
    try:
        *lines, rest = Path(path).read_text("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text; convert it, for example with iconv -t utf-8") from error
    return lines if whole or not rest else [*lines, rest]


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
    """Locks a file and returns it, open for appending; the lock is gone when it is closed or the process ends.

    Args:
        path: the file; made where there is none.
        seconds: how long another process is waited for.
        busy: raised when it still holds the lock then.
    """
    deadline, announced = time.monotonic() + seconds, False
    while True:
        file = open(path, "ab")
        if _try_lock(file) and _is_at(file, path):
            return file
        file.close()  # another process has it, or had it and put a new file in its place
        if time.monotonic() > deadline:
            raise busy
        if not announced:
            print(f"mossrepro: waiting up to {seconds:.0f} s; {busy}", file=sys.stderr)
            announced = True
        time.sleep(0.1)


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
