"""`mossrepro data add FOLDER`: a user's recordings and transcripts become a corpus."""

from __future__ import annotations

import csv
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track

from mossrepro.data.corpus import MANIFEST, CorpusWriter, read_manifest
from mossrepro.utils.audio import VOICE_SAMPLE_RATE, load
from mossrepro.utils.errors import AudioError, DataError

SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
_SPLITS = {0: "test", 1: "valid"}  # 2 of 20 files; the other 18 are for training
_SHOWN = 5  # reasons for skipping that are printed


@dataclass(frozen=True)
class Recording:
    """A sound file with what is said in it and by whom."""

    path: Path
    text: str
    speaker: str


def add_folder(folder: str | Path, target: str | Path) -> Path:
    """Turn a folder of recordings into a corpus in the folder `target`, which is returned.

    Layouts: LibriSpeech (*.trans.txt beside flac files), LJSpeech (metadata.csv, wavs/), a table of files and texts
    (transcripts.tsv or .csv), or x.wav with x.txt. One file in ten goes to "valid" or "test", chosen by its name.
    Unusable files are skipped and the reasons printed; a second call adds what is new.
    Raises DataError when the folder holds no transcripts, or when nothing in it is usable.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    found = list(recordings(folder))
    if not found:
        raise DataError(
            f"{folder}: no transcripts found (LibriSpeech *.trans.txt, LJSpeech metadata.csv, transcripts.tsv or .csv, "
            "or a .txt file beside each sound file)"
        )
    target = Path(target)
    skipped: list[str] = []
    with CorpusWriter(target) as writer:
        for recording in track(found, description="adding", transient=True):
            _add(writer, folder, recording, skipped)
        usable = len(writer.ids)
    _tell(found, skipped)
    if not usable:
        (target / MANIFEST).unlink()
        raise DataError(f"{folder}: none of {len(found)} recordings is usable; the first: {skipped[0]}")
    return target


def _add(writer: CorpusWriter, folder: Path, recording: Recording, skipped: list[str]) -> None:
    """Copy one recording into the corpus, or note why not."""
    relative = recording.path.relative_to(folder) if recording.path.is_relative_to(folder) else recording.path
    id = f"{recording.path.stem}-{zlib.crc32(relative.as_posix().encode()):08x}"
    if id in writer.ids:
        return
    if not recording.text.strip():
        skipped.append(f"{relative}: the transcript is empty")
        return
    try:
        wave = load(recording.path, VOICE_SAMPLE_RATE)
    except AudioError as error:
        skipped.append(str(error))
        return
    split = _SPLITS.get(zlib.crc32(id.encode()) % 20, "train")
    writer.add(id, wave, VOICE_SAMPLE_RATE, " ".join(recording.text.split()), recording.speaker, split)


def _tell(found: list[Recording], skipped: list[str]) -> None:
    console = Console(stderr=True)
    for reason in skipped[:_SHOWN]:
        console.print(f"skipped {reason}", markup=False, highlight=False)
    if skipped:
        console.print(f"skipped {len(skipped)} of {len(found)} recordings", markup=False, highlight=False)


def recordings(folder: Path) -> Iterator[Recording]:
    """The recordings of a folder, read by the first layout that fits."""
    libri = sorted(folder.rglob("*.trans.txt"))
    tables = [folder / name for name in ("transcripts.tsv", "transcripts.csv") if (folder / name).is_file()]
    if libri:
        for path in libri:
            yield from _librispeech(path)
    elif (folder / "metadata.csv").is_file():
        yield from _ljspeech(folder)
    elif tables:
        yield from _table(tables[0])
    else:
        for path in sorted(folder.rglob("*.txt")):
            sound = _sound(path.with_suffix(""))
            if sound is not None:
                yield Recording(sound, _read(path), _speaker(folder, sound))


def _librispeech(path: Path) -> Iterator[Recording]:
    """speaker-chapter.trans.txt: an id, a space, the text in capitals; the sound is id.flac beside it."""
    for line in _read(path).splitlines():
        name, _, text = line.strip().partition(" ")
        if name:
            sound = _sound(path.parent / name) or path.parent / f"{name}.flac"
            yield Recording(sound, text.lower(), name.split("-")[0])


def _ljspeech(folder: Path) -> Iterator[Recording]:
    """metadata.csv: id|text|text with numbers written out; the sound is wavs/id.wav."""
    for line in _read(folder / "metadata.csv").splitlines():
        name, *texts = line.split("|")
        if name.strip() and texts:
            sound = _sound(folder / "wavs" / name) or folder / "wavs" / f"{name}.wav"
            yield Recording(sound, texts[-1], folder.name)


def _table(path: Path) -> Iterator[Recording]:
    """transcripts.tsv or .csv: file, text and optionally speaker; a header line may give another order."""
    delimiter = "\t" if path.suffix == ".tsv" else ","
    rows = [row for row in csv.reader(_read(path).splitlines(), delimiter=delimiter) if any(row)]
    columns = {"file": 0, "text": 1, "speaker": 2}
    aliases = {"path": "file", "audio": "file", "filename": "file", "sentence": "text", "transcript": "text",
               "client_id": "speaker"}  # fmt: skip
    heads = [aliases.get(cell.strip().lower(), cell.strip().lower()) for cell in rows[0]] if rows else []
    if "file" in heads and "text" in heads:
        columns = {head: index for index, head in enumerate(heads)}
        rows = rows[1:]
    for row in rows:
        cells = {head: row[index].strip() for head, index in columns.items() if index < len(row)}
        sound = path.parent / cells["file"]
        sound = sound if sound.is_file() else _sound(sound) or sound
        yield Recording(sound, cells.get("text", ""), cells.get("speaker") or path.parent.name)


def _sound(stem: Path) -> Path | None:
    """The sound file with this name, whatever its format."""
    for suffix in SUFFIXES:
        if stem.with_name(stem.name + suffix).is_file():
            return stem.with_name(stem.name + suffix)
    return None


def _speaker(folder: Path, sound: Path) -> str:
    """A subfolder is taken to be one speaker, named after it."""
    return sound.parent.name if sound.parent != folder else folder.name


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text") from error


def summary(folder: str | Path) -> str:
    """One line about a corpus: clips, minutes and speakers per split."""
    clips = read_manifest(folder)
    counts = Counter(clip.split for clip in clips)
    minutes = sum(clip.seconds for clip in clips) / 60
    splits = ", ".join(f"{count} {split}" for split, count in sorted(counts.items()))
    return f"{len(clips)} clips ({splits}), {minutes:.1f} minutes, {len({clip.speaker for clip in clips})} speakers"
