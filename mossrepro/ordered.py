"""Linear layers for inference on a CPU: weights in the order that the processor's library of products reads fastest.

`nn.Linear` keeps the plain order. On the AMD processor that was measured, one row of float32 then goes through weights
at a third of the memory's speed, and many rows at half the speed of oneDNN. In oneDNN's own order, in which weights are
put once, products are 1.4 to 3.4 times as fast at the sizes of these models (docs/LOG.md). PyTorch's compiler does the
same when it freezes a model.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_WORTH = 1 << 17  # weights from which the other order is faster; one row of float32 times 128 x 768 is slower


class OrderedLinear(nn.Module):
    """Linear layers on the same input in one product: (..., D) -> (..., the sum of their widths). Has no gradient.

    All of them have a bias or none has. Small weights, and those on an accelerator, keep the plain order.
    """

    def __init__(self, *layers: nn.Linear) -> None:
        super().__init__()
        self.widths = [layer.out_features for layer in layers]
        weight = torch.cat([layer.weight.detach() for layer in layers])
        self.bias = None if layers[0].bias is None else torch.cat([layer.bias.detach() for layer in layers])
        self.ordered = worth(weight) and _can_order(weight.dtype)
        self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, 1) if self.ordered else weight

    def forward(self, x: Tensor) -> Tensor:
        return _product(x, self.weight, self.bias) if self.ordered else F.linear(x, self.weight, self.bias)


def ordered(module: nn.Module) -> nn.Module:
    """`module` itself, its larger linear layers ordered where they are on a CPU.

    It gives the same, and can no longer be trained, saved or moved to another device.
    """
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and worth(child.weight) and _can_order(child.weight.dtype):
                setattr(parent, name, OrderedLinear(child))
    return module


def worth(weight: Tensor) -> bool:
    """Whether products with it would be faster."""
    return weight.device.type == "cpu" and weight.numel() >= _WORTH


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


@cache
def _can_order(dtype: torch.dtype) -> bool:
    """Whether this PyTorch has the operation, and it gives the right product on this processor."""
    weight, x = torch.eye(64, dtype=dtype), torch.arange(64, dtype=dtype)[None]
    try:
        return torch.equal(_product(x, torch.ops.mkldnn._reorder_linear_weight(weight, 1), None), x)
    except (AttributeError, RuntimeError):
        return False
