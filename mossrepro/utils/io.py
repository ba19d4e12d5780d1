"""Writing and reading of files: whatever is written is complete, or is not there.

Everything that the package writes goes through `write_atomic`, `replacing` or `AppendFile` (a test looks for others):
a full disk or a kill leaves the last good version, and the same command goes on afterwards.
"""

import contextlib
import errno
import json
import os
import re
import shutil
import stat
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mossrepro.utils.errors import DataError, DiskError, MossError

SHORT, LONG = 1 << 28, 1 << 32  # bytes that a file of settings and one of many lines may have
_STREAMS = ("/dev", "/dev/fd", "/proc/self/fd")  # folders of /dev/stdout and the like


def write_atomic(path: str | Path, write: Callable[["Sink"], Any], many: bool = False) -> None:
    """Calls `write(file)` on a temporary file beside `path`, flushes it to the disk and renames it to `path`.

    Args:
        path: the file; a device or pipe is written to as it is.
        write: gets an object with `write(bytes)`.
        many: it is one of thousands in its folder: spare the flush, and the look for what killed processes left.

    Raises:
        DiskError: the disk is full or the folder cannot be written; the old file at `path` is untouched.
    """
    path = Path(path)
    if _is_stream(path):
        return fill(path, write)
    with replacing(path, many) as partial:
        fill(partial, write)


def fill(partial: Path, write: Callable[["Sink"], Any]) -> None:
    """Calls `write(file)` on the file that `replacing` named."""
    with open(partial, "wb", buffering=0) as file:
        write(Sink(file))


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 file as `write_atomic` does."""
    write_atomic(path, lambda file: file.write(text.encode()))


def write_json(path: str | Path, value: Any, indent: int | None = 1) -> None:
    """Write plain data as a JSON file as `write_atomic` does."""
    write_text(path, json.dumps(value, indent=indent) + "\n")


def copy_file(source: str | Path, target: str | Path) -> None:
    """Copy a file's content as `write_atomic` writes; a folder as the target takes it under the same name."""
    source, target = Path(source), Path(target)
    with open(source, "rb") as file:
        into = target / source.name if target.is_dir() else target
        write_atomic(into, lambda out: shutil.copyfileobj(file, out, 1 << 20))


def copy_files(source: str | Path, target: str | Path) -> None:
    """Copy all files below a folder into another one, each as `copy_file` does; others there stay."""
    source, target = Path(source), Path(target)
    for path in sorted(source.rglob("*")):
        if path.is_file():
            copy_file(path, target / path.relative_to(source))


def move_in(source: str | Path, target: str | Path) -> None:
    """Put a file or folder in the place of another one on the same disk, which is removed. Takes no room."""
    source, target = Path(source), Path(target)
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    with _told(target):
        if target.is_dir() and not target.is_symlink():
            os.replace(target, old)
        os.replace(source, target)
    shutil.rmtree(old, ignore_errors=True)


class Sink:
    """What a writer is given. What stops it is an OSError that says why.

    It has no file descriptor on purpose: numpy and others would write past it and lose the reason.
    """

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, data: Any) -> int:
        """Write all bytes of an object that has them in one piece."""
        return _put(self._file, data)

    def flush(self) -> None:
        """Nothing is held back."""


def _put(file: Any, data: Any) -> int:
    """Write bytes to an unbuffered file, all of them: the one place that does (tests fill the disk here)."""
    view, done = memoryview(data), 0
    if view.nbytes:
        view = view.cast("B")
        while done < len(view):
            done += file.write(view[done:])
    return done


@contextlib.contextmanager
def replacing(path: str | Path, many: bool = False) -> Iterator[Path]:
    """The name of a temporary file beside `path` for the caller to write; then it is flushed and renamed to `path`.

    Args:
        path: the file that is to be.
        many: as of `write_atomic`.

    Raises:
        DiskError: as `write_atomic`.
    """
    path = Path(path)
    # A name of its own: that of the file may be as long as names can be, and hold any character.
    name = f".{zlib.crc32(os.fsencode(path.name)):08x}"
    partial = path.with_name(f"{name}.{os.getpid()}.partial")
    with _told(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if not many:
                _sweep(path.parent, name)
            yield partial
            if not many:
                flush(partial)
            os.replace(partial, path)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise


def _sweep(folder: Path, name: str) -> None:
    """Remove what killed processes left of a file; another living process may just be writing it, too."""
    for stale in folder.glob(f"{name}.*.partial"):
        number = stale.name.split(".")[2]
        if number.isdecimal() and not _lives(int(number)):
            stale.unlink(missing_ok=True)


def _lives(number: int) -> bool:
    """Whether there is a process of that number."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True


def flush(path: Path) -> None:
    """Wait until a file is on the disk: a power cut must not leave a done.json beside weights that are not there."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _is_stream(path: Path) -> bool:
    """Whether a path is a device, a pipe, or a name for one of this process's own files."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode) or str(path.absolute().parent) in _STREAMS


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """DiskError, which names the file, for an error of the system in writing it."""
    try:
        yield
    except MossError:
        raise
    except Exception as error:  # torch wraps a failed write into RuntimeError, safetensors has an error of its own
        cause = _os_error(error)
        if cause is None:
            raise
        raise DiskError(_refusal(path, cause)) from error


def _refusal(path: Path, error: OSError) -> str:
    """One line: which file, why, what is left and what to do."""
    full = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk's quota is used up"}.get(error.errno)
    reason = full or error.strerror or str(error)
    kept = "; the last good one is kept" if path.is_file() else ""
    mend = "; make room and give the same command again" if full else ""
    return f"could not write {path}: {reason}{kept}{mend}"


def _os_error(error: BaseException | None) -> OSError | None:
    """The OSError behind an exception, if there is one; libraries written in Rust have it as text."""
    while error is not None:
        if isinstance(error, OSError):
            return error
        if found := re.search(r"\(os error (\d+)\)", str(error)):
            return OSError(int(found[1]), os.strerror(int(found[1])))
        error = error.__cause__ or error.__context__
    return None


class AppendFile:
    """A file that grows by whole records: what a refused write left of one is cut off.

    Args:
        path: the file; made where there is none.
        file: the same, open for appending and unbuffered, where the caller has locked it.
        rows: it has a JSON value a line: on opening, a last line that its writer did not finish is cut off, and one
            that is whole but has no end gets it.
    """

    def __init__(self, path: str | Path, file: Any = None, rows: bool = False) -> None:
        self.path = Path(path)
        with _told(self.path):
            self._file = file or open(self.path, "ab", buffering=0)
            if rows:
                self._repair()

    def _repair(self) -> None:
        data = self.path.read_bytes()
        end = data.rfind(b"\n") + 1
        if data[end:] and not is_row(data[end:]):
            self._file.truncate(end)
        elif data[end:]:
            self.append(b"\n")

    def append(self, data: bytes) -> None:
        """Write a record. DiskError if it does not fit; the file is then as before."""
        end = os.fstat(self._file.fileno()).st_size
        with _told(self.path):
            try:
                _put(self._file, data)
            except BaseException:
                self._file.truncate(end)
                raise

    def truncate(self, size: int) -> None:
        """Cut the file off after `size` bytes."""
        self._file.truncate(size)

    def close(self, flush: bool = False) -> None:
        """Close the file and end its lock; `flush` waits until it is on the disk."""
        if flush:
            with _told(self.path):
                os.fsync(self._file.fileno())
        self._file.close()

    def __enter__(self) -> "AppendFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def is_row(line: bytes | str) -> bool:
    """Whether a line is a JSON value, and not the beginning of one."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def read_text(path: str | Path, most: int = LONG) -> str:
    """The text of a UTF-8 file; a byte order mark is dropped.

    Raises:
        DataError: the file is not UTF-8, has more than `most` bytes, or is a pipe or device: who reads one may wait, or
            read, for ever.
    """
    about = os.stat(path)
    if not stat.S_ISREG(about.st_mode) and not stat.S_ISDIR(about.st_mode):
        raise DataError(f"{path}: is not a file")
    if about.st_size > most:
        raise DataError(f"{path}: {about.st_size >> 20} MB, more than what is meant here can have ({most >> 20} MB)")
    try:
        return Path(path).read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text; convert it, for example with iconv -t utf-8") from error


def read_lines(path: str | Path, whole: bool = False, most: int = LONG) -> list[str]:
    """The lines of a UTF-8 text file without their ends; a byte order mark is dropped.

    Lines end at newlines alone. `str.splitlines` also cuts at U+0085, U+2028 and others, which JSON and transcripts
    hold inside a line.

    Args:
        path: the file.
        whole: its lines are JSON values: drop a last one that has no end and is none, its writer was killed.
        most: bytes that it may have.

    Raises:
        DataError: as `read_text`.
    """
    *lines, rest = read_text(path, most).split("\n")
    return lines if not rest or whole and not is_row(rest) else [*lines, rest]
