"""A corpus on disk: a folder of FLAC files and a manifest with one JSON object a line.

manifest.jsonl: id, audio (path inside the folder), rate, seconds, text, speaker, split ("train", "valid", "test") and,
where they are known, words as [[word, start, end], ...] in seconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, KeysView, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mossrepro.utils.audio import load, save
from mossrepro.utils.errors import DataError
from mossrepro.utils.io import AppendFile, read_lines, write_text
from mossrepro.utils.locks import hold_lock
from mossrepro.utils.records import build, is_file_name, is_inner, misfit, parse_json, short

MANIFEST = "manifest.jsonl"
SPLITS = ("train", "valid", "test")
_MOST_RATE = 1_000_000  # Hz
LONG_CLIP = 15.0  # seconds; the codec is not trained on longer ones unless it is told to


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
    """All clips of a corpus, in its order; a last line that its writer did not finish is left out.

    Raises:
        DataError: names the file and the line: what it says is no clip, leads out of the corpus, or has an id twice.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise DataError(f"{path}: no such manifest")
    clips, seen = [], set()
    for number, line in enumerate(read_lines(path, whole=True), 1):
        clips.append(_clip(line, f"{path}:{number}"))
        if clips[-1].id in seen:
            raise DataError(f"{path}:{number}: id {short(clips[-1].id)} is there already")
        seen.add(clips[-1].id)
    return clips


def _clip(line: str, place: str) -> Clip:
    clip = build(Clip, parse_json(line, place), place, others=True)
    if not is_file_name(clip.id):
        raise DataError(f"{place}: id {short(clip.id)} is no name for a file")
    if not is_inner(clip.audio):
        raise DataError(f"{place}: audio {short(clip.audio)} is no file inside the corpus")
    if clip.seconds <= 0 or not 0 < clip.rate <= _MOST_RATE:
        name = "seconds" if clip.seconds <= 0 else "rate"
        raise DataError(f"{place}: {name} {short(getattr(clip, name))} is no {name} of a recording")
    if clip.split not in SPLITS:
        raise DataError(f"{place}: split is {clip.split!r}, not one of {', '.join(SPLITS)}")
    for word in clip.words or ():
        if len(word) != 3 or misfit(word[0], str) or misfit(word[1:], list[float]):
            raise DataError(f"{place}: words {short(word)} is no [word, start, end] in seconds")
    return clip


def load_clip(folder: str | Path, clip: Clip, rate: int) -> np.ndarray:
    """The samples of a clip: float32 (n,) at `rate` Hz. Raises AudioError as `audio.load` does."""
    return load(Path(folder) / clip.audio, rate)


class CorpusWriter:
    """Appends clips to a corpus, and continues where a killed writer stopped.

    A sound file is complete before its line is written, and an incomplete last line is cut off on opening: whatever
    the manifest lists exists. `clips` holds what is already there, by id; adding such an id again changes nothing,
    `update` does. The corpus is locked while it is open.

    Args:
        folder: the corpus, new or partly filled.
        wait: seconds for which another writer of it is waited for.

    Raises:
        DataError: the manifest cannot be read, or another process keeps the corpus.
    """

    def __init__(self, folder: str | Path, wait: float = 20.0) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        busy = DataError(f"{self.folder}: another process is writing this corpus; let it end and run this again")
        path = self.folder / MANIFEST
        self._stream = AppendFile(path, hold_lock(path, wait, busy), rows=True)
        try:
            self.clips: dict[str, Clip] = {clip.id: clip for clip in read_manifest(self.folder)}
        except BaseException:
            self._stream.close()
            raise
        self._stale = False  # lines of the file are older than `clips`

    @property
    def ids(self) -> KeysView[str]:
        """Ids of all clips that are listed."""
        return self.clips.keys()

    def __enter__(self) -> CorpusWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write the updates, flush the manifest to the disk and close it."""
        try:
            if self._stale:
                write_text(self.folder / MANIFEST, "".join(clip.line() + "\n" for clip in self.clips.values()))
        finally:
            self._stream.close(flush=True)

    def add(self, id: str, wave: np.ndarray, rate: int, text: str, speaker: str, split: str) -> None:
        """Write the samples (n,) as FLAC and list the clip. DataError for an id that is no name for a file."""
        if not is_file_name(id):
            raise DataError(f"{self.folder}: {short(id)} is no name for a file of a clip")
        if id not in self.clips:
            name, seconds = store(self.folder, id, wave, rate)
            self.append(Clip(id, name, rate, seconds, text, speaker, split))

    def append(self, clip: Clip) -> None:
        """List a clip whose sound file is already in the folder."""
        if clip.id not in self.clips:
            self._stream.append((clip.line() + "\n").encode())
            self.clips[clip.id] = clip

    def update(self, clip: Clip) -> None:
        """Replace what is said about a clip that is listed; the manifest has it once the writer is closed."""
        self.clips[clip.id] = clip
        self._stale = True


def store(folder: str | Path, id: str, wave: np.ndarray, rate: int) -> tuple[str, float]:
    """Write the sound file of a clip atomically -> its path inside the corpus, and its length in seconds."""
    name = f"audio/{id}.flac"
    save(Path(folder) / name, wave, rate)
    return name, round(len(wave) / rate, 4)


def hours(seconds: Iterable[float]) -> str:
    """Lengths of clips added up: "0.25 h"."""
    return f"{sum(seconds) / 3600:.2f} h"


def left_out(clips: Sequence[Clip], reasons: Mapping[str, Sequence[Clip]]) -> str:
    """One line about those of `clips` that are not used, by reason: how many and how long; "" if all are used."""
    told = [f"{len(lost)} {why} ({hours(clip.seconds for clip in lost)})" for why, lost in reasons.items() if lost]
    return f"{sum(map(len, reasons.values()))} of {len(clips)} clips are left out: {', '.join(told)}" if told else ""
