"""Training of both sound models under the trainer: it learns, and resumed equals uninterrupted."""

import numpy as np
import pytest
import torch
from codec_toys import Continues
from lightning.pytorch import Trainer

from mossrepro.training.step_data import StepDataModule
from mossrepro.utils.errors import ConfigError
from mossrepro.utils.random import rng
from mossrepro.vocoder.generator import pulse_train
from mossrepro.vocoder.task import FlowTask, VocoderTask


class Hum(StepDataModule):
    """Pulse trains whose mel is a constant picture of their pitch, and codes that name it."""

    def train_batch(self, step, rank, world):
        which = torch.from_numpy(rng(self.seed, step).integers(2, size=4))
        f0 = (150.0 + 100.0 * which)[:, None].expand(4, 8)
        mel = torch.full((4, 80, 8), -8.0)
        mel[torch.arange(4), 4 + 3 * which] = 0.0
        wave = 0.02 * pulse_train(f0.repeat_interleave(480, -1), 24000)
        codes = which[:, None].expand(4, 2)
        return {"codes": codes, "mel": mel, "wave": wave, "pitch": f0, "valid": torch.ones(4, 2, dtype=torch.bool)}

    def val_batches(self):
        return [self.train_batch(0, 0, 1)]

    def mel_statistics(self):
        return -7.9, 0.9


def flow():
    torch.manual_seed(0)
    return FlowTask(codes=2, dim=64, code_layers=1, layers=1, lr=2e-3, warmup_steps=2)


def vocoder():
    torch.manual_seed(0)
    return VocoderTask(dim=32, layers=1, fine_layers=1, pitch_dim=16, lr=2e-3, warmup_steps=2)


def fit(task, steps, total, resume=None):
    """`steps` optimiser steps of a fit that is planned for `total`."""
    trainer = Trainer(
        max_steps=total,
        max_epochs=-1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=0,
        callbacks=[Continues()] if resume else [],
    )
    task.stop_after = steps
    trainer.fit(task, datamodule=Hum(seed=3), ckpt_path=resume, weights_only=True if resume else None)
    return trainer


@pytest.mark.parametrize("make", [flow, vocoder])
def test_resumed_equals_uninterrupted(make, tmp_path):
    class Stopping(type(make())):
        def on_train_batch_end(self, outputs, batch, index):
            if self.global_step == self.stop_after < self.trainer.max_steps:
                self.trainer.save_checkpoint(tmp_path / "at.ckpt")
                raise KeyboardInterrupt

    def stopping():
        task = make()
        task.__class__ = Stopping
        return task

    whole = stopping()
    fit(whole, 6, 6)
    with pytest.raises(
        (SystemExit, KeyboardInterrupt)
    ):  # Lightning exits, where the interruption does not pass through
        fit(stopping(), 3, 6)
    assert (tmp_path / "at.ckpt").is_file()
    resumed = stopping()
    fit(resumed, 6, 6, tmp_path / "at.ckpt")
    assert resumed.global_step == 6
    for (name, left), right in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(left, right), name


@pytest.mark.parametrize("make", [flow, vocoder])
def test_training_lowers_the_validation_loss(make):
    task, data = make(), Hum(seed=3)
    fresh = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    before = fresh.validate(task, datamodule=data, verbose=False)[0]
    fit(task, 40, 40)
    after = fresh.validate(task, datamodule=data, verbose=False)[0]
    assert sum(after.values()) < 0.75 * sum(before.values()), (before, after)
    assert before and all(after[name] < before[name] for name in before), (before, after)


def test_the_flow_takes_the_statistics_of_its_data():
    task = flow()
    fit(task, 1, 1)
    assert task.model.config["mel_mean"] == pytest.approx(-7.9)


def test_codes_start_as_the_codecs_vectors(tmp_path) -> None:
    book = np.random.default_rng(0).standard_normal((32, 16)).astype("float32")
    book[5] = book[4]
    np.save(tmp_path / "codebook.npy", book)
    plain = FlowTask(32, dim=64, code_layers=1, layers=1).model.encoder.embedding.weight
    taken = FlowTask(32, dim=64, code_layers=1, layers=1, codebook=str(tmp_path)).model.encoder.embedding.weight
    assert torch.equal(taken[4], taken[5]) and not torch.equal(plain[4], plain[5])
    assert abs(taken.std().item() - 0.5) < 0.01
    with pytest.raises(ConfigError, match="codebook.npy"):
        FlowTask(64, dim=64, code_layers=1, layers=1, codebook=str(tmp_path))
