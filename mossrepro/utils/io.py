"""Atomic writing of files, and folders that only one process at a time writes to."""

import contextlib
import errno
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

from mossrepro.utils.errors import CheckpointError


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


@contextlib.contextmanager
def exclusive(folder: str | Path, seconds: float = 120.0) -> Iterator[None]:
    """Holds `folder/.lock` so that two processes never write to one folder; waits up to `seconds` for another one.

    Raises:
        CheckpointError: another process still holds it after `seconds`.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    with open(Path(folder) / ".lock", "w") as file:
        deadline, announced = time.monotonic() + seconds, False
        while not _try_lock(file):
            if time.monotonic() > deadline:
                raise CheckpointError(f"{folder}: another process is writing to it")
            if not announced:
                print(f"mossrepro: waiting for another process that writes to {folder}", file=sys.stderr)
                announced = True
            time.sleep(0.1)
        yield


def _try_lock(file: Any) -> bool:
    """An exclusive lock that the system drops when the process ends, however it ends."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
