"""A corpus on disk: a folder of FLAC files and a manifest with one JSON object a line.

manifest.jsonl: id, audio (path inside the folder), rate, seconds, text, speaker, split ("train", "valid", "test") and,
where they are known, words as [[word, start, end], ...] in seconds.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO

import numpy as np

from mossrepro.utils.audio import load, save
from mossrepro.utils.errors import DataError

MANIFEST = "manifest.jsonl"
SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Clip:
    """One line of a manifest: a sound file with its transcript."""

    id: str
    audio: str
    rate: int
    seconds: float
    text: str
    speaker: str
    split: str
    words: list[list] | None = None

    def line(self) -> str:
        """The clip as one line of JSON; unknown word times are left out."""
        return json.dumps({key: value for key, value in asdict(self).items() if value is not None}, ensure_ascii=False)


def read_manifest(folder: str | Path) -> list[Clip]:
    """All clips of a corpus, in its order. Raises DataError naming the file and the line."""
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise DataError(f"{path}: no such manifest")
    return [_clip(line, f"{path}:{number}") for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)]


def _clip(line: str, place: str) -> Clip:
    known = {field.name for field in fields(Clip)}
    try:
        values = json.loads(line)
        clip = Clip(**{key: value for key, value in values.items() if key in known})
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{place}: not a clip ({error})") from error
    if clip.split not in SPLITS:
        raise DataError(f"{place}: split is {clip.split!r}, not one of {', '.join(SPLITS)}")
    return clip


def load_clip(folder: str | Path, clip: Clip, rate: int) -> np.ndarray:
    """The samples of a clip: float32 (n,) at `rate` Hz. Raises AudioError as `audio.load` does."""
    return load(Path(folder) / clip.audio, rate)


class CorpusWriter:
    """Appends clips to a corpus, and continues where a killed writer stopped.

    A sound file is complete before its line is written, and an incomplete last line is cut off on opening: whatever
    the manifest lists exists. `ids` holds what is already there; adding such an id again changes nothing.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / MANIFEST
        path.touch()
        whole = path.read_bytes()
        whole = whole[: whole.rfind(b"\n") + 1]
        os.truncate(path, len(whole))
        self.ids: set[str] = {clip.id for clip in read_manifest(self.folder)}
        self._stream: IO[str] = path.open("a", encoding="utf-8")

    def __enter__(self) -> CorpusWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Flush the manifest to the disk and close it."""
        self._stream.flush()
        os.fsync(self._stream.fileno())
        self._stream.close()

    def add(self, id: str, wave: np.ndarray, rate: int, text: str, speaker: str, split: str) -> None:
        """Write the samples (n,) as FLAC and list the clip."""
        if id not in self.ids:
            name, seconds = store(self.folder, id, wave, rate)
            self.append(Clip(id, name, rate, seconds, text, speaker, split))

    def append(self, clip: Clip) -> None:
        """List a clip whose sound file is already in the folder."""
        if clip.id not in self.ids:
            self._stream.write(clip.line() + "\n")
            self._stream.flush()
            self.ids.add(clip.id)


def store(folder: str | Path, id: str, wave: np.ndarray, rate: int) -> tuple[str, float]:
    """Write the sound file of a clip atomically -> its path inside the corpus, and its length in seconds."""
    name = f"audio/{id}.flac"
    save(Path(folder) / name, wave, rate)
    return name, round(len(wave) / rate, 4)
