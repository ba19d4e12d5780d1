"""A loss, gradient or weight that is no longer finite ends a fit with one line, and is never written."""

import os
from pathlib import Path

import pytest
import torch
import toy_stage
from lightning.pytorch import Callback, LightningModule, Trainer

from mossrepro import cli
from mossrepro.training.callbacks import AtomicCheckpoint, Export
from mossrepro.training.finite import FiniteCheck, all_finite
from mossrepro.training.task import Task
from mossrepro.utils.errors import TrainingError

SMALL = str(Path(__file__).parents[2] / "configs" / "size" / "small.yaml")
NAN = float("nan")


@pytest.fixture
def command(tmp_path):
    (tmp_path / "stage.yaml").write_text(toy_stage.STAGE)
    files = ["-c", str(tmp_path / "stage.yaml"), "-c", SMALL, "--size.codec.batch", "4", "--size.codec.lr", "0.01"]
    return ["fit", *files, "--save_steps", "2"]


def lines(capsys) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("mossrepro: ")]


@pytest.mark.parametrize("value", [NAN, float("inf")])
def test_a_bad_loss_ends_the_fit_and_keeps_the_last_good_checkpoint(
    command, tmp_path, monkeypatch, capsys, value
) -> None:
    step = toy_stage.Task.training_step

    def bad(self, batch, index):
        return step(self, batch, index) * (value if self.global_step == 5 else 1.0)

    monkeypatch.setattr(toy_stage.Task, "training_step", bad)
    out = tmp_path / "out"
    assert cli.main([*command, "--output", str(out)]) == 2
    (line,) = lines(capsys)
    assert "the loss is no longer finite at step 5: " in line and "lower learning rate" in line
    assert f"{out / 'ckpt' / 'last.ckpt'}, of an earlier step, is kept" in line
    state = torch.load(out / "ckpt" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 4 and all(value.isfinite().all() for value in state["state_dict"].values())
    assert {path.name for path in out.iterdir()} == {".lock", "ckpt", "fit.json", "metrics.jsonl"}
    assert cli.main(command) == 2  # without an output too
    assert "is kept" not in lines(capsys)[0]


def test_bad_weights_are_not_exported(command, tmp_path, monkeypatch, capsys) -> None:
    """The last step spoils them: no loss will tell."""

    def spoilt(self, *args):
        with torch.no_grad():
            self.net[0].bias[0] = NAN if self.global_step == 12 else self.net[0].bias[0]

    monkeypatch.setattr(toy_stage.Task, "on_train_batch_end", spoilt, raising=False)
    assert cli.main([*command, "--output", str(tmp_path / "out")]) == 2
    assert "the weights are no longer finite at step 12" in lines(capsys)[0]
    assert not {"model.safetensors", "done.json"} & set(os.listdir(tmp_path / "out"))


class Sharp(Task):
    """The gradient of sqrt is infinite at 0, its value is not."""

    def __init__(self, at: int = 2) -> None:
        super().__init__()
        self.weight, self.at = torch.nn.Parameter(torch.ones(3)), at

    def training_step(self, batch, index):
        x = self.weight - self.weight.detach() if self.global_step == self.at else self.weight
        return x.abs().sqrt().sum() if self.global_step == self.at else x.square().sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(task: LightningModule, *callbacks: Callback, **options) -> Trainer:
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = Trainer(accelerator="cpu", max_epochs=-1, max_steps=9, **quiet, callbacks=list(callbacks), **options)
    data = toy_stage.Data()
    data.val_batches = list
    trainer.fit(task, data)
    return trainer


@pytest.mark.parametrize("clip", [1.0, None])
def test_a_bad_gradient_ends_the_fit(tmp_path, clip) -> None:
    """With clipping it is seen in its norm; without it in what it makes of the weights and the next loss."""
    said = "gradients are no longer finite at step 2" if clip else "loss is no longer finite at step 3"
    with pytest.raises(TrainingError, match=said):
        train(Sharp(), FiniteCheck(), Export(tmp_path), gradient_clip_val=clip)
    assert not list(tmp_path.iterdir())


class Later(FiniteCheck):
    """As on a GPU: nothing is read at once."""

    def on_train_start(self, *args) -> None:
        super().on_train_start(*args)
        self._at_once = False


@pytest.mark.parametrize(("every", "last"), [(4, 4), (100, 9)])
def test_a_look_now_and_then_finds_the_first_bad_step(tmp_path, every, last) -> None:
    """Nor does a checkpoint come between: the last one stays that of step 2."""
    task, seen = Sharp(), []
    task.on_train_batch_end = lambda *args: seen.append(task.global_step)
    saving = AtomicCheckpoint(tmp_path, every_n_steps=2, every_minutes=0)
    if every == 100:
        saving = Callback()
    with pytest.raises(TrainingError, match="gradients are no longer finite at step 2"):
        train(task, Later(every_n_steps=every), saving, Export(tmp_path / "out"), gradient_clip_val=1.0)
    assert len(seen) in (last - 1, last) and not (tmp_path / "out").exists()
    if every == 4:
        assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2


def test_bad_weights_never_replace_a_good_checkpoint(tmp_path) -> None:
    """Found while saving, before anything was noted."""
    task = Sharp(at=99)
    saving = AtomicCheckpoint(tmp_path, every_n_steps=2, every_minutes=0)

    class Spoiled(Callback):
        def on_train_batch_end(self, trainer, *args):
            if trainer.global_step == 4:
                task.weight.data[1] = NAN

    with pytest.raises(TrainingError, match="weights are no longer finite at step 4"):
        train(task, Spoiled(), FiniteCheck(), saving)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 2


def test_an_overflow_in_float16_is_the_scalers_business() -> None:
    """It skips the step, and the next ones are fine."""
    check, task = FiniteCheck(), Sharp()
    task.gradient_norm = torch.tensor(float("inf"))

    class Half:
        precision, global_step, world_size = "16-mixed", 3, 1
        strategy = type("S", (), {"root_device": torch.device("cpu"), "reduce": staticmethod(lambda x, **_: x)})
        fit_loop = type("F", (), {"_should_accumulate": staticmethod(lambda: False)})

    check.on_train_batch_end(Half(), task)
    Half.precision = "bf16-mixed"
    with pytest.raises(TrainingError, match="gradients"):
        check.on_train_batch_end(Half(), task)


def test_all_finite_looks_at_weights_and_buffers() -> None:
    module = torch.nn.BatchNorm1d(2)
    assert all_finite(module) and all_finite(torch.nn.ReLU())
    module.running_mean[0] = NAN
    assert not all_finite(module)
    module = torch.nn.Linear(2, 2)
    module.register_buffer("mask", torch.full((2, 2), -float("inf")), persistent=False)
    assert all_finite(module)


def test_clipping_by_value_is_refused() -> None:
    with pytest.raises(Exception, match="clipped by norm only"):
        train(Sharp(), gradient_clip_val=1.0, gradient_clip_algorithm="value")
