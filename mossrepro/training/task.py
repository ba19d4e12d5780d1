"""What all training tasks share: the learning-rate schedule, and gradient clipping for fused optimisers."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from mossrepro.utils.errors import ConfigError


def warm_cosine(step: int, warmup_steps: int, total: int, last: float = 0.02) -> float:
    """Factor on the learning rate: linear warm-up over `warmup_steps`, then a cosine down to `last` at step `total`."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = min(1.0, (step - warmup_steps) / max(1, total - warmup_steps))
    return last + (1 - last) * 0.5 * (1 + math.cos(math.pi * done))


class Task(LightningModule):
    """Base of the training tasks: schedule and clipping; a subclass adds its losses and its optimiser.

    `gradient_norm` is that of the last optimiser step before clipping, () on its device, or one of each optimiser;
    None without clipping. `clipping_flag` is what a user sets it with.
    """

    gradient_norm: Tensor | None = None
    clipping_flag = "--trainer.gradient_clip_val"

    def scheduled(self, optimiser: torch.optim.Optimizer, warmup_steps: int, last: float = 0.02) -> dict[str, Any]:
        """What `configure_optimizers` returns. The factor depends on the step and on trainer.max_steps alone."""
        total = self.trainer.max_steps
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: warm_cosine(step, warmup_steps, total, last)
        )
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradient norm ourselves: under mixed precision Lightning refuses to with a fused optimiser.

        Its reason is that float16 gradients are scaled; bfloat16 ones are not. The fused step is seven times as fast.

        Raises:
            ConfigError: clipping by value is asked for.
        """
        if gradient_clip_algorithm not in (None, "norm"):
            raise ConfigError(f"gradient_clip_algorithm={gradient_clip_algorithm}: gradients are clipped by norm only")
        if gradient_clip_val:
            self.gradient_norm = clip_gradients(self.parameters(), gradient_clip_val)
            self.log("train/gradient_norm", self.gradient_norm)

    def culprits(self, batch: Any) -> str:
        """What in a batch makes the loss not finite, in words; empty where a task cannot tell."""
        return ""


def clip_gradients(parameters: Iterable[nn.Parameter], most: float) -> Tensor:
    """Scale gradients in place to a total norm of at most `most`, on any device mesh; returns the norm before."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if len({getattr(gradient, "device_mesh", None) for gradient in gradients}) == 1:
        norm = nn.utils.get_total_norm(gradients)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
    else:  # PyTorch's own function needs all on one mesh
        norms = [torch.linalg.vector_norm(gradient) for gradient in gradients]
        norm = torch.linalg.vector_norm(torch.stack([n.full_tensor() if isinstance(n, DTensor) else n for n in norms]))
    scale = (most / (norm + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(scale)
    return norm
