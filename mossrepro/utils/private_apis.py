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
