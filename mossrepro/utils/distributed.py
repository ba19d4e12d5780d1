"""Sums, means and rows over the ranks of a training; on one process each returns its argument itself, bit for bit.

A loss that is made of global sums is the same on every rank. Its gradient with respect to one rank's part of a sum is
multiplied by the number of ranks, since DDP divides by that number when it averages: what is left is the gradient of
the whole batch. Every function is a collective operation: all ranks call it, in the same order.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """How many ranks train together; 1 where no process group was started."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.detach().clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * world_size()


def sum_over_ranks(x: Tensor) -> Tensor:
    """The sum of every rank's x, which has the same shape on all of them."""
    return x if world_size() == 1 else _Sum.apply(x)


def mean_over_ranks(mean: Tensor, count: Tensor | int) -> Tensor:
    """The mean over all ranks' values, where `mean` is that over `count` values of this rank.

    A rank without values (count 0) may bring NaN, the mean of nothing. If no rank has any, the result is 0.
    """
    if world_size() == 1:
        return mean
    weight = torch.as_tensor(count, dtype=torch.float32, device=mean.device)
    return sum_over_ranks(_if_any(mean, weight) * weight) / sum_over_ranks(weight).clamp(min=1)


def norm_over_ranks(norm: Tensor, count: Tensor | int) -> Tensor:
    """The Euclidean norm of all ranks' values together, where `norm` is that of this rank's, if `count` is not 0."""
    if world_size() == 1:
        return norm
    weight = torch.as_tensor(count, dtype=torch.float32, device=norm.device)
    square = sum_over_ranks(_if_any(norm, weight).square())
    return torch.where(square > 0, square, 1.0).sqrt() * (square > 0)  # the root of 0 has no gradient


def _if_any(x: Tensor, weight: Tensor) -> Tensor:
    return torch.where(weight > 0, x, torch.zeros_like(x))


@torch.no_grad()
def rows_of_all_ranks(x: Tensor) -> Tensor:
    """All ranks' rows x (n, ...), one rank after the other; n may differ. No gradient passes."""
    if world_size() == 1:
        return x
    counts = [torch.zeros(1, dtype=torch.int64, device=x.device) for _ in range(world_size())]
    dist.all_gather(counts, torch.tensor([len(x)], device=x.device))
    padded = x.new_zeros(max(int(n) for n in counts), *x.shape[1:])
    padded[: len(x)] = x
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(n)] for part, n in zip(parts, counts, strict=True)])


def most_of_all_ranks(n: int, device: torch.device) -> int:
    """The largest n of all ranks; `device` is where the ranks exchange tensors."""
    if world_size() == 1:
        return n
    most = torch.tensor(n, device=device)
    dist.all_reduce(most, dist.ReduceOp.MAX)
    return int(most)
