"""Batches for the speech tokenizer: clips of similar length, augmented on the fly, in a reproducible order."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soxr
import torch

from mossrepro.codec.batches import IGNORE, CodecBatch
from mossrepro.codec.model import SAMPLES_PER_CODE
from mossrepro.codec.recogniser import STEPS, labels
from mossrepro.data.alignment import Phone, phone_times, read_phones
from mossrepro.data.codec_corpus import codec_corpus
from mossrepro.data.corpus import LONG_CLIP, Clip, left_out, load_clip, read_manifest
from mossrepro.data.degrade import Roughness, degrade
from mossrepro.speech.normalise import PHONES
from mossrepro.training.step_data import Share, StepDataModule, announce
from mossrepro.utils.audio import SAMPLE_RATE
from mossrepro.utils.errors import DataError
from mossrepro.utils.random import rng

SPEEDS = (0.85, 1.18)  # tape speed: moves pitch, formants and tempo together, a cheap second speaker
GAINS = (-12.0, 6.0)  # dB
TILTS = (-0.5, 0.5)  # first-order filter 1 + a z^-1: darker or brighter, another microphone
NOISES = (-80.0, -35.0)  # dB of full scale, white
LEAD = 0.1  # seconds of silence in front, at most
QUIET = 0.03  # share of the loudest sample below which a clip's ends count as silence
FRAME = 320  # samples of one phone decision, 20 ms
_INDEX = {name: i for i, name in enumerate(PHONES, 1)}
_BABBLING, _BABBLE = 0.4, 4  # share of degraded clips for which other clips are read, and how many
LENGTH_JITTER = 0.3  # seconds; regroups clips of similar length in every pass


def speech_span(wave: np.ndarray) -> tuple[int, int]:
    """First and last sample (end excluded) of a clip (n,) that is not silence."""
    loud = np.flatnonzero(np.abs(wave) > QUIET * np.abs(wave).max())
    return (int(loud[0]), int(loud[-1]) + 1) if len(loud) else (0, len(wave))


def vary(wave: np.ndarray, random: np.random.Generator) -> tuple[np.ndarray, tuple[int, int]]:
    """Augment a clip (n,): the new samples, and the first and last sample of its speech.

    Speed, spectral tilt, gain, noise and the length of a leading silence are drawn from `random`.
    """
    wave = soxr.resample(wave, random.uniform(*SPEEDS), 1.0, quality="LQ")
    tilt = random.uniform(*TILTS)
    wave = (wave + tilt * np.pad(wave, (1, 0))[:-1]) / (1 + abs(tilt))
    lead = int(random.uniform(0.0, LEAD) * SAMPLE_RATE)
    start, end = speech_span(wave)
    wave = np.pad(wave, (lead, 0)) * 10.0 ** (random.uniform(*GAINS) / 20.0)
    noise = random.standard_normal(len(wave), dtype=np.float32) * 10.0 ** (random.uniform(*NOISES) / 20.0)
    return np.clip(wave + noise, -1.0, 1.0).astype(np.float32), (start + lead, end + lead)


def phone_frames(
    phones: list[Phone], samples: int, before: tuple[int, int], after: tuple[int, int], delay: float
) -> np.ndarray:
    """Phone spoken in every 20 ms, `delay` seconds late: (4 codes,) int64, 0 silence, 1 ... 39 the phones of PHONES.

    A causal encoder cannot know a sound before it is over, hence the delay. `before` and `after` are the spans of
    speech (first, last sample) in the clip as aligned and as augmented; they undo a change of speed.
    """
    steps = -(-samples // SAMPLES_PER_CODE) * STEPS
    now = (np.arange(steps) + 0.5) * FRAME - delay * SAMPLE_RATE
    then = (before[0] + (now - after[0]) * (before[1] - before[0]) / max(after[1] - after[0], 1)) / SAMPLE_RATE
    frames = np.zeros(steps, np.int64)
    for name, start, end in phones:
        frames[(then >= start) & (then < end)] = _INDEX[name]
    return frames


class Example(NamedTuple):
    """A clip as it is trained on: samples (N,), before degradation too, a phone every 20 ms, all phones in order."""

    wave: np.ndarray
    clean: np.ndarray
    frames: np.ndarray  # (4 T,) int64
    labels: list[int]


def collate(examples: Sequence[Example], clean: bool = False) -> CodecBatch:
    """Pad to a batch, with the clean waves if they are wanted; phones are -100 past each clip's end."""
    batch = {
        "wave": _padded([torch.from_numpy(one.wave) for one in examples]),
        "lengths": torch.tensor([len(one.wave) for one in examples]),
        "phones": _padded([torch.from_numpy(one.frames) for one in examples], IGNORE),
        "labels": _padded([torch.tensor(one.labels, dtype=torch.int64) for one in examples]),
        "label_lengths": torch.tensor([len(one.labels) for one in examples]),
    }
    return batch | ({"clean": _padded([torch.from_numpy(one.clean) for one in examples])} if clean else {})


def _padded(rows: list[torch.Tensor], value: float = 0) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)


def nothing(clean: bool) -> CodecBatch:
    """80 ms of silence that count as a clip of length 0: the batch of a rank for which no clip is left."""
    silence = np.zeros(SAMPLES_PER_CODE, np.float32)
    batch = collate([Example(silence, silence, np.full(STEPS, IGNORE), [0])], clean)
    return batch | {name: torch.zeros(1, dtype=torch.int64) for name in ("lengths", "label_lengths")}


class CodecDataModule(StepDataModule):
    """Clips of a corpus with their text; the batch of a step is a pure function of (seed, step).

    Args:
        size: name of a codec corpus that is synthesised on first use.
        corpus: a corpus folder of your own instead.
        batch_seconds: approximate seconds of sound per step, over all ranks, which share its clips.
        valid_clips: clips of the "valid" split that phone accuracy is measured on.
        max_seconds: longer training clips are left out.
        delay: seconds by which the phone targets lag behind the sound.
        augment: vary speed, tilt, gain, noise and leading silence.
        rough: share of the augmented clips that are also degraded: a room, noise, a telephone, ... (`degrade.degrade`).
        clean: give every clip also as it was before that, for a teacher that hears it better.
        roughness: how often each kind of loss occurs in a degraded clip, and how strong it may be.
        roster: the voices of a corpus that is synthesised (`speech.roster`).
        seed: of the order of samples and of all randomness.
        num_workers: loader processes; the batches are the same for every number.
    """

    on_host = ("seed", "share", "lengths", "label_lengths")

    def __init__(
        self,
        size: str = "small",
        corpus: str | None = None,
        batch_seconds: float = 36.0,
        valid_clips: int = 80,
        max_seconds: float = LONG_CLIP,
        delay: float = 0.08,
        augment: bool = True,
        rough: float = 0.0,
        clean: bool = False,
        roughness: Roughness | None = None,
        roster: str = "five",
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(seed=seed, num_workers=num_workers)
        self.size, self.corpus, self.batch_seconds = size, corpus, batch_seconds
        self.valid_clips, self.max_seconds = valid_clips, max_seconds
        self.delay, self.augment, self.rough, self.roster = delay, augment, rough, roster
        self.roughness, self.clean = roughness or Roughness(), clean
        self.folder: Path | None = None
        self.train: list[Clip] = []
        self.valid: list[Clip] = []
        self.phones: dict[str, list[Phone]] = {}
        self._per_pass = 1
        self._pass: tuple[int, list[list[int]]] = (-1, [])

    def prepare_data(self) -> None:
        """Synthesise and align the corpus once per machine."""
        phone_times(self.corpus or codec_corpus(self.size, voices=self.roster))

    def setup(self, stage: str | None = None) -> None:
        """Read the manifest. Raises DataError when a split is empty."""
        self.folder = Path(self.corpus) if self.corpus else codec_corpus(self.size, voices=self.roster)
        self.phones = read_phones(phone_times(self.folder))
        clips = [clip for clip in read_manifest(self.folder) if clip.split in ("train", "valid")]
        unfit = [clip for clip in clips if not self.phones.get(clip.id)]
        fit = [clip for clip in clips if self.phones.get(clip.id)]
        long = [clip for clip in fit if clip.split == "train" and clip.seconds > self.max_seconds]
        self.train = [clip for clip in fit if clip.split == "train" and clip.seconds <= self.max_seconds]
        valid = [clip for clip in fit if clip.split == "valid"]
        reasons = {"whose sound does not fit the transcript": unfit, f"longer than {self.max_seconds:g} s": long}
        if line := left_out(clips, reasons):
            announce(f"{self.folder}: {line}")
        chosen = rng(self.seed, "valid").permutation(len(valid))[: self.valid_clips]
        self.valid = sorted((valid[i] for i in chosen), key=lambda clip: clip.seconds)
        for name in ("train", "valid"):
            if not getattr(self, name):
                raise DataError(f"{self.folder}: no {name} clips that fit their text")
        # The same number of groups for every pass, so that a step finds its pass by division.
        self._per_pass = max(1, int(sum(clip.seconds for clip in self.train) // self.batch_seconds))

    def groups(self, number: int) -> list[list[int]]:
        """The clips of one pass over the corpus, grouped by similar length and shuffled."""
        if self._pass[0] != number:
            random = rng(self.seed, "pass", number)
            seconds = np.array([clip.seconds for clip in self.train])
            order = np.argsort(seconds + random.uniform(0.0, LENGTH_JITTER, len(seconds)), kind="stable")
            bins = (np.cumsum(seconds[order]) // self.batch_seconds).astype(int)
            found = [group.tolist() for group in np.split(order, np.flatnonzero(np.diff(bins)) + 1)]
            self._pass = (number, [found[i] for i in random.permutation(len(found))])
        return self._pass[1]

    def rows(self, step: int) -> list[int]:
        """The training clips of a step, over all ranks."""
        number, index = divmod(step, self._per_pass)
        groups = self.groups(number)
        return groups[index % len(groups)]

    def example(self, step: int, row: int) -> Example:
        """A training clip as it is in a step: the same whatever else is in that step."""
        return self._example(self.train[row], rng(self.seed, step, 0, row) if self.augment else None)

    def train_batch(self, step: int, rank: int, world: int) -> CodecBatch:
        """A rank's share of the clips of a step; see `collate` for the keys."""
        group = self.rows(step)
        share = Share.of_rank(len(group), rank, world)
        examples = [self.example(step, row) for row in group[share.slice]] if share.rows else []
        batch = collate(examples, self.clean) if examples else nothing(self.clean)
        return batch | {"share": share.tensor()}

    def _example(self, clip: Clip, random: np.random.Generator | None) -> Example:
        """A clip, augmented if there is a generator."""
        clean = wave = load_clip(self.folder, clip, SAMPLE_RATE)
        before = after = speech_span(wave)
        if random is not None:
            wave, after = vary(wave, random)
            clean = wave
            if random.random() < self.rough:
                others = random.choice(len(self.train), _BABBLE) if random.random() < _BABBLING else []
                others = [load_clip(self.folder, self.train[i], SAMPLE_RATE) for i in others]
                wave = degrade(wave, random, self.roughness, others)
        frames = phone_frames(self.phones[clip.id], len(wave), before, after, self.delay)
        return Example(wave, clean, frames, labels([phone for phone, _, _ in self.phones[clip.id]]))

    def val_examples(self) -> list[Example]:
        """The chosen validation clips, not augmented."""
        return [self._example(clip, None) for clip in self.valid]

    def val_batches(self) -> list[CodecBatch]:
        """The validation clips, 10 at a time."""
        examples = self.val_examples()
        return [collate(examples[at : at + 10]) for at in range(0, len(examples), 10)]
