"""Cross-entropy and divergence over a large vocabulary without its logits in memory."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

IGNORE = -100
_MULTIPLE = 32  # positions are filled up to a multiple: logits of ever new sizes would break up a CPU's memory
ROWS = 512  # positions whose logits exist at one time: 300 MB in float32 for Qwen3's vocabulary


def chunked_cross_entropy(
    head: nn.Module, x: Tensor, target: Tensor, rows: int = ROWS, multiple: int = _MULTIPLE
) -> Tensor:
    """Sum of the cross-entropy of head(x) over n positions: x (n, D), target (n,) int64 -> () float32.

    Logits are computed for `rows` positions at a time, dropped, and computed again in the backward pass. Otherwise
    4,000 targets would keep 5 GB at full size; the recomputation costs 2 % of a step at `small`. Positions are filled
    up to a multiple of `multiple` with some that do not count.
    """

    def of_chunk(x: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(head(x).float(), target, reduction="sum", ignore_index=IGNORE)

    run = of_chunk if len(x) <= rows else partial(checkpoint, of_chunk, use_reentrant=False)
    more = -len(x) % multiple
    x, target = F.pad(x, (0, 0, 0, more)), F.pad(target, (0, more), value=IGNORE)
    return sum(run(*part) for part in zip(x.split(rows), target.split(rows), strict=True))


def chunked_divergence(head: nn.Module, x: Tensor, teacher: Tensor, rows: int = ROWS) -> Tensor:
    """Sum over n positions of the Kullback-Leibler divergence of head(x) from head(teacher), which is not trained.

    Shapes: x, teacher (n, D) -> () float32. Logits are kept as in `chunked_cross_entropy`.
    """

    def of_chunk(x: Tensor, teacher: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = head(teacher).float().log_softmax(-1)
        return F.kl_div(head(x).float().log_softmax(-1), wanted, log_target=True, reduction="sum")

    run = of_chunk if len(x) <= rows else partial(checkpoint, of_chunk, use_reentrant=False)
    x, teacher = (F.pad(one, (0, 0, 0, -len(x) % _MULTIPLE)) for one in (x, teacher))  # 0 and 0 do not diverge
    return sum(run(*part) for part in zip(x.split(rows), teacher.split(rows), strict=True))
