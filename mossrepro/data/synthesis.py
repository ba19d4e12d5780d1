"""Synthesise a corpus with several processes: resumable, and the same bytes whatever their number."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mossrepro.data.corpus import Clip, CorpusWriter, store
from mossrepro.speech import roster, voices
from mossrepro.utils.audio import VOICE_SAMPLE_RATE, resample
from mossrepro.utils.errors import MossError

_CHUNK = 16  # utterances of the fast engine per task
_SPAWN = 48  # fewer utterances than this are not worth a second process


@dataclass(frozen=True)
class Utterance:
    """A sentence to be spoken: its id names the sound file."""

    id: str
    text: str
    voice: str
    split: str


def synthesise(
    jobs: Sequence[Utterance], folder: str | Path, workers: int | None = None, rate: int = VOICE_SAMPLE_RATE
) -> Path:
    """Synthesise all jobs into the corpus `folder` at `rate` Hz; clips that are already there are kept.

    Jobs of one text in pseudo-speakers of one Kokoro voice should be neighbours: the engine then runs once for them.
    workers: number of processes; by default one per torch thread, or only this process for a short list.
    """
    with CorpusWriter(folder) as writer, progress("speaking", len(jobs)) as advance:
        missing = [job for job in jobs if job.id not in writer.ids]
        advance(len(jobs) - len(missing))
        tasks = [(chunk, str(folder), rate) for chunk in _chunks(missing)]
        if workers is None and len(missing) < _SPAWN:
            workers = 1
        for clips in in_processes(_speak, tasks, workers):
            for clip in clips:
                writer.append(clip)
            advance(len(clips))
    return Path(folder)


def _chunks(jobs: Iterable[Utterance]) -> Iterator[list[Utterance]]:
    """Chunks of jobs, each for one process; neighbours that share a Kokoro synthesis are a chunk of their own."""
    chunk: list[Utterance] = []
    last = None
    for job in jobs:
        voice = roster.VOICES[job.voice]
        slow = voice.engine == "kokoro"
        key = (job.text, voice.base or voice.name) if slow else "fast"
        if chunk and (key != last or (not slow and len(chunk) >= _CHUNK)):
            yield chunk
            chunk = []
        chunk.append(job)
        last = key
    if chunk:
        yield chunk


def in_processes(work: Callable[[Any], Any], tasks: Sequence[Any], workers: int | None = None) -> Iterator[Any]:
    """work(task) for all tasks, the results in the order of the tasks; by default one process per torch thread.

    MossError when a process dies: `multiprocessing.Pool` would wait for its result for ever.
    """
    workers = min(torch.get_num_threads() if workers is None else workers, len(tasks))
    if workers <= 1:
        yield from map(work, tasks)
        return
    # Spawned, not forked: onnxruntime and OpenMP threads of this process do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_follow_parent) as pool:
        try:
            yield from pool.map(work, tasks)
        except BrokenProcessPool as error:
            raise MossError(
                "a process died, for lack of memory perhaps (or the script that called it has no `if __name__ == "
                "'__main__'`); what is done is kept, run the command again"
            ) from error


def _follow_parent() -> None:
    """End with the parent even when it is killed, leave Ctrl-C to it, and use one thread."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
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
def progress(name: str, total: int) -> Iterator[Callable[[int], None]]:
    """A progress bar on the terminal; yields the function that moves it."""
    columns = (TextColumn(name), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=True) as bar:
        task = bar.add_task(name, total=total)
        yield lambda count: bar.advance(task, count)
