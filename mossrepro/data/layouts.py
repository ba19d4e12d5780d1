"""Folders of recordings in the layouts that people have: which sound files, what is said in them and by whom."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mossrepro.data.corpus import MANIFEST
from mossrepro.data.tables import read_table
from mossrepro.utils.errors import DataError
from mossrepro.utils.io import read_lines
from mossrepro.utils.records import leads_out

SUFFIXES = (".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aiff", ".aif", ".au", ".caf", ".w64", ".sph")
FOREIGN = (".m4a", ".m4b", ".mp4", ".aac", ".wma", ".webm", ".amr", ".3gp", ".ape", ".mov")  # sound, not for libsndfile
TABLES = ("metadata.csv", "transcripts.tsv", "transcripts.csv")
LAYOUTS = (
    "LibriSpeech *.trans.txt, LJSpeech metadata.csv, transcripts.tsv or .csv, or a .txt file beside each sound file"
)
_INSIDE = ("", "wavs", "clips", "audio")  # subfolders in which the files of a table are looked for
_LONGEST_TRANSCRIPT = 1 << 20  # bytes of the text beside one recording
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
    untold: sound files without a transcript, with an empty one.
    """

    recordings: list[Recording] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    foreign: Counter[str] = field(default_factory=Counter)
    untold: list[Recording] = field(default_factory=list)


def find_recordings(folder: Path, outside: bool = False) -> Found:
    """The recordings of a folder, by the first of LAYOUTS that fits. DataError when a table is not UTF-8.

    outside: also take what lies outside the folder, by a link or by its path in a table; else it is a problem each.
    """
    files = _Files(folder, outside)
    found = Found(
        problems=files.problems,
        foreign=Counter(path.suffix.lower() for path in files.all if path.suffix.lower() in FOREIGN),
    )
    libri = [path for path in files.all if path.name.endswith(".trans.txt")]
    tables = [folder / name for name in TABLES if folder / name in files.all]
    if libri:
        for path in libri:
            try:
                found.recordings += _librispeech(path, files)
            except (DataError, OSError) as error:
                found.problems.append(str(error))
    elif tables:
        _from_table(tables[0], files, found)
    else:
        _side_by_side(files, found)
    found.recordings = [recording for recording in found.recordings if files.may_have(recording.path)]
    told = {os.path.abspath(recording.path) for recording in found.recordings}
    sounds = [path for path in files.all if path.suffix.lower() in SUFFIXES]
    untold = [path for path in sounds if os.path.abspath(path) not in told]
    found.untold = [_by_folder(path, "", os.path.commonpath([one.parent for one in untold]), files) for path in untold]
    return found


def _librispeech(path: Path, files: _Files) -> list[Recording]:
    """speaker-chapter.trans.txt: an id, a space, the text in capitals; the sound is id.flac beside it."""
    found = []
    for line in read_lines(path):
        name, _, text = line.strip().partition(" ")
        if name:
            sound = files.sound(path.parent / name) or path.parent / f"{name}.flac"
            found.append(Recording(sound, text.lower(), name.split("-")[0]))
    return found


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
    shared = os.path.commonpath([sound.parent for _, sound in pairs]) if pairs else files.root
    for path, sound in pairs:
        try:
            text = " ".join(read_lines(path, most=_LONGEST_TRANSCRIPT))
        except (DataError, OSError) as error:
            found.problems.append(str(error))
            continue
        found.recordings.append(_by_folder(sound, text, shared, files))


def _by_folder(sound: Path, text: str, shared: str | Path, files: _Files) -> Recording:
    """A recording whose speaker is its folder below `shared`, where all of them lie."""
    below = sound.parent.relative_to(shared).parts or sound.parent.relative_to(files.root).parts[-1:]
    speaker = next((part for part in below if part.lower() not in _NOT_SPEAKERS), None)
    return Recording(sound, text, _label(speaker) if speaker else files.name, bool(speaker))


def _label(name: str) -> str:
    """The name of a folder as a text; bytes of it that are not UTF-8 are escaped."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


class _Files:
    """The files below a folder, and the sound files that go with a name.

    outside: follow links that lead out of the folder. Without, `problems` has a line for each that is not followed.
    """

    def __init__(self, root: Path, outside: bool) -> None:
        self.root, self.outside, self.problems = root, outside, []
        self.name = _label(root.resolve().name)
        self.all = sorted(path for path in self._walk() if self.may_have(path))
        self._stems: dict[Path, dict[str, Path]] = {}

    def may_have(self, path: Path) -> bool:
        """Whether a file may be taken; a problem where it lies outside the folder."""
        if self.outside or not _leads_out(path, self.root):
            return True
        self.problems.append(f"{path}: lies outside {self.root}, so it is not taken; --outside takes it")
        return False

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

    def _walk(self) -> Iterator[Path]:
        """All files but hidden ones and those of a corpus of ours; every real folder once.

        The folders that hold the root are not entered, should a link lead to them.
        """
        seen = {str(parent) for parent in self.root.resolve().parents}
        for place, folders, names in os.walk(self.root, followlinks=True):
            real = os.path.realpath(place)
            if real in seen or MANIFEST in names:
                folders.clear()
                continue
            seen.add(real)
            if Path(place) != self.root and not self.may_have(Path(place)):
                folders.clear()
                continue
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            yield from (Path(place, name) for name in names if not name.startswith("."))


def _leads_out(path: Path, root: Path) -> bool:
    """`leads_out`, which looks at the folders of a path once, and at the path itself only if it is a link."""
    try:
        return _folder_leads_out(path.parent, root) or (
            (path.name == ".." or os.path.islink(path)) and leads_out(path, root)
        )
    except ValueError:  # a text that was never a path: no such file
        return False


@functools.lru_cache(maxsize=4_096)
def _folder_leads_out(folder: Path, root: Path) -> bool:
    return leads_out(folder, root)
