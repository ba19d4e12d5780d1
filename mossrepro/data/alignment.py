"""Forced alignment: the times of all phones of a corpus, kept in the cache."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mossrepro.data.corpus import MANIFEST, Clip, load_clip, read_manifest
from mossrepro.data.synthesis import in_processes, progress
from mossrepro.speech.sphinx import align_phones
from mossrepro.utils import cache
from mossrepro.utils.audio import SAMPLE_RATE
from mossrepro.utils.errors import DataError
from mossrepro.utils.io import AppendFile, read_lines
from mossrepro.utils.records import build, parse_json

Phone = tuple[str, float, float]  # name (CMU), start, end in seconds
FILE = "phones.jsonl"
_CHUNK = 64  # clips per task


@dataclass
class _Row:
    """A line of the file."""

    id: str
    phones: list[list]


def phone_times(corpus: str | Path, workers: int | None = None, cached: Callable = cache.cached) -> Path:
    """Folder with the phones of every clip of a corpus, cached by the content of its manifest (`cached` caches).

    Raises DataError when hardly anything can be aligned: the transcripts are then not those of the recordings.
    """
    corpus = Path(corpus)
    clips = read_manifest(corpus)
    spec = {"manifest": hashlib.sha256((corpus / MANIFEST).read_bytes()).hexdigest(), "version": 3}

    def build(folder: Path) -> None:
        path = folder / FILE
        with AppendFile(path, rows=True) as stream, progress("aligning", len(clips)) as advance:
            done = set(read_phones(folder))
            todo = [clip for clip in clips if clip.id not in done]
            tasks = [todo[i : i + _CHUNK] for i in range(0, len(todo), _CHUNK)]
            advance(len(done))
            for chunk, rows in zip(tasks, in_processes(partial(_align, corpus), tasks, workers), strict=True):
                stream.append("".join(json.dumps(row) + "\n" for row in rows).encode())
                advance(len(chunk))
        found = sum(bool(phones) for phones in read_phones(folder).values())
        if found < 0.5 * len(clips):
            raise DataError(f"{corpus}: only {found} of {len(clips)} clips fit their transcripts; check the texts")

    return cached("phones", spec, build)


def read_phones(folder: str | Path) -> dict[str, list[Phone]]:
    """Clip id -> its phones; an incomplete last line is dropped, a clip that could not be aligned has none.

    DataError names the line that is none.
    """
    path, found = Path(folder) / FILE, {}
    for number, line in enumerate(read_lines(path, whole=True), 1):
        row = build(_Row, parse_json(line, f"{path}:{number}"), f"{path}:{number}")
        found[row.id] = [tuple(phone) for phone in row.phones]
    return found


def _align(corpus: Path, clips: list[Clip]) -> list[dict]:
    return [{"id": clip.id, "phones": align_phones(load_clip(corpus, clip, SAMPLE_RATE), clip.text)} for clip in clips]
