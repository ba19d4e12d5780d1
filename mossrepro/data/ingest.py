"""`mossrepro data add FOLDER`: a user's recordings and transcripts become a corpus."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import sys
import zlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from rich.progress import track

from mossrepro.data.corpus import LONG_CLIP, MANIFEST, SPLITS, Clip, CorpusWriter, hours, left_out
from mossrepro.data.layouts import LAYOUTS, Found, Recording, find_recordings
from mossrepro.data.splits import content_split, fill_empty_splits, speaker_splits
from mossrepro.speech.normalise import normalise
from mossrepro.speech.whisper import WhisperJudge
from mossrepro.utils.audio import SAMPLE_RATE, VOICE_SAMPLE_RATE, load, resample
from mossrepro.utils.errors import AudioError, DataError, visible
from mossrepro.utils.sound_file import header

LEAST = 0.6  # mean probability of a token below which a transcript of Whisper's is not taken
_SHOWN, _LONGEST = 5, 300  # reasons for skipping that are printed, and characters of each


@dataclass
class _Tally:
    """What becomes of the recordings: seconds of each that was added, updated or there already; reasons of the rest."""

    added: list[float] = field(default_factory=list)
    updated: list[float] = field(default_factory=list)
    unchanged: list[float] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def add_folder(
    folder: str | Path, target: str | Path, transcribe: bool = False, outside: bool = False, least: float = LEAST
) -> Path:
    """Turn a folder of recordings into a corpus in the folder `target`, which is returned.

    Layouts: LibriSpeech (*.trans.txt beside flac files), LJSpeech (metadata.csv, wavs/), a table of files and texts
    (transcripts.tsv or .csv), or x.wav with x.txt. "valid" and "test" get a twentieth each: of the speakers where
    three or more are told apart, else of the clips. A clip is named after its file and its sound, so that a second
    call adds what is new, and updates the transcripts that changed. What is added, updated and skipped is printed.

    transcribe: Whisper base writes the transcripts that are missing; clips of which it is less sure than `least` (mean
    probability of a token) are skipped.
    outside: also take what lies outside the folder, by a link or by its path in a table.

    Raises:
        DataError: the folder holds no transcripts, or nothing in it is usable, or it is to become the corpus itself.
    """
    folder, target = Path(folder), Path(target)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    if target.is_dir() and os.path.samefile(folder, target):  # a corpus is no recordings: the next call would see none
        raise DataError(f"{target}: is the folder of the recordings; give another one as --output")
    found, tally = find_recordings(folder, outside), _Tally()
    if transcribe:
        found.recordings, found.untold = [*found.recordings, *found.untold], []
    tally.skipped += found.problems
    if not found.recordings and not found.problems:
        more = f"; or --transcribe the {len(found.untold)} sound files" if found.untold else ""
        raise DataError(f"{folder}: no transcripts found ({LAYOUTS}){_foreign(found)}{more}")
    with CorpusWriter(target) as writer:
        seconds: dict[str, float] = defaultdict(float)
        for recording in found.recordings:
            if recording.known:
                seconds[recording.speaker] += _seconds(recording.path)
        splits = speaker_splits(writer.clips.values(), {who: time for who, time in seconds.items() if time})
        adder = _Adder(writer, folder, splits, tally, least if transcribe else None)
        for recording in track(found.recordings, description="adding", transient=True):
            adder.add(recording)
        if not splits:
            fill_empty_splits(writer)
        clips = list(writer.clips.values())
        if not clips:
            (target / MANIFEST).unlink()  # while nobody else can write it
    _tell(found, tally)
    if not tally.added + tally.updated + tally.unchanged:
        total = len(found.recordings) + len(found.problems)
        raise DataError(
            f"{folder}: none of {total} recordings is usable; the first: {tally.skipped[0]}{_foreign(found)}"
        )
    _say(f"{target}: {summary(clips)}")
    if line := _warning(clips):
        _say(f"{target}: {line}")
    return target


class _Adder:
    """Copies recordings into a corpus.

    A clip's id is its file's name, the hash of its sound and that of its path below the folder: two files of one name
    are two clips, and a sound that is found again is the same clip, whatever is said about it now.
    """

    def __init__(
        self, writer: CorpusWriter, folder: Path, splits: dict[str, str], tally: _Tally, least: float | None
    ) -> None:
        self.writer, self.folder, self.splits, self.tally, self.least = writer, folder, splits, tally, least
        self.seen: set[str] = set()  # ids met in this run
        self.before: dict[tuple[str, str], list[str]] = defaultdict(list)  # sound and text -> clips of earlier runs
        for clip in writer.clips.values():
            if match := _ID.fullmatch(clip.id):
                self.before[match["sound"], clip.text].append(clip.id)

    @functools.cached_property
    def judge(self) -> WhisperJudge:
        return WhisperJudge()

    def add(self, recording: Recording) -> None:
        """Add or update one recording, or note why it is skipped."""
        path, text = recording.path, " ".join(recording.text.split())
        relative = path.relative_to(self.folder) if path.is_relative_to(self.folder) else path
        if not text and self.least is None:
            self.tally.skipped.append(f"{relative}: the transcript is empty")
            return
        try:
            wave, rate = _read(path)
        except AudioError as error:
            self.tally.skipped.append(str(error))
            return
        if not text:
            text, sure = self.judge.transcribe_scored([resample(wave, rate, SAMPLE_RATE)])[0]
            if sure < self.least or not normalise(text):
                self.tally.skipped.append(f"{relative}: Whisper is {100 * sure:.0f} % sure of {text!r}; write x.txt")
                return
        sound = _sound_hash(wave, rate)
        id = self._id(path.stem, relative.as_posix(), sound, text, len(wave) / rate)
        if id in self.seen:
            self.tally.skipped.append(f"{relative}: is listed twice, or its sound and its words are")
            return
        self.seen.add(id)
        clip = self.writer.clips.get(id)
        if clip is None:
            split = self.splits.get(recording.speaker) if recording.known else None
            wave = resample(wave, rate, VOICE_SAMPLE_RATE)
            self.writer.add(id, wave, VOICE_SAMPLE_RATE, text, recording.speaker, split or content_split(sound))
            self.tally.added.append(self.writer.clips[id].seconds)
            return
        speaker = recording.speaker if recording.known else clip.speaker
        if (clip.text, clip.speaker) == (text, speaker):
            self.tally.unchanged.append(clip.seconds)
            return
        words = clip.words if clip.text == text else None
        self.writer.update(replace(clip, text=text, speaker=speaker, words=words))
        self.tally.updated.append(clip.seconds)

    def _id(self, stem: str, relative: str, sound: str, text: str, seconds: float) -> str:
        """The id of the clip, or the one under which an earlier run listed it.

        That is another one where the file has been moved, and where version 0.1, which did not look at the sound, made
        the corpus; the length then tells two files of one name apart.
        """
        name = f"{zlib.crc32(os.fsencode(relative)):08x}"
        id, old = f"{_plain(stem)}-{sound}-{name}", f"{stem}-{name}"
        if id in self.writer.ids:
            return id
        if old in self.writer.ids and abs(self.writer.clips[old].seconds - seconds) < 1e-3:
            return old
        moved = [other for other in self.before[sound, text] if other not in self.seen]
        return moved[0] if moved else id


_ID = re.compile(r".*-(?P<sound>[0-9a-f]{16})-[0-9a-f]{8}")


def _plain(stem: str) -> str:
    """A file's name as a part of another one, in every file system."""
    return re.sub(r"[^\w.-]", "_", stem)[:40]


def _read(path: Path) -> tuple[np.ndarray, int]:
    """The samples (n,) of a sound file at its own rate, and that rate."""
    rate = header(path).rate
    return load(path, rate), rate


def _sound_hash(wave: np.ndarray, rate: int) -> str:
    """16 hex digits that name a sound, in whatever file it is."""
    return hashlib.sha256(np.ascontiguousarray(wave, "<f4").tobytes() + rate.to_bytes(4, "little")).hexdigest()[:16]


def _seconds(path: Path) -> float:
    """Length of a sound file by its header; 0 if it cannot be read."""
    try:
        return header(path).seconds
    except AudioError:
        return 0.0


def _tell(found: Found, tally: _Tally) -> None:
    for reason in tally.skipped[:_SHOWN]:
        _say(f"skipped {reason if len(reason) < _LONGEST else reason[:_LONGEST] + '...'}")
    for suffix, count in sorted(found.foreign.items()):
        _say(f"skipped: {count} {suffix} (convert to wav or flac)")
    if found.untold:
        _say(f"skipped: {len(found.untold)} sound files without a transcript (--transcribe writes them)")
    parts = [(name, getattr(tally, name)) for name in ("added", "updated", "unchanged")]
    counted = ", ".join(f"{name} {len(times)} clips ({hours(times)})" for name, times in parts)
    total = len(found.recordings) + len(found.problems)
    _say(f"{counted}, skipped {len(tally.skipped)} of {total} recordings")


def _foreign(found: Found) -> str:
    counted = ", ".join(f"{count} {suffix}" for suffix, count in sorted(found.foreign.items()))
    return f"; it holds {counted}: convert to wav or flac" if counted else ""


def _say(line: str) -> None:
    print(visible(line), file=sys.stderr)


def _warning(clips: list[Clip]) -> str:
    """One line about the clips that the codec's training leaves out, as far as it can be known before; "" if none."""
    silent = {clip.id: clip for clip in clips if not normalise(clip.text)}
    long = [clip for clip in clips if clip.id not in silent and clip.split == "train" and clip.seconds > LONG_CLIP]
    reasons = {"without an English word in the transcript": list(silent.values())}
    line = left_out(clips, reasons | {f"longer than {LONG_CLIP:g} s": long})
    return f"in training the codec {line}" if line else ""


def summary(clips: Sequence[Clip]) -> str:
    """One line about clips: how many, hours and speakers of each split, and whether a speaker is in several."""
    parts, heard = [], []
    for split in SPLITS:
        ours = [clip for clip in clips if clip.split == split]
        heard.append({clip.speaker for clip in ours})
        time = hours(clip.seconds for clip in ours)
        parts.append(f"{split} {len(ours)} clips, {time}, {len(heard[-1])} speakers")
    shared = len(heard[0] & heard[1] | heard[0] & heard[2] | heard[1] & heard[2])
    total = f"{len(clips)} clips, {hours(clip.seconds for clip in clips)}"
    return f"{total} ({'; '.join(parts)}; {shared} speakers in more than one)"
