"""A stage small enough to fit in a second; the tests of the door name its classes in their YAML."""

import json
import os
import time
from pathlib import Path

import torch
from lightning.pytorch import LightningModule
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader

from mossrepro.training.step_data import StepDataModule
from mossrepro.utils.random import rng

STAGE = """
model:
  class_path: toy_stage.Task
  init_args: {width: "${size.codec.batch}", lr: "${size.codec.lr}"}
data:
  class_path: toy_stage.Data
  init_args: {batch: "${size.codec.batch}"}
trainer: {max_steps: 12, val_check_interval: 6, accelerator: cpu, enable_progress_bar: false}
"""


def weights(folder):
    """What a finished stage has exported."""
    return load_file(Path(folder) / "model.safetensors")


def curve(folder):
    """(step, numbers) of every line; the time differs between runs."""
    rows = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


def assert_same(a, b):
    """Two sets of weights are equal bit for bit."""
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Data(StepDataModule):
    """Random vectors."""

    def __init__(self, batch: int = 4, seed: int = 0, num_workers: int = 0) -> None:
        super().__init__(seed, num_workers)
        self.batch = batch

    def train_batch(self, step, rank, world):
        return {"x": torch.tensor(rng(self.seed, step, rank).standard_normal((self.batch, 8), dtype="float32"))}

    def val_batches(self):
        return [{"x": torch.ones(2, 8)}]

    def predict_dataloader(self):
        return DataLoader([{"x": torch.ones(2, 8)}] * 10_000, batch_size=None, num_workers=self.num_workers)


def pause(seconds: float) -> None:
    """Wait; says with the file $TOY_MARK that the stage is at work."""
    if mark := os.environ.get("TOY_MARK"):
        Path(mark).touch()
    time.sleep(seconds)


class Task(LightningModule):
    """An autoencoder with noise from the batch's seed."""

    def __init__(self, width: int = 4, lr: float = 0.01, pause: float = 0.0) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = torch.nn.Sequential(torch.nn.Linear(8, width), torch.nn.Tanh(), torch.nn.Linear(width, 8))
        self.lr, self.pause = lr, pause

    def training_step(self, batch, batch_idx):
        pause(self.pause)
        noise = torch.randn(batch["x"].shape, generator=torch.Generator().manual_seed(int(batch["seed"])))
        loss = (self.net(batch["x"] + 0.1 * noise) - batch["x"]).square().mean()
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def predict_step(self, batch, batch_idx):
        pause(self.pause)

    def validation_step(self, batch, batch_idx):
        if self.trainer.state.fn == "validate":
            pause(10_000 * self.pause)
        self.log("val/loss", self.net(batch["x"]).square().mean(), batch_size=2)

    def configure_optimizers(self):
        optimiser = torch.optim.AdamW(self.parameters(), lr=self.lr)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.trainer.max_steps)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def save_pretrained(self, folder):
        save_file(self.net.state_dict(), Path(folder) / "model.safetensors")
