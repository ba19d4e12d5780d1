"""Batches for the adaptation of a tokenizer: somebody's recordings and clips of the tokenizer's own corpus by turns.

By turns and not side by side: their lengths differ, and a batch is padded to its longest clip.
"""

import math

import torch

from mossrepro.codec.batches import CodecBatch
from mossrepro.codec.data import CodecDataModule
from mossrepro.data.degrade import Roughness
from mossrepro.training.step_data import StepDataModule


class AdaptDataModule(StepDataModule):
    """A batch is of one of the two; "own" (B,) is 1 for the recordings and 0 for the corpus.

    Args:
        own: corpus of the recordings (`mossrepro data add`).
        corpus: the corpus that the tokenizer was trained on.
        batch_seconds: approximate seconds of sound per step, over all ranks.
        own_share: share of the steps that are of the recordings.
        rough: share of the clips that are degraded (`degrade.degrade`).
        roughness: see `CodecDataModule`.
        max_seconds: longer recordings are left out.
        valid_clips: clips of either corpus's "valid" split that are validated on.
        delay: seconds by which the phone targets lag behind the sound, as when the tokenizer was trained.
        seed: of the order of samples and of all randomness.
        num_workers: loader processes; the batches are the same for every number.
    """

    on_host = CodecDataModule.on_host

    def __init__(
        self,
        own: str,
        corpus: str,
        batch_seconds: float = 36.0,
        own_share: float = 0.5,
        rough: float = 0.4,
        roughness: Roughness | None = None,
        max_seconds: float = 30.0,
        valid_clips: int = 40,
        delay: float = 0.08,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(seed, num_workers)
        more = {"rough": rough, "roughness": roughness, "valid_clips": valid_clips, "delay": delay, "seed": seed}
        more |= {"clean": True, "max_seconds": max_seconds}
        self.own_share = own_share
        self.parts = [CodecDataModule(corpus=folder, batch_seconds=batch_seconds, **more) for folder in (corpus, own)]

    def prepare_data(self) -> None:
        """Align both corpora."""
        for part in self.parts:
            part.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Read both manifests. DataError where a split is empty."""
        for part in self.parts:
            part.setup(stage)

    def train_batch(self, step: int, rank: int, world: int) -> CodecBatch:
        """A rank's share of the clips of a step, with "own" (B,) and "clean" (`codec.batches`).

        The n-th step of either kind holds the n-th group of clips of that corpus.
        """
        before, after = (math.floor(n * self.own_share + 1e-9) for n in (step, step + 1))
        own = after > before
        batch = self.parts[own].train_batch(before if own else step - before, rank, world)
        return batch | {"own": torch.full((len(batch["wave"]),), float(own))}

    def val_batches(self) -> list[CodecBatch]:
        """Validation clips of the corpus, then of the recordings, 10 at a time."""
        return [batch for part in self.parts for batch in part.val_batches()]
