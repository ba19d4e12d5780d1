"""A stage small enough to fit in a second; the tests of the door name its classes in their YAML."""

import time
from pathlib import Path

import torch
from lightning.pytorch import LightningModule
from safetensors.torch import save_file

from mossrepro.training.step_data import StepDataModule
from mossrepro.utils.random import rng


class Data(StepDataModule):
    """Random vectors."""

    def __init__(self, batch: int = 4, seed: int = 0, num_workers: int = 0) -> None:
        super().__init__(seed, num_workers)
        self.batch = batch

    def train_batch(self, step, rank, world):
        return {"x": torch.tensor(rng(self.seed, step, rank).standard_normal((self.batch, 8), dtype="float32"))}

    def val_batches(self):
        return [{"x": torch.ones(2, 8)}]


class Task(LightningModule):
    """An autoencoder with noise from the batch's seed."""

    def __init__(self, width: int = 4, lr: float = 0.01, pause: float = 0.0) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = torch.nn.Sequential(torch.nn.Linear(8, width), torch.nn.Tanh(), torch.nn.Linear(width, 8))
        self.lr, self.pause = lr, pause

    def training_step(self, batch, batch_idx):
        time.sleep(self.pause)
        noise = torch.randn(batch["x"].shape, generator=torch.Generator().manual_seed(int(batch["seed"])))
        loss = (self.net(batch["x"] + 0.1 * noise) - batch["x"]).square().mean()
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.net(batch["x"]).square().mean(), batch_size=2)

    def configure_optimizers(self):
        optimiser = torch.optim.AdamW(self.parameters(), lr=self.lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.trainer.max_steps)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def save_pretrained(self, folder):
        save_file(self.net.state_dict(), Path(folder) / "model.safetensors")
