"""Callbacks: checkpoints that survive a full disk, Ctrl-C and SIGKILL, and the files that a fit writes.

A checkpoint is written to a temporary file in the same folder, flushed to the disk and renamed: at every moment
`ckpt/last.ckpt` is complete. It is written only between optimiser steps, where resuming is exact.
"""

import json
import pickle
import re
import signal
import struct
import threading
import time
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.utilities import rank_zero_only
from torch import nn
from torch.distributed.tensor import DTensor

from mossrepro.utils.errors import CheckpointError, Interrupted
from mossrepro.utils.io import AppendFile, read_lines, write_atomic, write_json, write_text
from mossrepro.utils.private_apis import batches_taken, checkpoint_io, inside_a_step, set_checkpoint_io, validate_now


def read_checkpoint(path: str | Path, map_location: Any = "cpu", mmap: bool = False) -> dict[str, Any]:
    """Reads a checkpoint as plain data; with `mmap` a tensor is read from the disk when it is used.

    Raises:
        CheckpointError: the file is missing, broken, or holds anything but plain data and tensors.
    """
    try:
        return torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
    except _UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else "the file is empty or cut short"
        raise CheckpointError(f"could not read {path}: {reason}") from error


# What torch.load raises for a file that is cut short, changed, or made to be odd.
_UNREADABLE = (OSError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError, LookupError, TypeError)
_UNREADABLE += (AttributeError, AssertionError, ArithmeticError, MemoryError, struct.error)


def checkpoint_step(checkpoint: Any, path: str | Path) -> int:
    """The optimiser step of a checkpoint that was read. CheckpointError names the file, if it is no fit's."""
    step = checkpoint.get("global_step") if isinstance(checkpoint, dict) else None
    if type(step) is not int or step < 0:
        raise CheckpointError(f"{path}: not the checkpoint of a fit, it has no step")
    return step


def read_safely(trainer: Trainer) -> None:
    """Make a trainer read and write checkpoints with `AtomicCheckpointIO`; sharded strategies keep their own."""
    if type(checkpoint_io(trainer)) in (TorchCheckpointIO, type(None)):
        set_checkpoint_io(trainer, AtomicCheckpointIO())


_VERSION = re.compile(r"\d+(\.\d+){1,3}[\w.+-]{0,40}")  # of Lightning


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically and reads them as plain data (`weights_only=True`)."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Saves the state dictionary to `path`; see `write_atomic` for what it raises."""
        write_atomic(path, lambda file: torch.save(checkpoint, file))

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        """Reads a checkpoint, whatever `weights_only` says. CheckpointError as `read_checkpoint`, and for another file.

        A file that is plain data may still be none of Lightning's.
        """
        checkpoint = read_checkpoint(path, map_location)
        checkpoint_step(checkpoint, path)
        state, version = checkpoint.get("state_dict"), checkpoint.get("pytorch-lightning_version")
        names = state.items() if isinstance(state, dict) else [("state_dict", None)]
        wrong = next((name for name, value in names if not isinstance(value, torch.Tensor | dict)), None)
        if wrong is not None or not isinstance(version, str) or not _VERSION.fullmatch(version):
            what = "its version is none" if wrong is None else f"{wrong} is no tensor"
            raise CheckpointError(f"{path}: not the checkpoint of a fit, {what}")
        return checkpoint


class AtomicCheckpoint(Callback):
    """Writes `folder/last.ckpt` every `every_n_steps` optimiser steps, every `every_minutes`, and on a signal.

    0 turns either interval off.

    After SIGINT or SIGTERM the running optimiser step is finished, saved, and the fit ends with `Interrupted`; a second
    Ctrl-C stops at once without saving.
    """

    def __init__(self, folder: str | Path, every_n_steps: int = 0, every_minutes: float = 2.0) -> None:
        self.path = Path(folder) / "last.ckpt"
        self.every_n_steps, self.every_minutes = every_n_steps, every_minutes
        self._signal = 0
        self._handlers: dict[int, Any] = {}
        self._saved_step, self._saved_at = 0, time.monotonic()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Makes the trainer write with `AtomicCheckpointIO` (sharded strategies keep their own writer)."""
        read_safely(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock and handles SIGINT and SIGTERM (possible in the main thread only)."""
        self._saved_step, self._saved_at = trainer.global_step, time.monotonic()
        if threading.current_thread() is threading.main_thread():
            self._handlers = {s: signal.signal(s, self._note) for s in (signal.SIGINT, signal.SIGTERM)}

    def _note(self, number: int, frame: Any) -> None:
        if self._signal and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._signal = number

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Saves when it is time, and ends the fit after a signal; only on the boundary of an optimiser step."""
        if inside_a_step(trainer) or trainer.global_step == self._saved_step:
            return
        stop, save = self._decide(trainer)
        if save or stop:
            trainer.save_checkpoint(self.path, weights_only=False)
            self._saved_step, self._saved_at = trainer.global_step, time.monotonic()
        if stop:
            raise Interrupted(f"stopped at step {trainer.global_step}; the same command continues from {self.path}")

    def _decide(self, trainer: Trainer) -> tuple[bool, bool]:
        """(stop, save), the same on every rank: the clock and the signals of rank 0 count."""
        due = self.every_n_steps and trainer.global_step - self._saved_step >= self.every_n_steps
        late = self.every_minutes and time.monotonic() - self._saved_at >= 60 * self.every_minutes
        return trainer.strategy.broadcast((bool(self._signal), bool(due or late)))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restores the signal handlers, also after an error."""
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restores the signal handlers."""
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._handlers = {}


class Export(Callback):
    """At the end of a fit: `save_pretrained(folder)`, then `folder/done.json`, then the resume file is removed."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._start = time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Starts the clock that `done.json` reports."""
        self._start = time.monotonic()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the weights; `done.json` comes last, so that its presence means the folder is complete."""
        gathered(pl_module)
        if not trainer.is_global_zero:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        pl_module.save_pretrained(self.folder)
        facts = {"steps": trainer.global_step, "seconds": round(time.monotonic() - self._start, 1)}
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
        write_json(self.folder / "done.json", {**facts, "metrics": metrics}, indent=2)
        (self.folder / "ckpt" / "last.ckpt").unlink(missing_ok=True)


class ProgressFile(Callback):
    """Appends one JSON line per `every_n_steps` optimiser steps to `path`: step, seconds, and every logged number.

    Validation metrics ("val...") have lines of their own, at the step of the validation. A resumed fit first drops the
    lines of what it will repeat, so that every step and every validation is in the file once.
    """

    def __init__(self, path: str | Path, every_n_steps: int = 10) -> None:
        self.path, self.every_n_steps = Path(path), every_n_steps
        self._last, self._start = -1, time.monotonic()
        self._logged: dict[str, float] = {}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keeps the logged numbers: a line repeats those that its own step did not log."""
        checkpoint["logged"] = {key: float(value) for key, value in trainer.callback_metrics.items()}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Takes them back, where the checkpoint has them."""
        self._logged = checkpoint.get("logged", {})

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drops the lines of what comes again, and goes on counting seconds from the last one."""
        logged = {key: torch.tensor(value, dtype=torch.float64, device="cpu") for key, value in self._logged.items()}
        trainer.callback_metrics.update(logged)
        if not trainer.is_global_zero:
            return
        step, by_clock = trainer.global_step, trainer.val_check_batch is None
        self.path.parent.mkdir(parents=True, exist_ok=True)
        rows = [_row(line) for line in (read_lines(self.path) if self.path.exists() else [])]
        kept = [r for r in rows if r and (r["step"] < step or r["step"] == step and (by_clock or not _validated(r)))]
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in kept))
        self._last, self._start = step, time.monotonic() - (kept[-1]["seconds"] if kept else 0.0)

    @rank_zero_only
    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Writes a line when it is time."""
        step = trainer.global_step
        if step != self._last and (step % self.every_n_steps == 0 or step == trainer.max_steps):
            self._append(trainer, step, validated=False)

    @rank_zero_only
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the validation metrics in a line of their own."""
        if not trainer.sanity_checking and trainer.state.fn == "fit":
            self._append(trainer, trainer.global_step, validated=True)

    def _append(self, trainer: Trainer, step: int, validated: bool) -> None:
        found = trainer.callback_metrics.items()  # Lightning keeps the last value of each, however old
        numbers = {key: round(float(value), 6) for key, value in found if key.startswith("val") == validated}
        row = {"step": step, "seconds": round(time.monotonic() - self._start, 1), **numbers}
        with AppendFile(self.path) as file:
            file.append((json.dumps(row) + "\n").encode())
        self._last = step


class ResumedValidation(Callback):
    """Validates at the start of a fit that was saved at a step with a validation.

    A checkpoint is written before the validation of its step, so that a signal is answered at once. It must stand
    behind `ProgressFile`, which drops a line of the same validation.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Validates if the batch before was the last of an interval."""
        batches, interval = batches_taken(trainer), trainer.val_check_batch
        if trainer.enable_validation and trainer.check_val_every_n_epoch is None and batches and interval:
            if batches % interval == 0:
                validate_now(trainer)


def gathered(module: nn.Module) -> None:
    """Gather sharded parameters (FSDP2) on rank 0's CPU, in place. All ranks must call it, after training.

    Other ranks and the GPUs hold one whole tensor at a time, so the model need not fit there.
    """
    whole: dict[int, nn.Parameter] = {}  # tied weights stay one
    for part in module.modules():
        for name, value in list(part.named_parameters(recurse=False)):
            if isinstance(value, DTensor):
                if id(value) not in whole:
                    full = value.detach().full_tensor()
                    first = torch.distributed.get_rank() == 0
                    whole[id(value)] = nn.Parameter(full.cpu(), requires_grad=value.requires_grad) if first else value
                setattr(part, name, whole[id(value)])


class StepBar(RichProgressBar):
    """Lightning's progress bar without "Epoch 0/-2": a fit here is one endless epoch, counted in batches.

    The numbers beside it are those of every `READ`-th step: reading them waits for the device.
    """

    READ = 10

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """The logged numbers, by name."""
        if trainer.global_step % self.READ == 0 or not hasattr(self, "_numbers"):
            self._numbers = super().get_metrics(trainer, pl_module)
        return self._numbers

    def _get_train_description(self, current_epoch: int) -> str:
        return "training"


def _row(line: str) -> dict[str, Any] | None:
    """A line of the progress file; None for one cut short by a kill."""
    try:
        row = json.loads(line)
        return row if {"step", "seconds"} <= row.keys() else None
    except (ValueError, AttributeError):
        return None


def _validated(row: dict[str, Any]) -> bool:
    """Whether a line holds validation metrics."""
    return any(key.startswith("val") for key in row)
