"""Batches for the adaptation of a tokenizer: somebody's recordings beside clips of the tokenizer's own corpus."""

import torch

from mossrepro.codec.batches import CodecBatch
from mossrepro.codec.data import CodecDataModule, collate, nothing
from mossrepro.data.degrade import Roughness
from mossrepro.training.step_data import Share, StepDataModule


class AdaptDataModule(StepDataModule):
    """Every batch holds both; "own" (B,) is 1 for the recordings and 0 for the corpus.

    Args:
        own: corpus of the recordings (`mossrepro data add`).
        corpus: the corpus that the tokenizer was trained on.
        batch_seconds: approximate seconds of sound per step, over all ranks.
        own_share: share of them that is of the recordings.
        rough: share of the clips that are degraded (`degrade.degrade`).
        roughness: see `CodecDataModule`.
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
        valid_clips: int = 40,
        delay: float = 0.08,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(seed, num_workers)
        more = {"rough": rough, "roughness": roughness, "valid_clips": valid_clips, "delay": delay, "seed": seed}
        seconds = (batch_seconds * (1 - own_share), batch_seconds * own_share)  # by "own"
        self.parts = [
            CodecDataModule(corpus=folder, batch_seconds=part, clean=True, **more)
            for folder, part in zip((corpus, own), seconds, strict=True)
        ]

    def prepare_data(self) -> None:
        """Align both corpora."""
        for part in self.parts:
            part.prepare_data()

    def setup(self, stage: str | None = None) -> None:
        """Read both manifests. DataError where a split is empty."""
        for part in self.parts:
            part.setup(stage)

    def train_batch(self, step: int, rank: int, world: int) -> CodecBatch:
        """A rank's share of the clips of a step, with "own" (B,) and "clean" (`codec.batches`)."""
        rows = [(own, row) for own, part in enumerate(self.parts) for row in part.rows(step)]
        share = Share.of_rank(len(rows), rank, world)
        if not share.rows:
            return nothing(True) | {"own": torch.zeros(1), "share": share.tensor()}
        rows = rows[share.slice]
        batch = collate([self.parts[own].example(step, row) for own, row in rows], clean=True)
        return batch | {"own": torch.tensor([float(own) for own, _ in rows]), "share": share.tensor()}

    def val_batches(self) -> list[CodecBatch]:
        """Validation clips of the corpus, then of the recordings, 10 at a time."""
        return [batch for part in self.parts for batch in part.val_batches()]
