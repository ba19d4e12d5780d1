"""Training data of the flow decoder and of the vocoder: a speaker's clips as wave, mel, pitch and codes.

Beside them may stand clips by `others`, from which both learn to speak in the voice of a prompt. What a speaker does by
default is kept: some of the speaker's own rows, and they alone, have no vector.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mossrepro.data.corpus import Clip
from mossrepro.speech.speaker import VOICE_DIM
from mossrepro.training.step_data import Share, StepDataModule
from mossrepro.utils.audio import VOICE_HOP
from mossrepro.utils.errors import ConfigError
from mossrepro.utils.random import rng
from mossrepro.vocoder.batches import FlowBatch, VocoderBatch
from mossrepro.vocoder.clips import Clips, Sound
from mossrepro.vocoder.flow import FRAMES


class SoundDataModule(StepDataModule):
    """The clips of one speaker in a corpus, and in training those of others.

    own: the speaker's; others: everybody else's in another corpus, or in the same one; None for nobody's.
    """

    def __init__(self, own: Clips, others: Clips | None, others_share: float, batch: int, seed: int, num_workers: int):
        super().__init__(seed, num_workers)
        if not 0 < others_share < 1:
            raise ConfigError(f"others_share={others_share}: give a share of the rows, above 0 and below 1")
        self.own, self.others, self.others_share, self.batch = own, others, others_share, batch

    def clips(self, split: str) -> list[Clip]:
        """The speaker's clips of a split. DataError when there is none to train on."""
        return self.own.of(split)

    def sound(self, clip: Clip) -> Sound:
        """Wave, mel and pitch of a clip of the speaker's."""
        return self.own.sound(clip)

    def mel_statistics(self, sample: int = 100) -> tuple[float, float]:
        """Mean and standard deviation over the mels of (at most `sample`) training clips of the speaker's."""
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
        others: corpus folder of which the clips by everybody but the speaker are taken too; it may be the same.
        others_share: share of the pieces that are theirs.
    """

    def __init__(
        self,
        corpus: str,
        speaker: str = "assistant",
        batch: int = 16,
        frames: int = 32,
        seed: int = 0,
        num_workers: int = 0,
        others: str | None = None,
        others_share: float = 0.5,
    ):
        beside = None if others is None else Clips(others, speaker, others=True)
        super().__init__(Clips(corpus, speaker), beside, others_share, batch, seed, num_workers)
        self.frames = frames
        self._known_ends: dict[tuple[bool, str], np.ndarray] = {}

    def _ends(self, source: Clips, split: str) -> np.ndarray:
        """Where each clip of a split ends when all are laid end to end, in seconds."""
        key = source.others, split
        if key not in self._known_ends:
            self._known_ends[key] = np.cumsum([clip.seconds for clip in source.of(split)])
        return self._known_ends[key]

    def train_batch(self, step: int, rank: int, world: int) -> VocoderBatch:
        share, random = Share.of_rank(self.batch, rank, world), rng(self.seed, step, 0, "pieces")
        sources = [self.own] * self.batch
        if self.others is not None:
            drawn = rng(self.seed, step, 0, "others").random(self.batch) < self.others_share
            sources = [self.others if other else self.own for other in drawn]
        return self._pieces("train", random, sources, share.slice) | {"share": share.tensor()}

    def val_batches(self) -> list[VocoderBatch]:
        if not self.clips("valid"):
            return []
        return [self._pieces("valid", rng(self.seed, "valid", i), [self.own] * self.batch) for i in range(2)]

    def _pieces(
        self, split: str, random: np.random.Generator, sources: list[Clips], own: slice = slice(None)
    ) -> VocoderBatch:
        """The rows `own` of a batch, from a source each; those of other ranks are drawn and not cut."""
        rows = []
        for place, source in zip(random.random((self.batch, 2))[own], sources[own], strict=True):
            clips, ends = source.of(split), self._ends(source, split)
            sound = source.sound(clips[int(np.searchsorted(ends, place[0] * ends[-1], "right"))])
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


class _Row(NamedTuple):
    """codes (T,), mel (80, 4T), and the clip whose voice it is in; None where it is not to be told."""

    codes: Tensor
    mel: Tensor
    source: Clips
    like: Clip | None


class FlowDataModule(SoundDataModule):
    """Rows of `length` codes with their mels: codes (B, T), mel (B, 80, 4T), valid (B, T) bool.

    Half of the rows begin with a clip's first code and half inside it. A clip that ends early is followed by others
    of the same speaker, so nothing is wasted on padding; only clips that the token store holds are used.

    With `others` there is also voice (B, 256): the speaker vector of another clip by the same speaker, zeros in some
    rows of the speaker's own. Validation is the speaker's, without vectors.

    Args:
        corpus: corpus folder.
        tokens: token store of that corpus.
        speaker: whose clips are taken.
        batch: rows per step, over all ranks.
        length: codes of a row.
        seed: of the order of samples and of all randomness.
        num_workers: loader processes; the batches are the same for every number.
        others: corpus folder of which the clips by everybody but the speaker are taken too; it may be the same.
        others_tokens: token store of that corpus.
        others_share: share of the rows that are theirs.
        voice_dropout: share of the speaker's own rows that have no vector: how it sounds without a voice prompt.
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
        others: str | None = None,
        others_tokens: str | None = None,
        others_share: float = 0.5,
        voice_dropout: float = 0.5,
    ):
        if (others is None) != (others_tokens is None):
            raise ConfigError("data.init_args.others and others_tokens go together: a corpus and its codes")
        if not 0 < voice_dropout <= 1:
            raise ConfigError(f"voice_dropout={voice_dropout}: give a share above 0, at most 1")
        beside = None if others is None else Clips(others, speaker, others=True, tokens=others_tokens)
        own = Clips(corpus, speaker, tokens=tokens)
        super().__init__(own, beside, others_share, batch, seed, num_workers)
        self.length, self.voice_dropout = length, voice_dropout

    def train_batch(self, step: int, rank: int, world: int) -> FlowBatch:
        share = Share.of_rank(self.batch, rank, world)
        rows = self._rows("train", rng(self.seed, step, 0, "rows"))[share.slice]
        batch = _stacked(rows) | {"share": share.tensor()}
        return batch if self.others is None else batch | {"voice": torch.stack([_voice(row) for row in rows])}

    def val_batches(self) -> list[FlowBatch]:
        if not self.clips("valid"):
            return []
        return [_stacked(self._rows("valid", rng(self.seed, "valid", i))) for i in range(2)]

    def _rows(self, split: str, random: np.random.Generator) -> list[_Row]:
        """All rows of a batch, also those of other ranks: how much a row draws depends on the lengths of its clips."""
        mixed = self.others is not None and split == "train"
        return [self._mixed(split, random) if mixed else self._row(self.own, split, random) for _ in range(self.batch)]

    def _mixed(self, split: str, random: np.random.Generator) -> _Row:
        """A row of the speaker's or of another's."""
        other = random.random() < self.others_share
        row = self._row(self.others if other else self.own, split, random)
        told = other or random.random() >= self.voice_dropout
        return row._replace(like=row.source.another(row.like, random) if told else None)

    def _row(self, source: Clips, split: str, random: np.random.Generator) -> _Row:
        clips = source.of(split)
        first = clips[random.integers(len(clips))]
        clips, (codes, mel) = source.by(split, first.speaker), source.pair(first)
        skipped = int(random.integers(len(codes))) if random.random() < 0.5 else 0
        parts = [(codes[skipped:], mel[:, FRAMES * skipped :])]
        while sum(len(part) for part, _ in parts) < self.length:
            parts.append(source.pair(clips[random.integers(len(clips))]))
        codes, mel = torch.cat([c for c, _ in parts]), torch.cat([m for _, m in parts], -1)
        return _Row(codes[: self.length], mel[:, : FRAMES * self.length], source, first)


def _stacked(rows: list[_Row]) -> FlowBatch:
    codes, mel = torch.stack([row.codes for row in rows]), torch.stack([row.mel for row in rows])
    return {"codes": codes, "mel": mel, "valid": torch.ones_like(codes, dtype=torch.bool)}


def _voice(row: _Row) -> Tensor:
    return torch.zeros(VOICE_DIM) if row.like is None else row.source.voice(row.like)


def _cut(x: Tensor, start: int, length: int, fill: float = 0.0) -> Tensor:
    """x[..., start : start + length], padded at the end when x is too short."""
    piece = x[..., start : start + length]
    return torch.nn.functional.pad(piece, (0, length - piece.shape[-1]), value=fill)
