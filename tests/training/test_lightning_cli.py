"""The four Lightning verbs: overlays, interpolation, refusals, output folder, interruption."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from toy_stage import STAGE, assert_same, curve, weights

from mossrepro import cli
from mossrepro.training import callbacks, lightning_cli
from mossrepro.utils import devices, io, locks
from mossrepro.utils.errors import CheckpointError, DiskError

TESTS = Path(__file__).parents[1]
SMALL = str(TESTS.parent / "configs" / "size" / "small.yaml")
NUMBERS = ["--size.codec.batch", "4", "--size.codec.lr", "0.01"]


@pytest.fixture
def stage(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(TESTS))
    (tmp_path / "stage.yaml").write_text(STAGE)
    return ["-c", str(tmp_path / "stage.yaml"), "-c", SMALL]


def test_one_device_is_used_unless_more_are_asked_for(stage):
    """On a machine with eight GPUs too: Lightning's own default is all of them."""
    assert lightning_cli.parse(stage)["trainer"]["devices"] == 1
    assert lightning_cli.parse([*stage, "--trainer.devices", "2"])["trainer"]["devices"] in (2, "2")


def test_interpolation_across_files_follows_overrides(stage):
    """The trap: with parser_mode "omegaconf" the target keeps the overlay's value when a flag changes the source."""
    door = lightning_cli.main([*stage, "--size.codec.batch", "7"], run=False)
    assert door.model.hparams.width == 7 and door.datamodule.batch == 7


def test_a_later_overlay_wins_and_leaves_its_neighbours(stage, tmp_path):
    (tmp_path / "more.yaml").write_text("size: {codec: {lr: 0.5}}\ntrainer: {max_steps: 3}\n")
    door = lightning_cli.main([*stage, "-c", str(tmp_path / "more.yaml")], run=False)
    assert door.model.hparams.lr == 0.5 and door.trainer.max_steps == 3
    assert door.model.hparams.width == door.config["size"]["codec"]["batch"] > 0


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("size: {codec: {stpes: 3}}", "size.codec.stpes"),
        ("trainer: {max_step: 3}", "max_step"),
        ("model: {class_path: toy_stage.Task, init_args: {widht: 3}}", "widht"),
        ("model: {class_path: toy_stage.Taks}", "toy_stage.Taks"),
        ("trainer: {max_steps: many}", "max_steps"),
        ("sise: {name: x}", "sise"),
        ("data: {init_args: {batch: '${size.codec.bach}'}}", "bach"),
    ],
)
def test_unknown_keys_and_wrong_types_are_refused_in_one_line(stage, tmp_path, text, named, capsys):
    (tmp_path / "bad.yaml").write_text(text)
    assert cli.main(["fit", *stage, "-c", str(tmp_path / "bad.yaml"), "--output", str(tmp_path / "out")]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("mossrepro: ") and named in lines[0]
    assert not (tmp_path / "out").exists()


def test_missing_overlay_and_missing_file_are_named(stage, tmp_path, capsys):
    assert cli.main(["fit", *stage[:2]]) == 2
    assert "size.name" in capsys.readouterr().err
    assert cli.main(["fit", "-c", str(tmp_path / "nowhere.yaml")]) == 2
    assert "nowhere.yaml" in capsys.readouterr().err


def test_output_folder_of_a_fit(stage, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(["fit", *stage, *NUMBERS, "--output", str(out)]) == 0
    done = json.loads((out / "done.json").read_text())
    assert done["steps"] == 12 and done["metrics"]["train/loss"] > 0
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    trained, validated = ([row["step"] for row in rows if key in row] for key in ("train/loss", "val/loss"))
    assert trained == [10, 12] and validated == [6, 12] and len(rows) == 4  # none is repeated at a later step
    assert not (out / "ckpt" / "last.ckpt").exists() and weights(out)
    assert cli.main(["fit", *stage, *NUMBERS, "--output", str(out)]) == 2
    assert "finished fit" in capsys.readouterr().err


@pytest.mark.parametrize("asked", ["bf16-mixed", "bf16"])
@pytest.mark.parametrize(("native", "taken"), [(True, "bf16-mixed"), (False, "32-true")])
def test_bfloat16_is_left_where_it_is_emulated(stage, monkeypatch, asked, native, taken):
    monkeypatch.setattr(devices, "fast_bfloat16", lambda: native)
    command = [*stage, *NUMBERS, "--trainer.precision", asked]
    assert lightning_cli.main(command, run=False).trainer.precision == taken
    assert lightning_cli.parse(command)["trainer"]["precision"] == asked  # a plan is for another machine


@pytest.mark.parametrize(("card", "taken"), [((7, 5), "32-true"), ((8, 0), "bf16-mixed")])
def test_a_gpu_that_emulates_bfloat16_trains_in_float32(stage, monkeypatch, card, taken):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda *_: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: card)
    command = [*stage, *NUMBERS, "--trainer.precision", "bf16-mixed", "--trainer.accelerator", "auto"]
    with monkeypatch.context() as patch:
        patch.setattr(lightning_cli.LightningCLI, "instantiate_classes", lambda self: setattr(self, "trainer", None))
        patch.setattr(lightning_cli, "read_safely", lambda trainer: None)  # there is none: Lightning finds no GPU
        assert lightning_cli.main(command, run=False).config["trainer"]["precision"] == taken


@pytest.mark.parametrize("precision", ["16-mixed", "16-true", "16"])
def test_float16_is_not_trained_in(stage, capsys, precision):
    """The optimisers are fused and clip by themselves: nobody would undo the scaling of its gradients."""
    assert cli.main(["fit", *stage, *NUMBERS, "--trainer.precision", precision]) == 2
    assert "gradients in float16" in (err := capsys.readouterr().err) and "bf16-mixed or 32-true" in err


def test_the_progress_bar_reads_numbers_seldom(monkeypatch):
    """Every number that is read waits for the device."""
    bar, reads = callbacks.StepBar(), []
    trainer = SimpleNamespace(global_step=0)
    monkeypatch.setattr(
        callbacks.RichProgressBar, "get_metrics", lambda *_: reads.append(1) or {"x": trainer.global_step}
    )
    shown = []
    for trainer.global_step in range(3, 23):
        shown.append(bar.get_metrics(trainer, None)["x"])
    assert len(reads) == 3 and shown == [3] * 7 + [10] * 10 + [20] * 3


@pytest.mark.parametrize("shown", [True, False])
def test_the_progress_bar_counts_steps_and_no_epochs(stage, capsys, shown):
    flag = ["--trainer.enable_progress_bar", str(shown).lower()]
    assert cli.main(["fit", *stage, *NUMBERS, "--trainer.max_steps", "2", *flag]) == 0
    printed = capsys.readouterr().out
    assert ("training" in printed) == shown and "Epoch" not in printed


def test_sigterm_saves_stops_with_130_and_the_same_command_continues(stage, tmp_path, monkeypatch, capsys):
    command = ["fit", *stage, *NUMBERS, "--output"]
    cli.main([*command, str(tmp_path / "whole")])
    import toy_stage

    step = toy_stage.Task.training_step

    def killed(self, batch, batch_idx):
        if self.global_step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, batch, batch_idx)

    cut = tmp_path / "cut"
    with monkeypatch.context() as patch:
        patch.setattr(toy_stage.Task, "training_step", killed)
        assert cli.main([*command, str(cut)]) == 130
    err = capsys.readouterr().err
    assert "stopped at step 5; the same command continues" in err
    assert torch.load(cut / "ckpt" / "last.ckpt", weights_only=True)["global_step"] == 5
    with open(cut / "metrics.jsonl", "a") as file:  # lines after the checkpoint, the last cut short
        file.write('{"step": 9, "seconds": 1.0}\n{"step": 10, "sec')
    assert cli.main([*command, str(cut)]) == 0
    assert "continuing from" in capsys.readouterr().err
    assert_same(weights(tmp_path / "whole"), weights(cut))
    assert curve(cut) == curve(tmp_path / "whole")


def test_sigkill_loses_nothing_but_time(stage, tmp_path, capsys):
    command = ["fit", *stage, *NUMBERS, "--save_steps", "2", "--output"]
    cut, last = tmp_path / "cut", tmp_path / "cut" / "ckpt" / "last.ckpt"
    slow = [sys.executable, "-m", "mossrepro", *command, str(cut)]
    slow += ["--config", str(tmp_path / "slow.yaml")]
    (tmp_path / "slow.yaml").write_text("model: {init_args: {pause: 0.2}}")
    environment = {**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}"}
    process = subprocess.Popen(slow, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not last.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and last.exists() and not (cut / "done.json").exists()
    resumed = ["-c", str(tmp_path / "slow.yaml")]
    assert cli.main([*command, str(cut), *resumed]) == 0
    assert "continuing from" in capsys.readouterr().err  # begun anew it would end with the same bits
    assert cli.main([*command, str(tmp_path / "whole")]) == 0
    assert_same(weights(tmp_path / "whole"), weights(cut))


def test_two_processes_never_train_into_one_folder(tmp_path):
    with locks.exclusive(tmp_path), pytest.raises(CheckpointError, match="another process"):
        with locks.exclusive(tmp_path, seconds=0.2):
            pass
    with locks.exclusive(tmp_path, seconds=0.2):
        pass


def test_a_fit_cannot_be_continued_with_other_settings(stage, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    stopped = lightning_cli.main([*stage, *NUMBERS, "--trainer.max_steps", "2"], run=False)
    stopped.trainer.fit(stopped.model, stopped.datamodule)
    assert cli.main(["fit", *stage, *NUMBERS, "--output", str(out), "--trainer.max_steps", "2"]) == 0
    (out / "done.json").unlink()
    stopped.trainer.save_checkpoint(out / "ckpt" / "last.ckpt")
    capsys.readouterr()
    assert cli.main(["fit", *stage, *NUMBERS[:-1], "0.02", "--output", str(out)]) == 2
    assert "model.init_args.lr" in capsys.readouterr().err


def test_a_checkpoint_of_another_size_is_refused_in_one_line(stage, tmp_path, capsys):
    door = lightning_cli.main([*stage, *NUMBERS, "--trainer.max_steps", "1"], run=False)
    door.trainer.fit(door.model, door.datamodule)
    door.trainer.save_checkpoint(tmp_path / "four.ckpt")
    state = torch.load(tmp_path / "four.ckpt", weights_only=True)
    state.pop("hyper_parameters")
    torch.save(state, tmp_path / "four.ckpt")
    capsys.readouterr()
    wider = ["--size.codec.batch", "5", "--ckpt_path", str(tmp_path / "four.ckpt")]
    assert cli.main(["validate", *stage, *wider]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("mossrepro")]
    assert len(lines) == 1 and "does not fit" in lines[0] and "net.0" in lines[0]


def test_a_failed_write_keeps_the_last_good_checkpoint(tmp_path):
    path = tmp_path / "last.ckpt"
    writer = callbacks.AtomicCheckpointIO()
    fit = {"global_step": 3, "state_dict": {}, "pytorch-lightning_version": "2.6.4"}
    writer.save_checkpoint({**fit, "x": torch.ones(4)}, path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # a real write error in the middle of the file
    try:
        with pytest.raises(DiskError, match="last good one is kept"):
            writer.save_checkpoint({"x": torch.ones(100_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert torch.equal(callbacks.read_checkpoint(path)["x"], torch.ones(4))
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_called_a_full_disk(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskError, match="the disk is full"):
        io.write_atomic(tmp_path / "x", lambda file: file.write(b"x"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", None])
def test_a_broken_checkpoint_is_named(tmp_path, content):
    path = tmp_path / "bad.ckpt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"bad\.ckpt"):
        callbacks.AtomicCheckpointIO().load_checkpoint(path)


def test_a_checkpoint_with_code_in_it_is_refused(tmp_path):
    torch.save({"hook": os.system}, tmp_path / "evil.ckpt")
    with pytest.raises(CheckpointError, match=r"evil\.ckpt"):
        callbacks.AtomicCheckpointIO().load_checkpoint(tmp_path / "evil.ckpt")
