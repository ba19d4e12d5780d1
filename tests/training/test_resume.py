"""A resumed fit exports, refuses settings that would change its weights, and validates neither twice nor never."""

import json
import signal
from pathlib import Path

import pytest
import torch
import toy_stage
from toy_stage import assert_same, curve, weights

from mossrepro import cli
from mossrepro.training import callbacks, resume

SMALL = str(Path(__file__).parents[2] / "configs" / "size" / "small.yaml")


class Killed(BaseException):
    """Stands for SIGKILL: nobody catches it and nobody saves. Real ones: tests/configs/test_exact_resume.py."""


@pytest.fixture
def fit(tmp_path):
    """fit(folder, *flags): the exit code of a toy fit of 12 steps that saves after each."""
    (tmp_path / "stage.yaml").write_text(toy_stage.STAGE)
    return lambda folder, *flags: cli.main([*command_of(tmp_path), "--output", str(tmp_path / folder), *flags])


def command_of(folder: Path) -> list[str]:
    options = ["--size.codec.batch", "4", "--size.codec.lr", "0.01", "--save_steps", "1", "--save_minutes", "0"]
    return ["fit", "-c", str(folder / "stage.yaml"), "-c", SMALL, *options]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """whole(*flags): folder of the same fit without a cut, made once for each set of flags."""
    made = {}

    def run(*flags) -> Path:
        if flags not in made:
            folder = tmp_path_factory.mktemp("whole")
            (folder / "stage.yaml").write_text(toy_stage.STAGE)
            assert cli.main([*command_of(folder), "--output", str(folder), *flags]) == 0
            made[flags] = folder
        return made[flags]

    return run


@pytest.fixture
def stop(monkeypatch):
    """stop(owner, name, step): that method ends the fit once, when the fit is at that step."""

    def at(owner, name, step, after=False):
        plain, left = getattr(owner, name), [1]

        def dying(self, trainer, *args, **kwargs):
            found = trainer if hasattr(trainer, "global_step") else self
            if found.global_step == step and left:
                left.pop()
                if after:
                    plain(self, trainer, *args, **kwargs)
                raise Killed
            return plain(self, trainer, *args, **kwargs)

        monkeypatch.setattr(owner, name, dying)

    return at


def cut(fit, folder, *flags) -> None:
    with pytest.raises(Killed):
        fit(folder, *flags)


PLACES = {
    "in the next step": (toy_stage.Task, "training_step", False),
    "in the validation": (toy_stage.Task, "validation_step", False),
    "after the validation": (callbacks.ProgressFile, "on_validation_end", True),
    "before the export": (callbacks.Export, "on_train_end", False),
}
CASES = [("in the next step", step) for step in range(1, 6)]
CASES += [(place, step) for place in ("in the validation", "after the validation") for step in (2, 4, 12)]


@pytest.mark.parametrize(("place", "step"), [*CASES, ("before the export", 12)])
def test_a_validation_is_neither_lost_nor_doubled(fit, whole, stop, tmp_path, step, place) -> None:
    """A validation every two steps, a checkpoint every step; at the last one only validation and export are left."""
    owner, name, after = PLACES[place]
    flags = ["--trainer.val_check_interval", "2"]
    whole(*flags)
    stop(owner, name, step, after)
    cut(fit, "cut", *flags)
    assert torch.load(tmp_path / "cut" / "ckpt" / "last.ckpt", weights_only=True)["global_step"] == step
    assert fit("cut", *flags) == 0
    assert curve(tmp_path / "cut") == curve(whole(*flags))
    assert_same(weights(whole(*flags)), weights(tmp_path / "cut"))
    done = [json.loads((out / "done.json").read_text()) for out in (tmp_path / "cut", whole(*flags))]
    assert done[0]["metrics"] == done[1]["metrics"] and done[0]["steps"] == 12


@pytest.mark.parametrize("step", [3, 4, 6])
def test_a_validation_inside_an_accumulated_step_comes_once(fit, whole, stop, tmp_path, step) -> None:
    """Validation counts batches: with two batches a step and five to a validation it comes after steps 2.5, 5, 7.5."""
    flags = ["--trainer.val_check_interval", "5", "--trainer.accumulate_grad_batches", "2"]
    whole(*flags)
    stop(toy_stage.Task, "training_step", step)
    cut(fit, "cut", *flags, "--save_steps", "2")
    assert fit("cut", *flags) == 0
    assert curve(tmp_path / "cut") == curve(whole(*flags))
    assert [row["step"] for row in curve(tmp_path / "cut") if "val/loss" in row] == [2, 5, 7, 10]


def test_a_signal_at_the_step_of_a_validation_loses_nothing(fit, whole, tmp_path, monkeypatch, capsys) -> None:
    whole()
    step = toy_stage.Task.training_step

    def told(self, batch, index):
        if self.global_step in (5, 11):  # so that it stops at 6, and again at 12, where the fit would end
            signal.raise_signal(signal.SIGTERM)
        return step(self, batch, index)

    monkeypatch.setattr(toy_stage.Task, "training_step", told)
    assert [fit("cut"), fit("cut"), fit("cut")] == [130, 130, 0]
    assert "stopped at step 12" in capsys.readouterr().err
    assert curve(tmp_path / "cut") == curve(whole())
    assert_same(weights(whole()), weights(tmp_path / "cut"))


SETTINGS = {
    "max_steps": ("13", "12"),
    "accumulate_grad_batches": ("2", "1"),
    "gradient_clip_val": ("0.5", "None"),
    "precision": ("64-true", "32-true"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_what_changes_the_weights_is_refused(fit, stop, tmp_path, name, capsys) -> None:
    new, old = SETTINGS[name]
    stop(toy_stage.Task, "training_step", 5)
    cut(fit, "out")
    before = (tmp_path / "out" / "ckpt" / "last.ckpt").read_bytes()
    capsys.readouterr()
    assert fit("out", f"--trainer.{name}", new) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mossrepro")]
    assert len(lines) == 1 and f"another trainer.{name}: {old} then, {new} now" in lines[0] and "--output" in lines[0]
    assert (tmp_path / "out" / "ckpt" / "last.ckpt").read_bytes() == before
    assert fit("out") == 0


def test_what_does_not_change_the_weights_is_allowed(fit, whole, stop, tmp_path, capsys) -> None:
    stop(toy_stage.Task, "training_step", 5)
    cut(fit, "out", "--trainer.gradient_clip_val", "0")
    more = ["--data.init_args.num_workers", "1", "--trainer.val_check_interval", "6", "--save_steps", "5"]
    capsys.readouterr()
    assert fit("out", *more, "--trainer.strategy", "ddp", "--trainer.devices", "1") == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mossrepro")]
    assert len(lines) == 2 and "started on 1 x CPUAccelerator (SingleDeviceStrategy)" in lines[0]
    assert "continuing on 1 x CPUAccelerator (DDPStrategy)" in lines[0]
    assert_same(weights(whole()), weights(tmp_path / "out"))


def test_a_fit_of_an_earlier_version_goes_on(fit, stop, tmp_path) -> None:
    """Its fit.json holds model, data and seed only, its checkpoint no logged numbers."""
    stop(toy_stage.Task, "training_step", 5)
    cut(fit, "out")
    path, last = tmp_path / "out" / "fit.json", tmp_path / "out" / "ckpt" / "last.ckpt"
    path.write_text(
        json.dumps({key: json.loads(path.read_text())[key] for key in ("model", "data", "seed_everything")})
    )
    state = torch.load(last, weights_only=True)
    del state["logged"]
    torch.save(state, last)
    assert fit("out") == 0 and weights(tmp_path / "out")


def test_a_checkpoint_past_the_last_step_is_refused(fit, stop, tmp_path, capsys) -> None:
    stop(toy_stage.Task, "training_step", 5)
    cut(fit, "out")
    (tmp_path / "out" / "fit.json").unlink()
    capsys.readouterr()
    assert fit("out", "--trainer.max_steps", "4") == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "last.ckpt is of step 5, past --trainer.max_steps 4: give 5 or more, or another --output" in line
    assert fit("out", "--trainer.max_steps", "5") == 0
    assert json.loads((tmp_path / "out" / "done.json").read_text())["steps"] == 5


def test_an_endless_schedule_has_no_last_step(fit, stop, tmp_path) -> None:
    endless = ["--trainer.max_steps", "-1", "--trainer.max_epochs", "1", "--trainer.limit_train_batches", "8"]
    stop(toy_stage.Task, "training_step", 5)
    cut(fit, "out", *endless)
    assert fit("out", *endless) == 0


def test_first_difference_names_the_key() -> None:
    assert resume.first_difference({"a": {"b": 1}}, {"a": {"b": 1}}) is None
    assert resume.first_difference({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}) == "a.c"
    assert resume.first_difference({"a": 1}, {"a": 1, "z": 0}) == "z"
