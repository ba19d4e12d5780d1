"""Training of the network that draws codes for a text (`text_to_code.py`)."""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from mossrepro.codec.batches import IGNORE
from mossrepro.codec.text_to_code import TextToCode, TextToCodeConfig
from mossrepro.codec.text_to_code_data import TextToCodeBatch, TextToCodeDataModule
from mossrepro.training.task import Task
from mossrepro.utils.errors import ConfigError


class TextToCodeTask(Task):
    """Cross-entropy of the next code, nats a code. A mean over all ranks' codes: `count` is in the batch.

    Args:
        codes: size of the codebook.
        speakers: rows for speakers, at least those of the corpus.
        dim: width of the network.
        layers: of convolutions over phones.
        lr: peak learning rate.
        warmup_steps: steps of linear warm-up; a cosine to 2 % follows.
        weight_decay: of AdamW.
    """

    def __init__(
        self,
        codes: int,
        speakers: int = 512,
        dim: int = 256,
        layers: int = 3,
        lr: float = 2e-3,
        warmup_steps: int = 30,
        weight_decay: float = 0.05,
    ) -> None:
        super().__init__()
        self.model = TextToCode(TextToCodeConfig(codes, speakers, dim, layers))
        self.lr, self.warmup_steps, self.weight_decay = lr, warmup_steps, weight_decay

    def setup(self, stage: str) -> None:
        """Take the durations from the data. ConfigError for another codebook, or for more speakers than rows."""
        data = getattr(self.trainer, "datamodule", None)
        if not isinstance(data, TextToCodeDataModule):
            return
        config = self.model.config
        if data.codebook != config.codes:
            raise ConfigError(f"data.tokens are of a codebook of {data.codebook}, model.codes={config.codes}")
        if len(data.speakers) > config.speakers:
            raise ConfigError(f"model.speakers={config.speakers}, but the corpus has {len(data.speakers)}")
        self.model.durations.copy_(torch.from_numpy(data.durations).to(self.model.durations))
        self.model.pace[: len(data.pace)] = torch.from_numpy(data.pace).to(self.model.pace)
        self.model.trained[: len(data.pace)] = True

    def _loss(self, batch: TextToCodeBatch) -> Tensor:
        codes = batch["codes"]
        logits = self.model(batch["phones"], batch["speakers"], codes.clamp(min=0))
        return F.cross_entropy(logits.float().flatten(0, 1), codes.flatten(), ignore_index=IGNORE, reduction="sum")

    def training_step(self, batch: TextToCodeBatch, index: int) -> Tensor:
        loss = self._loss(batch) / batch["count"].to(self.device)
        self.log("train/code", loss.detach(), prog_bar=True, sync_dist=self.trainer.world_size > 1)
        return loss

    def validation_step(self, batch: TextToCodeBatch, index: int) -> None:
        """Nats a code on sentences that nobody has said in the training."""
        count = int(batch["count"])
        self.log("val/code", self._loss(batch) / count, prog_bar=True, batch_size=count)

    def configure_optimizers(self) -> dict:
        optimiser = torch.optim.AdamW(self.model.parameters(), lr=self.lr, weight_decay=self.weight_decay)
        return self.scheduled(optimiser, self.warmup_steps)

    def save_pretrained(self, folder: str | Path) -> None:
        """model.safetensors and config.json."""
        self.model.save_pretrained(folder)
