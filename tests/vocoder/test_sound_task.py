"""Training of both sound models under the trainer: it learns, and resumed equals uninterrupted."""

import numpy as np
import pytest
import torch
from codec_toys import Continues
from lightning.pytorch import Trainer
from sound_toys import Hum, flow, vocoder

from mossrepro.utils.errors import ConfigError
from mossrepro.vocoder.flow import FlowDecoder
from mossrepro.vocoder.task import FlowTask


def averaged_flow():
    return flow(chunks=(0, 25, 1), look_back=2, ema=0.9)


def averaged_vocoder():
    return vocoder(look_ahead=2, ema=0.9)


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


@pytest.mark.parametrize("make", [flow, vocoder, averaged_flow, averaged_vocoder])
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


@pytest.mark.parametrize("make", [flow, vocoder, averaged_flow, averaged_vocoder])
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


def test_the_average_is_what_is_exported_and_starts_anew(tmp_path) -> None:
    """After n steps of decay min(0.9, (1 + step) / (10 + step)), counted from the weights of every step."""
    weights, task, plain = [], averaged_flow(), flow(chunks=(0, 25, 1), look_back=2)
    expected, step = None, type(task).optimizer_step

    def watched(self, *args, **kwargs):
        step(self, *args, **kwargs)
        weights.append(self.model.encoder.upsample.weight.detach().clone())

    task.__class__ = type("Watched", (FlowTask,), {"optimizer_step": watched})
    expected = task.model.encoder.upsample.weight.detach().clone()
    fit(task, 15, 15)
    for i, weight in enumerate(weights):
        expected = torch.lerp(expected, weight, 1 - min(0.9, (1 + i) / (10 + i)))
    torch.testing.assert_close(task.average.encoder.upsample.weight, expected)
    task.save_pretrained(tmp_path)
    exported, codes = FlowDecoder.from_pretrained(tmp_path), torch.tensor([[0, 1, 1]])
    assert torch.equal(exported(codes), task.average.eval()(codes))
    assert not torch.equal(exported(codes), task.model.eval()(codes)) and exported.config["mel_mean"] < -7
    fit(plain, 15, 15)  # and the training is the same without it
    assert all(map(torch.equal, plain.model.parameters(), task.model.parameters()))
    assert not any(name.startswith("average") for name in plain.state_dict())


def test_every_step_draws_a_chunk_size_from_its_seed() -> None:
    task, drawn = flow(chunks=(0, 25, 5)), []
    task.log_dict = lambda *_, **__: None
    plain = task.model.losses
    task.model.losses = lambda *args: (drawn.append(args[6].chunk), plain(*args))[1]
    batch = Hum(seed=3).seeded_batch
    for step in (*range(30), *range(30)):
        task.training_step(batch(step, 0, 1), 0)
    assert set(drawn) == {0, 25, 5} and drawn[:30] == drawn[30:]
    task.validation_step(batch(0, 0, 1), 0)
    assert drawn[-1] == task.model.config["chunk"] == 5


@pytest.mark.parametrize("make", [lambda: flow(chunks=(5, -1)), lambda: flow(ema=1.0), lambda: vocoder(look_ahead=99)])
def test_settings_that_cannot_be_are_named(make) -> None:
    with pytest.raises(ConfigError, match=r"chunks=\[5, -1\]|ema=1.0|look_ahead=99"):
        make()


def test_one_batch_is_learnt_by_heart() -> None:
    """Other noise and other chunks at every step, the same codes and mel: what is decoded is that mel."""
    torch.manual_seed(0)
    mel = (2 * torch.randn(1, 80, 24) - 5).expand(4, -1, -1)  # no speech, so that nothing but memory helps
    codes = torch.arange(6).expand(4, -1)
    task = FlowTask(codes=6, dim=128, code_layers=1, layers=2, chunks=(0, 2), chunk=2, look_ahead=1)
    task.model.set_statistics(-5.0, 2.0)
    task.log_dict = lambda *_, **__: None
    optimiser, losses = torch.optim.AdamW(task.parameters(), 4e-3), []
    for step in range(300):
        batch = {"codes": codes, "mel": mel, "valid": torch.ones(4, 6, dtype=torch.bool), "seed": torch.tensor(step)}
        optimiser.param_groups[0]["lr"] = 4e-3 * (1 - step / 300)
        loss = task.training_step(batch, step)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    for chunk in (0, 2):
        made = task.model(codes, sampling=task.model.sampling._replace(chunk=chunk))
        assert (made - mel).abs().mean() < 0.3 * (mel + 5).abs().mean()
    assert sum(losses[-25:]) / 25 < 0.2 * losses[0]
