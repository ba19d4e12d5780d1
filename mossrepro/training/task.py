"""What trainings share: the learning rate's course, clipping for fused optimisers, what a store tells of its codes,
what a processor is good at."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def warm_cosine(step: int, warmup_steps: int, total: int, last: float = 0.02) -> float:
    """Factor on the learning rate: linear up over `warmup_steps` steps, then a cosine down to `last` at `total`."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    done = min(1.0, (step - warmup_steps) / max(1, total - warmup_steps))
    return last + (1 - last) * 0.5 * (1 + math.cos(math.pi * done))


class Task(LightningModule):
    """A LightningModule with the house's schedule and clipping; each training adds its losses and its AdamW."""

    def scheduled(self, optimiser: torch.optim.Optimizer, warmup_steps: int, last: float = 0.02) -> dict[str, Any]:
        """The answer of `configure_optimizers`: the rate is a function of the step and of trainer.max_steps alone."""
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
        """Clip the norm ourselves: Lightning refuses to under mixed precision when the optimiser is a fused one.

        The reason, scaled float16 gradients, does not exist in bfloat16; the fused step is seven times as fast.
        """
        if gradient_clip_val:
            self.log("train/gradient_norm", clip_gradients(self.parameters(), gradient_clip_val))


def clip_gradients(parameters: Iterable[nn.Parameter], most: float) -> Tensor:
    """Scale gradients to a norm of `most` at most, wherever they lie; returns the norm before."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    if len({getattr(gradient, "device_mesh", None) for gradient in gradients}) == 1:
        norm = nn.utils.get_total_norm(gradients)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
    else:  # PyTorch's own wants all on one mesh
        norms = [torch.linalg.vector_norm(gradient) for gradient in gradients]
        norm = torch.linalg.vector_norm(torch.stack([n.full_tensor() if isinstance(n, DTensor) else n for n in norms]))
    scale = (most / (norm + 1e-6)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(scale)
    return norm
