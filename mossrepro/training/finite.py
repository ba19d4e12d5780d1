"""The check that every fit has: a loss, gradient or weight that is no longer a number ends it."""

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mossrepro.utils.errors import TrainingError
from mossrepro.utils.private_apis import inside_a_step

_NEVER = torch.iinfo(torch.int64).max
_KINDS = ("loss is", "gradients are", "weights are")


class FiniteCheck(Callback):
    """Ends a fit whose loss, gradient or weights are not finite, with TrainingError, on all ranks.

    Weights that are not finite are never written, neither to a checkpoint nor as a result: the last good checkpoint
    stays.

    In one process on a CPU every loss is looked at before its optimiser step. On a GPU that would stall it, so there,
    and with several ranks, the first bad step is noted on the device and read every `every_n_steps` optimiser steps,
    before every checkpoint and at the end. It must stand before `Export` in the list of callbacks.

    Args:
        checkpoint: resume file, to be named in the message.
        every_n_steps: optimiser steps between two looks.
    """

    def __init__(self, checkpoint: str | Path | None = None, every_n_steps: int = 50) -> None:
        self.checkpoint, self.every_n_steps = Path(checkpoint) if checkpoint else None, every_n_steps
        self._first = torch.full((len(_KINDS),), _NEVER)  # for each kind, the first step at which it was not finite
        self._at_once, self._batch = True, None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts the note on the device of this rank."""
        device = trainer.strategy.root_device
        self._at_once = device.type == "cpu" and trainer.world_size == 1
        self._first = torch.full((len(_KINDS),), _NEVER, device=device)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Keeps the batch at hand, for the message."""
        self._batch = batch

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Notes a bad loss; in one process on a CPU it ends the fit before the weights are changed."""
        self._note(0, loss, trainer.global_step)
        if self._at_once:
            self._look(trainer, pl_module)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Notes a bad gradient, and looks when it is time."""
        self._batch = None
        if inside_a_step(trainer):
            return
        norm = getattr(pl_module, "gradient_norm", None)
        if norm is not None and not trainer.precision.startswith("16"):  # float16 scales gradients and skips bad steps
            self._note(1, norm, trainer.global_step - 1)
        if self._at_once or trainer.global_step % self.every_n_steps == 0:
            self._look(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Looks at everything before a checkpoint is written."""
        self._look(trainer, pl_module, weights=True)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Looks at everything before the result is written."""
        self._look(trainer, pl_module, weights=True)

    @torch.no_grad()
    def _note(self, kind: int, value: Tensor, step: int) -> None:
        """Remember `step` if `value` is not finite and nothing was noted before, without waiting for the device."""
        value = value.full_tensor() if isinstance(value, DTensor) else value
        bad, first = ~torch.isfinite(value).all(), self._first[kind]
        self._first[kind] = torch.where(bad, first.clamp(max=step), first)

    def _look(self, trainer: Trainer, module: LightningModule, weights: bool = False) -> None:
        """End the fit if anything bad was noted on any rank; with `weights`, look at all of them too."""
        found = self._first.clone()
        if weights and not all_finite(module):
            found[2] = trainer.global_step
        steps = trainer.strategy.reduce(found, reduce_op="min").tolist()
        if min(steps) == _NEVER:
            return
        kind = steps.index(min(steps))
        culprits = getattr(module, "culprits", None)
        told = culprits(self._batch) if culprits and kind == 0 and self._at_once and self._batch is not None else ""
        where = f"at step {steps[kind]}" + (f", {told}" if told else "")
        kept = f"; {self.checkpoint}, of an earlier step, is kept" if self._has_checkpoint() else ""
        flag = getattr(module, "clipping_flag", "--trainer.gradient_clip_val")
        raise TrainingError(
            f"the {_KINDS[kind]} no longer finite {where}: start again with a lower learning rate or with "
            f"{flag} 1, or look at the data of that step{kept}"
        )

    def _has_checkpoint(self) -> bool:
        return self.checkpoint is not None and self.checkpoint.exists()


@torch.no_grad()
def all_finite(module: nn.Module) -> bool:
    """Whether all weights and buffers of a module are numbers; of sharded ones, those of this rank."""
    good: list[Tensor] = []
    for value in module.state_dict().values():
        if isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex()):
            good.append(torch.isfinite(value.to_local() if isinstance(value, DTensor) else value).all())
    return not good or bool(torch.stack([one.to(good[0].device) for one in good]).all())
