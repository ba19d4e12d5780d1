"""Linear layers for inference on a CPU, with weights packed in the memory layout of oneDNN.

`nn.Linear` keeps the plain row-major layout. On the AMD processor that was measured, a float32 product with one input
row then reads weights at a third of the memory bandwidth, and one with many rows runs at half the speed of oneDNN. With
weights packed once into oneDNN's blocked layout, products of one row are 1.4 to 3.4 times as fast at the sizes of these
models; in bfloat16, products of 256 rows 1.1 to 1.3 times (docs/LOG.md). PyTorch's compiler does the same when it
freezes a model. Processors without AVX512 gain nothing and keep the plain layout.
"""

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mossrepro.utils.errors import MossError
from mossrepro.utils.private_apis import pack_weight, packed_product

_WORTH = 1 << 17  # number of weights from which packing is faster; one float32 row times 128 x 768 is slower packed


class PackedLinear(nn.Module):
    """Linear layers on the same input, fused into one product: (..., D) -> (..., sum of their output widths).

    All of them have a bias or none has. Where packing does not pay (`worth_packing`) the weights stay plain. There is
    no gradient, and the layer cannot be saved, copied or moved: MossError.
    """

    def __init__(self, *layers: nn.Linear) -> None:
        super().__init__()
        self.widths = [layer.out_features for layer in layers]
        weight = torch.cat([layer.weight.detach() for layer in layers])
        self.bias = None if layers[0].bias is None else torch.cat([layer.bias.detach() for layer in layers])
        self.ordered = worth_packing(weight)
        self.weight = pack_weight(weight) if self.ordered else weight

    def forward(self, x: Tensor) -> Tensor:
        if x.requires_grad and torch.is_grad_enabled():
            raise MossError("a layer that was laid out for inference has no gradient; load the model again to train it")
        x = x.to(self.weight.dtype)  # a convolution before it may have worked in bfloat16
        return packed_product(x, self.weight, self.bias) if self.ordered else F.linear(x, self.weight, self.bias)

    def _apply(self, change: Callable[[Tensor], Tensor], recurse: bool = True) -> "PackedLinear":
        like = torch.empty(0, dtype=self.weight.dtype, device=self.weight.device)
        if (new := change(like)).dtype != like.dtype or new.device != like.device:
            raise MossError("a model that was laid out for inference keeps its device and precision; load it again")
        return self

    def _save_to_state_dict(self, *_) -> None:
        raise MossError("a model that was laid out for inference cannot be saved; load it again, or copy its folder")

    def __reduce_ex__(self, protocol: int):
        raise MossError("a model that was laid out for inference cannot be copied; load it again")


def pack_linear_layers(module: nn.Module) -> nn.Module:
    """`module` itself with `PackedLinear` in the place of the linear layers that gain by it.

    Results are the same but for rounding (in bfloat16, the same).
    """
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear and worth_packing(child.weight):
                setattr(parent, name, PackedLinear(child))
    return module


def worth_packing(weight: Tensor) -> bool:
    """Whether products with this weight are faster in the other order."""
    return weight.device.type == "cpu" and weight.numel() >= _WORTH and _can_pack(weight.dtype)


@cache
def _can_pack(dtype: torch.dtype) -> bool:
    """Whether this processor gains by it, and this PyTorch has the operation and gives the right product."""
    if torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    weight, x = torch.eye(64, dtype=dtype), torch.arange(64, dtype=dtype)[None]
    try:
        return torch.equal(packed_product(x, pack_weight(weight), None), x)
    except (AttributeError, RuntimeError):
        return False
