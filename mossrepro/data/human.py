"""Recorded human speech: the telephone prompts that Debian packages for Asterisk (one speaker, CC-BY-SA-3.0)."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

from mossrepro.data.corpus import CorpusWriter
from mossrepro.data.layouts import find_recordings
from mossrepro.utils.audio import SAMPLE_RATE, load
from mossrepro.utils.errors import AudioError, DataError

SPEAKER = "asterisk-allison"
VARIABLE = "MOSSREPRO_HUMAN"
_HOW = (
    f"no recorded human speech: set ${VARIABLE} to a folder of 16 kHz recordings with transcripts.tsv (file, seconds, "
    "text). Debian has 24 minutes of it (CC-BY-SA-3.0): apt-get download asterisk-core-sounds-en-g722 "
    "asterisk-core-sounds-en, unpack both with dpkg -x, decode the .g722 files (ffmpeg) and take the texts from "
    "core-sounds-en.txt"
)


def find() -> Path | None:
    """The folder with transcripts.tsv: `$MOSSREPRO_HUMAN` or a subfolder of it; None if there is none."""
    place = os.environ.get(VARIABLE)
    if not place or not Path(place).is_dir():
        return None
    tables = sorted(Path(place).glob("transcripts.tsv")) + sorted(Path(place).glob("*/transcripts.tsv"))
    return tables[0].parent if tables else None


def make_corpus(target: str | Path, seconds: float = float("inf")) -> Path:
    """The recordings as a corpus in the folder `target`; half "train", half "test" by the SHA-1 of the file name.

    A twentieth of the first half is "valid". Of the rest of it, `seconds` are taken.

    Raises DataError with the way to get the recordings when there are none.
    """
    source = find()
    if source is None:
        raise DataError(_HOW)
    found = find_recordings(source)
    skipped, seen = list(found.problems), set()
    with CorpusWriter(target) as writer:
        for recording in found.recordings:
            path = recording.path
            id = (
                path.stem
                if path.stem not in seen
                else os.path.relpath(path.with_suffix(""), source).replace(os.sep, "-")
            )
            seen.add(path.stem)
            try:
                wave = load(path, SAMPLE_RATE)
            except AudioError as error:  # an empty prompt, or one missing from the package
                skipped.append(str(error))
                continue
            half, part = divmod(int(hashlib.sha1(path.name.encode()).hexdigest(), 16), 2)
            split = "test" if part else "valid" if half % 20 == 0 else "train"
            if split == "train" and (seconds := seconds - len(wave) / SAMPLE_RATE) < 0:
                continue
            writer.add(id, wave, SAMPLE_RATE, recording.text, SPEAKER, split)
        if not writer.ids:
            raise DataError(f"{source}: none of the recordings is usable")
    if skipped:
        line = f"{target}: skipped {len(skipped)} of {len(found.recordings) + len(found.problems)} recordings"
        print(f"{line}, the first: {skipped[0]}", file=sys.stderr)
    return Path(target)
