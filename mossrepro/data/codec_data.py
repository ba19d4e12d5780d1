"""Batches for the speech tokenizer: clips of similar length, varied on the fly, in a reproducible order."""

from pathlib import Path

import numpy as np
import soxr
import torch
from torch import Tensor

from mossrepro.audio import WHISPER_RATE
from mossrepro.codec.recogniser import labels
from mossrepro.data.corpus import Clip, load_clip, read_manifest
from mossrepro.data.recipes import codec_corpus
from mossrepro.data.steps import StepDataModule
from mossrepro.errors import DataError
from mossrepro.order import rng

SPEEDS = (0.85, 1.18)  # tape speed: moves pitch, formants and tempo together, a cheap second speaker
GAINS = (-12.0, 6.0)  # dB
NOISES = (-80.0, -35.0)  # dB of full scale, white
LEAD = 0.1  # seconds of silence in front, at most
QUIET = 0.03  # share of the loudest sample below which a clip's ends count as silence
SHORTEST = 0.3  # share of the corpus, shortest clips first, that a run begins with
LENGTH_JITTER = 0.3  # seconds; regroups clips of similar length in every pass


def speech_span(wave: np.ndarray) -> tuple[int, int]:
    """First and last sample (end excluded) of a clip (n,) that is not silence."""
    loud = np.flatnonzero(np.abs(wave) > QUIET * np.abs(wave).max())
    return (int(loud[0]), int(loud[-1]) + 1) if len(loud) else (0, len(wave))


def vary(wave: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, tuple[int, int]]:
    """A clip (n,) as another recording of it, and where its speech is now.

    Speed, gain, noise and the length of a leading silence are drawn from `random`.
    """
    wave = soxr.resample(wave, random.uniform(*SPEEDS), 1.0, quality="LQ")
    lead = int(random.uniform(0.0, LEAD) * WHISPER_RATE)
    start, end = speech_span(wave)
    wave = np.pad(wave, (lead, 0)) * 10.0 ** (random.uniform(*GAINS) / 20.0)
    noise = random.standard_normal(len(wave), dtype=np.float32) * 10.0 ** (random.uniform(*NOISES) / 20.0)
    return np.clip(wave + noise, -1.0, 1.0).astype(np.float32), (start + lead, end + lead)


def collate(waves: list[np.ndarray], texts: list[str], spans: list[tuple[int, int]]) -> dict[str, Tensor]:
    """Pad to wave (B, N) float32, lengths (B,), spans (B, 2) in samples, labels (B, S), label_lengths (B,) int64."""
    targets = [torch.tensor(labels(text), dtype=torch.int64) for text in texts]
    return {
        "wave": torch.nn.utils.rnn.pad_sequence([torch.from_numpy(wave) for wave in waves], batch_first=True),
        "lengths": torch.tensor([len(wave) for wave in waves]),
        "spans": torch.tensor(spans),
        "labels": torch.nn.utils.rnn.pad_sequence(targets, batch_first=True),
        "label_lengths": torch.tensor([len(target) for target in targets]),
    }


class CodecDataModule(StepDataModule):
    """Clips of a corpus with their text; batch `step` is a pure function of (seed, step, rank, world).

    Args:
        size: rung of the ladder; its corpus is synthesised on first use.
        corpus: a corpus folder of your own instead.
        batch_seconds: sound per batch and rank, about.
        valid_clips: clips of the "valid" split that the word error rate is measured on.
        max_seconds: longer training clips are left out.
        short_steps: so many steps take only the shortest clips, whose letters are found soonest.
        augment: vary speed, gain, noise and leading silence.
        seed: of order and variation.
        num_workers: loader processes.
    """

    def __init__(
        self,
        size: str = "small",
        corpus: str | None = None,
        batch_seconds: float = 36.0,
        valid_clips: int = 80,
        max_seconds: float = 15.0,
        short_steps: int = 80,
        augment: bool = True,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(seed=seed, num_workers=num_workers)
        self.size, self.corpus, self.batch_seconds = size, corpus, batch_seconds
        self.valid_clips, self.max_seconds = valid_clips, max_seconds
        self.short_steps, self.augment = short_steps, augment
        self.folder: Path | None = None
        self.train: list[Clip] = []
        self.valid: list[Clip] = []
        self._pass: tuple[tuple[int, bool], list[list[int]]] = ((-1, False), [])

    def prepare_data(self) -> None:
        """Synthesise the corpus once per machine."""
        if self.corpus is None:
            codec_corpus(self.size)

    def setup(self, stage: str | None = None) -> None:
        """Read the manifest. Raises DataError when a split is empty."""
        self.folder = Path(self.corpus) if self.corpus else codec_corpus(self.size)
        clips = [clip for clip in read_manifest(self.folder) if labels(clip.text)]
        self.train = [clip for clip in clips if clip.split == "train" and clip.seconds <= self.max_seconds]
        valid = [clip for clip in clips if clip.split == "valid"]
        chosen = rng(self.seed, "valid").permutation(len(valid))[: self.valid_clips]
        self.valid = sorted((valid[i] for i in chosen), key=lambda clip: clip.seconds)
        for name in ("train", "valid"):
            if not getattr(self, name):
                raise DataError(f"{self.folder}: no usable {name} clips with text")

    def groups(self, number: int, short: bool) -> list[list[int]]:
        """The clips of one pass over the corpus (or over its shortest part), grouped by similar length and shuffled."""
        if self._pass[0] != (number, short):
            random = rng(self.seed, "pass", number, int(short))
            seconds = np.array([clip.seconds for clip in self.train])
            order = np.argsort(seconds + random.uniform(0.0, LENGTH_JITTER, len(seconds)), kind="stable")
            order = order[: max(1, int(SHORTEST * len(order)))] if short else order
            bins = (np.cumsum(seconds[order]) // self.batch_seconds).astype(int)
            found = [order[bins == b].tolist() for b in np.unique(bins)]
            self._pass = ((number, short), [found[i] for i in random.permutation(len(found))])
        return self._pass[1]

    def train_batch(self, step: int, rank: int, world: int) -> dict[str, Tensor]:
        """The batch of a step on one rank; see `collate` for the keys."""
        short = step < self.short_steps
        turn = (step if short else step - self.short_steps) * world + rank
        number, index = divmod(turn, self._groups_per_pass(short))
        groups = self.groups(number, short)
        waves, texts, spans = [], [], []
        for i in groups[index % len(groups)]:
            wave = load_clip(self.folder, self.train[i], WHISPER_RATE)
            span = speech_span(wave)
            if self.augment:
                wave, span = vary(wave, rng(self.seed, step, rank, i))
            waves.append(wave)
            texts.append(self.train[i].text)
            spans.append(span)
        return collate(waves, texts, spans)

    def _groups_per_pass(self, short: bool) -> int:
        """The same for every pass, so that a step finds its pass by division."""
        seconds = sorted(clip.seconds for clip in self.train)
        seconds = seconds[: max(1, int(SHORTEST * len(seconds)))] if short else seconds
        return max(1, int(sum(seconds) // self.batch_seconds))

    def val_batches(self) -> list[dict[str, Tensor]]:
        """The chosen validation clips, unvaried, 10 at a time."""
        batches = []
        for at in range(0, len(self.valid), 10):
            clips = self.valid[at : at + 10]
            waves = [load_clip(self.folder, clip, WHISPER_RATE) for clip in clips]
            batches.append(collate(waves, [clip.text for clip in clips], [speech_span(wave) for wave in waves]))
        return batches
