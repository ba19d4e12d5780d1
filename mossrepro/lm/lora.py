"""Low-rank adaptation (arXiv 2106.09685), the alternative to unfreezing: W x + (alpha / r) B A x with W frozen.

    A  lora_down (r, in), random      B  lora_up (out, r), zero, so that nothing changes at first

On export B A is added to W, which gives a plain checkpoint.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mossrepro.utils.errors import ConfigError

SCALE = 2.0  # alpha / r


class LoRALinear(nn.Linear):
    """A linear layer without bias plus a low-rank change. It shares the weight of the layer `old` that it replaces."""

    def __init__(self, old: nn.Linear, rank: int, generator: torch.Generator) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = old.in_features, old.out_features
        self.weight, self.bias = old.weight, None
        start = torch.randn(rank, old.in_features, generator=generator) / math.sqrt(old.in_features)
        self.lora_down = nn.Parameter(start.to(old.weight))
        self.lora_up = nn.Parameter(old.weight.new_zeros(old.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight) + SCALE * F.linear(F.linear(x, self.lora_down), self.lora_up)


def adapt(module: nn.Module, rank: int, seed: int = 0) -> int:
    """Replace every linear layer in `module` by a `LoRALinear` of that rank; returns the number of new parameters.

    ConfigError for a rank below 1.
    """
    if rank < 1:
        raise ConfigError(f"lora={rank}: the rank is at least 1")
    generator, new = torch.Generator().manual_seed(seed), 0
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                changed = LoRALinear(child, rank, generator)
                setattr(parent, name, changed)
                new += changed.lora_down.numel() + changed.lora_up.numel()
    return new


def merged(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with every low-rank change added to its weight, under the names of a model without LoRA."""
    plain = {name: value for name, value in state.items() if ".lora_" not in name}
    for name, up in state.items():
        if name.endswith(".lora_up"):
            layer = name.removesuffix(".lora_up")
            plain[f"{layer}.weight"] = plain[f"{layer}.weight"] + SCALE * up @ state[f"{layer}.lora_down"]
    return plain
