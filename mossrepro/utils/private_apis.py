"""All uses of private interfaces of torch and Lightning, so that a new version of theirs is checked in one place.

pyproject.toml bounds both libraries from above; tests/utils/test_private_apis.py says which name went missing.
"""

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor


def pack_weight(weight: Tensor) -> Tensor:
    """A linear layer's weight (out, in) in oneDNN's own order (torch.ops.mkldnn)."""
    return torch.ops.mkldnn._reorder_linear_weight(weight, 1)


def packed_product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x (..., in) times a weight of `pack_weight` -> (..., out)."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def fake_tensors() -> AbstractContextManager:
    """Tensors made inside have shapes and no memory (torch._subclasses)."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode()


def storage_id(tensor: Tensor) -> int:
    """The same number for two tensors that share memory; unlike `data_ptr` it also tells fake tensors apart."""
    return tensor.untyped_storage()._cdata


def inside_a_step(trainer: Any) -> bool:
    """Whether a Lightning trainer still accumulates gradients: the optimiser step is not over."""
    return trainer.fit_loop._should_accumulate()


def batches_taken(trainer: Any) -> int:
    """Batches that a Lightning trainer has taken in this fit, the running one and those before a resume included."""
    return trainer.fit_loop.epoch_loop.batch_progress.total.ready


def run_hooks_at_the_end(trainer: Any) -> None:
    """Let a fit that is resumed at its last step call its start and end hooks; Lightning would skip them silently."""

    class Ended(type(trainer.fit_loop)):
        skip = False

    trainer.fit_loop.__class__ = Ended


def validate_now(trainer: Any) -> None:
    """Run the validation inside a fit, between two batches or before the first."""
    connector, loop = trainer._logger_connector, trainer.fit_loop.epoch_loop.val_loop
    first = connector._first_loop_iter
    trainer.validating, loop.restarting = True, False
    loop.run()
    trainer.training, connector._first_loop_iter = True, first


def checkpoint_io(trainer: Any) -> Any:
    """What a Lightning trainer's strategy writes checkpoints with; None where nobody chose."""
    return getattr(trainer.strategy, "_checkpoint_io", None)


def set_checkpoint_io(trainer: Any, io: Any) -> None:
    """Let a Lightning trainer's strategy write checkpoints with `io`."""
    trainer.strategy._checkpoint_io = io


def attached_trainer(module: Any) -> Any:
    """The trainer of a LightningModule; None where it has none (its property raises then)."""
    return module._trainer


def parsed_config(cli: Any) -> dict[str, Any]:
    """The configuration that a LightningCLI has parsed, as plain data, without the name of the subcommand."""
    cli._dump_config()
    return cli.config_dump
