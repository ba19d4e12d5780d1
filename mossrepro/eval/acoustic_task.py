"""Training of the acoustic rival: give back the wave."""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from mossrepro.codec.model import SAMPLES_PER_CODE
from mossrepro.eval.acoustic import AcousticCodec, AcousticConfig
from mossrepro.training import Task
from mossrepro.vocoder.losses import spectral_loss


class AcousticTask(Task):
    """loss = multi-resolution spectral distance + wave_weight * L1 of the wave + commitment_weight * commitment.

    A batch holds wave (B, N) and seed () (`CodecDataModule`); its phones are not looked at.

    Args:
        network: the sizes. lr: peak rate; a linear warm-up over `warmup_steps` and a cosine to 2 % shape it.
    """

    def __init__(
        self,
        network: AcousticConfig,
        lr: float = 1e-3,
        warmup_steps: int = 30,
        wave_weight: float = 10.0,
        commitment_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.codec = AcousticCodec(network)
        self.lr, self.warmup_steps = lr, warmup_steps
        self.wave_weight, self.commitment_weight = wave_weight, commitment_weight

    def _losses(self, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        wave = F.pad(batch["wave"], (0, -batch["wave"].shape[1] % SAMPLES_PER_CODE))
        again, commitment = self.codec(wave)
        return spectral_loss(again.float(), wave), (again - wave).abs().mean(), commitment

    def training_step(self, batch: dict[str, Tensor], batch_index: int) -> Tensor:
        torch.manual_seed(int(batch["seed"]))  # encodec draws new codes for dead ones from the global generator
        spectral, wave, commitment = self._losses(batch)
        self.log("train/spectral", spectral.detach(), prog_bar=True)
        return spectral + self.wave_weight * wave + self.commitment_weight * commitment

    def validation_step(self, batch: dict[str, Tensor], batch_index: int) -> None:
        """Spectral distance of what is given back."""
        self.log("valid/spectral", self._losses(batch)[0], batch_size=len(batch["wave"]))

    def configure_optimizers(self) -> dict:
        """AdamW; the rate is a function of the step alone."""
        optimiser = torch.optim.AdamW(self.parameters(), lr=self.lr, betas=(0.8, 0.99), weight_decay=0.0, fused=True)
        return self.scheduled(optimiser, self.warmup_steps)

    def save_pretrained(self, folder: Path) -> None:
        """Export the codec: `AcousticCodec.from_pretrained(folder)` loads it."""
        self.codec.save_pretrained(folder)
