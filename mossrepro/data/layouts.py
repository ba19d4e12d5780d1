"""Folders of recordings in the layouts that people have: which sound files, what is said in them and by whom."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mossrepro.data.corpus import MANIFEST
from mossrepro.data.tables import read_table
from mossrepro.utils.errors import DataError
from mossrepro.utils.io import read_lines

SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".au", ".caf", ".w64", ".sph")
FOREIGN = (".m4a", ".m4b", ".mp4", ".aac", ".wma", ".webm", ".amr", ".3gp", ".ape", ".mov")  # sound, not for libsndfile
TABLES = ("metadata.csv", "transcripts.tsv", "transcripts.csv")
LAYOUTS = (
    "LibriSpeech *.trans.txt, LJSpeech metadata.csv, transcripts.tsv or .csv, or a .txt file beside each sound file"
)
_INSIDE = ("", "wavs", "clips", "audio")  # subfolders in which the files of a table are looked for
_NOT_SPEAKERS = {"train", "dev", "test", "valid", "validation", "val", *_INSIDE, "wav", "flac", "data"}  # folders


@dataclass(frozen=True)
class Recording:
    """A sound file with what is said in it and by whom.

    known: whether the layout tells the speakers apart; `speaker` is the folder's name if it does not.
    """

    path: Path
    text: str
    speaker: str
    known: bool = True


@dataclass
class Found:
    """What a folder holds.

    recordings: sound files with a transcript; a file may be missing or broken.
    problems: a line for each transcript that cannot be read.
    foreign: suffix -> number of sound files of a format that cannot be read.
    untold: number of sound files without a transcript.
    """

    recordings: list[Recording] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    foreign: Counter[str] = field(default_factory=Counter)
    untold: int = 0


def find_recordings(folder: Path) -> Found:
    """The recordings of a folder, by the first of LAYOUTS that fits. DataError when a table is not UTF-8."""
    files = _Files(folder)
    found = Found(foreign=Counter(path.suffix.lower() for path in files.all if path.suffix.lower() in FOREIGN))
    libri = [path for path in files.all if path.name.endswith(".trans.txt")]
    tables = [folder / name for name in TABLES if (folder / name).is_file()]
    if libri:
        for path in libri:
            found.recordings += _librispeech(path, files)
    elif tables:
        _from_table(tables[0], files, found)
    else:
        _side_by_side(files, found)
    told = {os.path.abspath(recording.path) for recording in found.recordings}
    sounds = {os.path.abspath(path) for path in files.all if path.suffix.lower() in SUFFIXES}
    found.untold = len(sounds - told)
    return found


def _librispeech(path: Path, files: _Files) -> Iterator[Recording]:
    """speaker-chapter.trans.txt: an id, a space, the text in capitals; the sound is id.flac beside it."""
    for line in read_lines(path):
        name, _, text = line.strip().partition(" ")
        if name:
            sound = files.sound(path.parent / name) or path.parent / f"{name}.flac"
            yield Recording(sound, text.lower(), name.split("-")[0])


def _from_table(path: Path, files: _Files, found: Found) -> None:
    table = read_table(path)
    found.problems += table.problems
    for row in table.rows:
        places = [path.parent / inside / row.file for inside in _INSIDE]
        sound = next(filter(None, map(files.sound, places)), None)
        if sound is None:
            bare = path.name == "metadata.csv" and not Path(row.file).suffix  # LJSpeech: an id
            sound = path.parent / "wavs" / f"{row.file}.wav" if bare else places[0]
        found.recordings.append(Recording(sound, row.text, row.speaker or files.name, bool(row.speaker)))


def _side_by_side(files: _Files, found: Found) -> None:
    """x.wav beside x.txt. Where they lie in subfolders, each is taken to be one speaker."""
    pairs = [(path, files.sound(path.with_suffix(""))) for path in files.all if path.suffix.lower() == ".txt"]
    pairs = [(path, sound) for path, sound in pairs if sound]
    shared = Path(os.path.commonpath([sound.parent for _, sound in pairs])) if pairs else files.root
    for path, sound in pairs:
        try:
            text = " ".join(read_lines(path))
        except DataError as error:
            found.problems.append(str(error))
            continue
        below = sound.parent.relative_to(shared).parts or sound.parent.relative_to(files.root).parts[-1:]
        speaker = next((part for part in below if part.lower() not in _NOT_SPEAKERS), None)
        found.recordings.append(Recording(sound, text, speaker or files.name, bool(speaker)))


class _Files:
    """The files below a folder, links to folders included, and the sound files that go with a name."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.name = root.resolve().name
        self.all = sorted(_walk(root))
        self._stems: dict[Path, dict[str, Path]] = {}

    def sound(self, path: Path) -> Path | None:
        """The sound file of this name, with or without suffix, whatever the case and the format of the one it has."""
        suffix = path.suffix.lower()
        if suffix in SUFFIXES and os.path.isfile(path):
            return path
        stems = self._in(path.parent)
        return stems.get(path.name) or (stems.get(path.stem) if suffix in SUFFIXES + FOREIGN else None)

    def _in(self, folder: Path) -> dict[str, Path]:
        """Name without suffix -> sound file, in one folder; of several the one whose format comes first."""
        if folder not in self._stems:
            try:
                paths = [folder / name for name in os.listdir(folder)]
            except (OSError, ValueError):  # no such folder, or a text that was never a path
                paths = []
            sounds = [path for path in paths if path.suffix.lower() in SUFFIXES]
            sounds.sort(key=lambda path: (-SUFFIXES.index(path.suffix.lower()), path.name))
            self._stems[folder] = {path.stem: path for path in sounds}
        return self._stems[folder]


def _walk(root: Path) -> Iterator[Path]:
    """All files below a folder but hidden ones and those of a corpus of ours; every real folder once.

    The folders that hold `root` are not entered either, should a link lead to them.
    """
    seen = {str(parent) for parent in root.resolve().parents}
    for place, folders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(place)
        if real in seen or MANIFEST in names:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place, name) for name in names if not name.startswith("."))
