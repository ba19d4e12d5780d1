"""Training data of the flow decoder and of the vocoder: one speaker's clips as wave, mel, pitch and codes."""

import functools
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mossrepro.data.corpus import SPLITS, Clip, left_out, load_clip, read_manifest
from mossrepro.data.token_store import TokenStore
from mossrepro.training.step_data import Share, StepDataModule, announce
from mossrepro.utils.audio import VOICE_HOP, VOICE_SAMPLE_RATE, mel24
from mossrepro.utils.errors import DataError
from mossrepro.utils.random import rng
from mossrepro.vocoder.batches import FlowBatch, VocoderBatch
from mossrepro.vocoder.flow import FRAMES
from mossrepro.vocoder.pitch import measure_pitch

KEPT = 4000  # clips in memory: about 4 hours of sentences, 1.5 GB
CODE = FRAMES * VOICE_HOP  # samples of one code at 24 kHz


class Sound(NamedTuple):
    """A clip, padded with silence to whole codes: wave (T * 1920,), mel (80, 4T), pitch (4T,) in Hz."""

    wave: Tensor
    mel: Tensor
    pitch: Tensor


def whole_codes(wave: np.ndarray) -> Tensor:
    """Samples (n,) at 24 kHz -> (ceil(n / 1920) * 1920,), zeros at the end."""
    return torch.from_numpy(np.pad(wave, (0, -len(wave) % CODE)))


class SoundDataModule(StepDataModule):
    """The clips of one speaker in a corpus, read when first needed and cached.

    Args:
        corpus: corpus folder.
        speaker: whose clips are taken.
        batch: rows per step, over all ranks.
        seed: of the order of samples and of all randomness.
        num_workers: loader processes; the batches are the same for every number.
    """

    def __init__(self, corpus: str, speaker: str = "assistant", batch: int = 16, seed: int = 0, num_workers: int = 0):
        super().__init__(seed, num_workers)
        self.corpus, self.speaker, self.batch = Path(corpus), speaker, batch
        self._read = functools.lru_cache(KEPT)(self._sound)
        self._clips: dict[str, list[Clip]] = {}

    def __getstate__(self) -> dict:
        """The cache is not pickled: every loader process fills its own."""
        return {key: value for key, value in self.__dict__.items() if key != "_read"}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._read = functools.lru_cache(KEPT)(self._sound)

    def clips(self, split: str) -> list[Clip]:
        """The speaker's clips of a split. DataError when there is none to train on."""
        if not self._clips:
            self._clips = self._read_clips()
        return self._clips[split]

    def _read_clips(self) -> dict[str, list[Clip]]:
        ours = [clip for clip in read_manifest(self.corpus) if clip.speaker == self.speaker]
        found = {name: [clip for clip in ours if clip.split == name] for name in SPLITS}
        if not found["train"]:
            raise DataError(f"{self.corpus}: no training clip of speaker {self.speaker!r}")
        return found

    def _sound(self, clip: Clip) -> Sound:
        wave = whole_codes(load_clip(self.corpus, clip, VOICE_SAMPLE_RATE))
        return Sound(wave, mel24(wave[None])[0], measure_pitch(wave[None], VOICE_SAMPLE_RATE, VOICE_HOP)[0])

    def sound(self, clip: Clip) -> Sound:
        """Wave, mel and pitch of a clip."""
        return self._read(clip)

    def mel_statistics(self, sample: int = 100) -> tuple[float, float]:
        """Mean and standard deviation over the mels of (at most `sample`) training clips."""
        clips = self.clips("train")
        chosen = rng(self.seed, "statistics").permutation(len(clips))[:sample]
        mels = torch.cat([self.sound(clips[i]).mel for i in chosen], -1)
        return mels.mean().item(), mels.std().item()


class VocoderDataModule(SoundDataModule):
    """Pieces of `frames` mel frames: mel (B, 80, frames), wave (B, frames * 480), pitch (B, frames).

    Mel and pitch are cut from those of the whole clip, so that a piece has no edge effects. Clips are drawn in
    proportion to their length.

    Args:
        corpus: corpus folder.
        speaker: whose clips are taken.
        batch: pieces per step, over all ranks.
        frames: mel frames of a piece.
        seed: of the order of samples and of all randomness.
        num_workers: loader processes; the batches are the same for every number.
    """

    def __init__(
        self,
        corpus: str,
        speaker: str = "assistant",
        batch: int = 16,
        frames: int = 32,
        seed: int = 0,
        num_workers: int = 0,
    ):
        super().__init__(corpus, speaker, batch, seed, num_workers)
        self.frames = frames
        self._known_ends: dict[str, np.ndarray] = {}

    def _ends(self, split: str) -> np.ndarray:
        """Where each clip of a split ends when all are laid end to end, in seconds."""
        if split not in self._known_ends:
            self._known_ends[split] = np.cumsum([clip.seconds for clip in self.clips(split)])
        return self._known_ends[split]

    def train_batch(self, step: int, rank: int, world: int) -> VocoderBatch:
        share = Share.of_rank(self.batch, rank, world)
        return self._pieces("train", rng(self.seed, step, 0, "pieces"), share.slice) | {"share": share.tensor()}

    def val_batches(self) -> list[VocoderBatch]:
        return [self._pieces("valid", rng(self.seed, "valid", i)) for i in range(2)] if self.clips("valid") else []

    def _pieces(self, split: str, random: np.random.Generator, own: slice = slice(None)) -> VocoderBatch:
        """The rows `own` of a batch; those of other ranks are drawn and not cut."""
        clips, ends = self.clips(split), self._ends(split)
        rows = []
        for place in random.random((self.batch, 2))[own]:
            sound = self.sound(clips[int(np.searchsorted(ends, place[0] * ends[-1], "right"))])
            at = int(place[1] * (max(sound.mel.shape[-1] - self.frames, 0) + 1))
            rows.append(
                Sound(
                    _cut(sound.wave, at * VOICE_HOP, self.frames * VOICE_HOP),
                    _cut(sound.mel, at, self.frames, math.log(1e-5)),
                    _cut(sound.pitch, at, self.frames),
                )
            )
        wave, mel, pitch = (torch.stack(column) for column in zip(*rows, strict=True))
        return {"wave": wave, "mel": mel, "pitch": pitch}


class FlowDataModule(SoundDataModule):
    """Rows of `length` codes with their mels: codes (B, T), mel (B, 80, 4T), valid (B, T) bool.

    Half of the rows begin with a clip's first code and half inside it. A clip that ends early is followed by others,
    so nothing is wasted on padding; only clips that the token store holds are used.

    Args:
        corpus: corpus folder.
        tokens: token store of that corpus.
        speaker: whose clips are taken.
        batch: rows per step, over all ranks.
        length: codes of a row.
        seed: of the order of samples and of all randomness.
        num_workers: loader processes; the batches are the same for every number.
    """

    def __init__(
        self,
        corpus: str,
        tokens: str,
        speaker: str = "assistant",
        batch: int = 8,
        length: int = 40,
        seed: int = 0,
        num_workers: int = 0,
    ):
        super().__init__(corpus, speaker, batch, seed, num_workers)
        self.tokens, self.length = tokens, length

    @functools.cached_property
    def store(self) -> TokenStore:
        """The codes, opened when first needed."""
        return TokenStore(self.tokens)

    def _read_clips(self) -> dict[str, list[Clip]]:
        found = super()._read_clips()
        kept = {split: [clip for clip in clips if clip.id in self.store] for split, clips in found.items()}
        ours = found["train"] + found["valid"]
        if line := left_out(ours, {"without codes": [clip for clip in ours if clip.id not in self.store]}):
            announce(f"{self.tokens}: {line}")
        if not kept["train"]:
            raise DataError(f"{self.tokens}: holds no codes of {self.corpus}'s clips by {self.speaker!r}")
        return kept

    def pair(self, clip: Clip) -> tuple[Tensor, Tensor]:
        """codes (T,) and mel (80, 4T) of a clip, cut to the shorter when rounding made them differ by one code."""
        codes, mel = torch.from_numpy(self.store[clip.id]), self.sound(clip).mel
        if abs(len(codes) - mel.shape[-1] // FRAMES) > 1:
            raise DataError(f"{self.tokens}: {clip.id} has {len(codes)} codes for {mel.shape[-1]} mel frames")
        length = min(len(codes), mel.shape[-1] // FRAMES)
        return codes[:length], mel[:, : FRAMES * length]

    def train_batch(self, step: int, rank: int, world: int) -> FlowBatch:
        share = Share.of_rank(self.batch, rank, world)
        return self._rows("train", rng(self.seed, step, 0, "rows"), share.slice) | {"share": share.tensor()}

    def val_batches(self) -> list[FlowBatch]:
        return [self._rows("valid", rng(self.seed, "valid", i)) for i in range(2)] if self.clips("valid") else []

    def _rows(self, split: str, random: np.random.Generator, own: slice = slice(None)) -> FlowBatch:
        """The rows `own` of a batch. All are made: how much a row draws depends on the lengths of its clips."""
        clips = self.clips(split)
        rows = [self._row(clips, random) for _ in range(self.batch)][own]
        codes, mel = (torch.stack(column) for column in zip(*rows, strict=True))
        return {"codes": codes, "mel": mel, "valid": torch.ones_like(codes, dtype=torch.bool)}

    def _row(self, clips: list[Clip], random: np.random.Generator) -> tuple[Tensor, Tensor]:
        codes, mel = self.pair(clips[random.integers(len(clips))])
        skipped = int(random.integers(len(codes))) if random.random() < 0.5 else 0
        parts = [(codes[skipped:], mel[:, FRAMES * skipped :])]
        while sum(len(part) for part, _ in parts) < self.length:
            parts.append(self.pair(clips[random.integers(len(clips))]))
        codes, mel = torch.cat([c for c, _ in parts]), torch.cat([m for _, m in parts], -1)
        return codes[: self.length], mel[:, : FRAMES * self.length]


def _cut(x: Tensor, start: int, length: int, fill: float = 0.0) -> Tensor:
    """x[..., start : start + length], padded at the end when x is too short."""
    piece = x[..., start : start + length]
    return torch.nn.functional.pad(piece, (0, length - piece.shape[-1]), value=fill)
