"""SHA256SUMS, as `sha256sum -c` reads it: whether the files of a folder that is sent around are as they were."""

import hashlib
import re
from pathlib import Path

from mossrepro.utils.errors import CheckpointError
from mossrepro.utils.io import read_lines, write_text
from mossrepro.utils.records import is_inner, leads_out

SUMS = "SHA256SUMS"
_SUM = re.compile(r"([0-9a-f]{64})  (\S.*)")


def sha256(path: Path) -> str:
    """The SHA-256 of a file, 64 hex characters."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_sums(folder: Path) -> None:
    """Write SHA256SUMS, of all other files below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SUMS)
    lines = [f"{sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    write_text(folder / SUMS, "".join(lines))


def check_sums(folder: Path, since: str, cure: str) -> set[str]:
    """Compare every file that SHA256SUMS lists; returns their names, relative to the folder.

    Args:
        folder: has a SHA256SUMS.
        since: since when they should be as they were, for the message: "the run was packed".
        cure: what to do, for the message.

    Raises:
        CheckpointError: a file is missing or changed, or a line names none of this folder.
    """
    listed = set()
    for number, line in enumerate(read_lines(folder / SUMS), 1):
        match = _SUM.fullmatch(line)
        if match is None or not is_inner(match[2]) or leads_out(folder / match[2], folder):
            raise CheckpointError(f"{folder / SUMS}:{number}: not the checksum of a file of this folder")
        path = folder / match[2]
        if not path.is_file() or sha256(path) != match[1]:
            what = "has changed" if path.is_file() else "is missing"
            raise CheckpointError(f"{path}: {what} since {since}; {cure}")
        listed.add(match[2])
    return listed
