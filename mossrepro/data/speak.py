"""Synthesise a corpus with several processes: resumable, and the same bytes whatever their number."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mossrepro import voices
from mossrepro.audio import resample
from mossrepro.data.corpus import Clip, CorpusWriter, store

_CHUNK = 16  # utterances of the fast engine that make one task
_SPAWN = 48  # fewer utterances than this are not worth a second process


@dataclass(frozen=True)
class Utterance:
    """A sentence to be spoken: its id names the sound file."""

    id: str
    text: str
    voice: str
    split: str


def synthesise(
    jobs: Sequence[Utterance], folder: str | Path, workers: int | None = None, rate: int = voices.RATE
) -> Path:
    """Speak all jobs into the corpus `folder` at `rate` Hz; what is already there is kept.

    Put pseudo-speakers of one Kokoro voice that say the same text next to each other: the engine then speaks once.
    workers: processes; by default one for each of torch's threads, and none beside this one for a short list.
    """
    with CorpusWriter(folder) as writer, _bar(len(jobs)) as advance:
        missing = [job for job in jobs if job.id not in writer.ids]
        advance(len(jobs) - len(missing))
        tasks = [(chunk, str(folder), rate) for chunk in _chunks(missing)]
        if workers is None:
            workers = torch.get_num_threads() if len(missing) >= _SPAWN else 1
        for clips in _run(tasks, min(workers, len(tasks))):
            for clip in clips:
                writer.append(clip)
            advance(len(clips))
    return Path(folder)


def _chunks(jobs: Iterable[Utterance]) -> Iterator[list[Utterance]]:
    """Runs of jobs for one process: neighbours that share a Kokoro wave stay together and alone."""
    chunk: list[Utterance] = []
    last = None
    for job in jobs:
        voice = voices.VOICES[job.voice]
        slow = voice.engine == "kokoro"
        key = (job.text, voice.base or voice.name) if slow else "fast"
        if chunk and (key != last or (not slow and len(chunk) >= _CHUNK)):
            yield chunk
            chunk = []
        chunk.append(job)
        last = key
    if chunk:
        yield chunk


def _run(tasks: list[tuple], workers: int) -> Iterator[list[Clip]]:
    """The results in the order of the tasks, whoever finishes first."""
    if workers <= 1:
        yield from map(_speak, tasks)
        return
    # Spawned, not forked: onnxruntime and OpenMP threads of this process do not survive a fork.
    with multiprocessing.get_context("spawn").Pool(workers, initializer=_follow_parent) as pool:
        yield from pool.imap(_speak, tasks)


def _follow_parent() -> None:
    """End with the parent even when it is killed, and use one thread."""
    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _speak(task: tuple[list[Utterance], str, int]) -> list[Clip]:
    jobs, folder, rate = task
    clips = []
    for job in jobs:
        wave, source = voices.say(job.text, job.voice)
        name, seconds = store(folder, job.id, resample(wave, source, rate), rate)
        clips.append(Clip(job.id, name, rate, seconds, job.text, job.voice, job.split))
    return clips


@contextmanager
def _bar(total: int):
    """A progress bar on the terminal; yields the function that moves it."""
    columns = (TextColumn("speaking"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task("speaking", total=total)
        yield lambda count: progress.advance(task, count)
