"""Callbacks: checkpoints that survive a full disk, Ctrl-C and SIGKILL, and the files that a fit writes.

A checkpoint is written to a temporary file in the same folder, flushed to the disk and renamed: at every moment
`ckpt/last.ckpt` is complete. It is written only between optimiser steps, where resuming is exact.
"""

import json
import os
import pickle
import signal
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
from mossrepro.utils.io import write_atomic
from mossrepro.utils.private_apis import checkpoint_io, inside_a_step, set_checkpoint_io


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints atomically and reads them as plain data (`weights_only=True`)."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Saves the state dictionary to `path`; see `write_atomic` for what it raises."""
        write_atomic(path, lambda file: torch.save(checkpoint, file))

    def load_checkpoint(self, path: Any, map_location: Any = "cpu", weights_only: bool | None = None) -> dict[str, Any]:
        """Reads a checkpoint.

        Raises:
            CheckpointError: the file is missing, broken, or holds anything but plain data and tensors.
        """
        try:
            return torch.load(path, map_location=map_location, weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            reason = str(error).splitlines()[0] if str(error) else "the file is empty or cut short"
            raise CheckpointError(f"could not read {path}: {reason}") from error


class AtomicCheckpoint(Callback):
    """Writes `folder/last.ckpt` every `every_n_steps` optimiser steps, every `every_minutes`, and on a signal.

    0 turns either interval off.

    After SIGINT or SIGTERM the running optimiser step is finished, saved, and the fit ends with `Interrupted`; a second
    Ctrl-C stops at once without saving. The same happens in a fit that `mossrepro reproduce` started (it sets
    $MOSSREPRO_CHILD) when that process is killed, since an orphan would go on training beside the restarted fit.
    """

    def __init__(self, folder: str | Path, every_n_steps: int = 0, every_minutes: float = 2.0) -> None:
        self.path = Path(folder) / "last.ckpt"
        self.every_n_steps, self.every_minutes = every_n_steps, every_minutes
        self._signal = 0
        self._handlers: dict[int, Any] = {}
        self._saved_step, self._saved_at = 0, time.monotonic()
        self._parent = os.getppid() if os.environ.get("MOSSREPRO_CHILD") else 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Makes the trainer write with `AtomicCheckpointIO` (sharded strategies keep their own writer)."""
        if type(checkpoint_io(trainer)) in (TorchCheckpointIO, type(None)):
            set_checkpoint_io(trainer, AtomicCheckpointIO())

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
        orphan = self._parent and os.getppid() != self._parent
        return trainer.strategy.broadcast((bool(self._signal or orphan), bool(due or late)))

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
        text = json.dumps({**facts, "metrics": metrics}, indent=2) + "\n"
        write_atomic(self.folder / "done.json", lambda file: file.write(text.encode()))
        (self.folder / "ckpt" / "last.ckpt").unlink(missing_ok=True)


class ProgressFile(Callback):
    """Appends one JSON line per `every_n_steps` optimiser steps to `path`: step, seconds, and every logged number.

    Validation metrics ("val...") have lines of their own, at the step of the validation. A resumed fit first drops the
    lines of steps that it will repeat, so that every step is in the file once.
    """

    def __init__(self, path: str | Path, every_n_steps: int = 10) -> None:
        self.path, self.every_n_steps = Path(path), every_n_steps
        self._last, self._start = -1, time.monotonic()

    @rank_zero_only
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Drops the lines after the step that the fit starts from, and goes on counting seconds from the last one."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        kept = [line for line in lines if _step(line) <= trainer.global_step]
        write_atomic(self.path, lambda file: file.write("".join(line + "\n" for line in kept).encode()))
        spent = json.loads(kept[-1])["seconds"] if kept else 0.0
        self._last, self._start = trainer.global_step, time.monotonic() - spent

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
        with open(self.path, "a") as file:
            file.write(json.dumps(row) + "\n")
        self._last = step


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


def _step(line: str) -> float:
    """The step of a line; infinity for a line cut short by a kill, so that it is dropped."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")
