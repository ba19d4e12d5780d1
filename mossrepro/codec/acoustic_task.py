"""Training of the acoustic baseline: reconstruct the wave."""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from mossrepro.codec.acoustic import AcousticCodec, AcousticConfig
from mossrepro.codec.batches import CodecBatch, padded_alike
from mossrepro.codec.model import SAMPLES_PER_CODE
from mossrepro.codec.task import start_in_time
from mossrepro.training.task import Task
from mossrepro.utils.devices import select
from mossrepro.utils.distributed import mean_over_ranks, rows_of_all_ranks
from mossrepro.utils.spectral import spectral_loss


class AcousticTask(Task):
    """loss = multi-resolution spectral distance + wave_weight * L1 of the wave + commitment_weight * commitment.

    A batch is that of `CodecDataModule`; of its phones and lengths only matters whether a clip has any. The codebooks
    come in after `quantise_after` of the steps, initialised by k-means on the newest latents. Means are over the waves
    of all ranks, and the codebooks learn from all of them.

    Args:
        network: shape of the codec.
        lr: peak learning rate.
        warmup_steps: steps of linear warm-up; a cosine follows, which ends at the trainer's max_steps.
        wave_weight: weight of the L1 distance of the waves; that of the spectral loss is 1.
        commitment_weight: beta of arXiv 1711.00937.
        quantise_after: share of max_steps after which the codebooks come in.
    """

    def __init__(
        self,
        network: AcousticConfig,
        lr: float = 1e-3,
        warmup_steps: int = 30,
        wave_weight: float = 10.0,
        commitment_weight: float = 1.0,
        quantise_after: float = 0.2,
    ) -> None:
        super().__init__()
        self.codec = AcousticCodec(network)
        self.lr, self.warmup_steps = lr, warmup_steps
        self.wave_weight, self.commitment_weight = wave_weight, commitment_weight
        self.quantise_after = quantise_after
        self._quantised = False  # as `quantiser.started`, which is on the device

    def on_train_start(self) -> None:
        """Note whether the codebooks have been placed, in a training that is continued."""
        self._quantised = self.codec.quantiser.started

    def _given_back(self, vectors: Tensor, wave: Tensor, clips: Tensor) -> tuple[Tensor, Tensor]:
        """Spectral and L1 distance of the decoded vectors (B, T, C) to the wave (B, N).

        `clips` is B, or 0 if the wave counts for nothing.
        """
        wave = F.pad(wave, (0, -wave.shape[1] % SAMPLES_PER_CODE))
        again = self.codec.sound(vectors)
        return spectral_loss(again.float(), wave, rows=clips), mean_over_ranks((again - wave).abs().mean(), clips)

    def training_step(self, batch: CodecBatch, batch_index: int) -> Tensor:
        """One step; it also updates the codebooks, which learn by moving averages and not by gradient."""
        generator = torch.Generator().manual_seed(int(batch["seed"]))
        batch = padded_alike(batch)
        counts = batch["lengths"] > 0  # (B,), all or none
        clips = counts.sum()
        quantiser, latents = self.codec.quantiser, self.codec.latents(batch["wave"])
        vectors, commitment = latents, latents.new_zeros(())
        heard = rows_of_all_ranks(select(latents.detach(), counts).flatten(0, 1))  # (N, C), the same on every rank
        if not self._quantised:
            quantiser.remember(heard)
            self._quantised = start_in_time(quantiser, self, self.quantise_after, generator)
        if self._quantised:
            vectors, codes, commitment = quantiser(latents)
            commitment = mean_over_ranks(commitment, clips)
            replaced = quantiser.update(heard, rows_of_all_ranks(select(codes, counts).flatten(0, 1)), generator)
            self.log("train/replaced", replaced.float(), batch_size=len(latents))
        spectral, wave = self._given_back(vectors, batch["wave"], clips)
        self.log("train/spectral", spectral.detach(), prog_bar=True)
        return spectral + self.wave_weight * wave + self.commitment_weight * commitment

    def validation_step(self, batch: CodecBatch, batch_index: int) -> None:
        """Spectral distance of the reconstruction, quantised once the codebooks have started."""
        latents = self.codec.latents(batch["wave"])
        vectors = self.codec.quantiser(latents).vectors if self.codec.quantiser.started else latents
        self.log(
            "val/spectral",
            self._given_back(vectors, batch["wave"], (batch["lengths"] > 0).sum())[0],
            batch_size=len(latents),
        )

    def configure_optimizers(self) -> dict:
        """AdamW; the rate is a function of the step alone."""
        optimiser = torch.optim.AdamW(self.parameters(), lr=self.lr, betas=(0.8, 0.99), weight_decay=0.0, fused=True)
        return self.scheduled(optimiser, self.warmup_steps)

    def save_pretrained(self, folder: Path) -> None:
        """Export the codec: `AcousticCodec.from_pretrained(folder)` loads it."""
        self.codec.save_pretrained(folder)
