"""Finite scalar quantisation (arXiv 2309.15505): no codebook to learn, every number is rounded to one of a few levels.

It replaces `quantiser.py` by configuration: `--model.init_args.network.levels=[8,8,4,4]` is 1,024 codes.
"""

import math

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mossrepro.codec.quantiser import Quantised, Remembering
from mossrepro.utils.distributed import world_size
from mossrepro.utils.errors import ConfigError

_EDGE = 1e-3  # how far beyond the outermost level the bound lies, so that the level can be reached


class FiniteScalarQuantiser(Remembering):
    """A latent is mapped to a few numbers, each is bounded and rounded to its levels, and the result is mapped back.

    Same interface as `Quantiser`. Rounding passes the gradient straight through. The axes start as the principal axes
    of remembered latents: with random ones nearly all frames round to the same few codes, and hardly any gradient
    separates them (compare the paper's advice of 5 levels or more).

    Args:
        levels: values of each number (L in the paper); their product is the number of codes.
        dim: C, width of the latents and of `codebook`'s rows.
    """

    def __init__(self, levels: tuple[int, ...], dim: int) -> None:
        super().__init__(dim, needed=len(levels) + 1)  # as many latents as span its axes
        if not levels or min(levels) < 2:
            raise ConfigError(f"levels={list(levels)}: every number needs two levels or more")
        self.levels, n = tuple(levels), len(levels)
        self.down, self.back = nn.Linear(dim, n), nn.Linear(n, dim)
        self.bend = nn.Sequential(nn.Linear(n, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        nn.init.zeros_(self.bend[2].weight), nn.init.zeros_(self.bend[2].bias)
        count = torch.tensor(levels)
        self.register_buffer("count", count, persistent=False)
        self.register_buffer("stride", torch.cat([count.new_ones(1), count[:-1]]).cumprod(0), persistent=False)
        places = torch.arange(math.prod(levels))[:, None] // self.stride % count  # (K, n)
        self.register_buffer("grid", self._centred(places), persistent=False)

    def _centred(self, places: Tensor) -> Tensor:
        """Level numbers 0 ... L - 1 -> -1 ... 1, float32."""
        return places * 2 / (self.count - 1) - 1

    @property
    def codebook(self) -> Tensor:
        """The vector of every code, (K, C)."""
        return self._vectors(self.grid)

    def _vectors(self, numbers: Tensor) -> Tensor:
        """(..., n) -> (..., C): a linear map plus a small network, which starts at zero."""
        return self.back(numbers) + self.bend(numbers)

    @torch.no_grad()
    def start(self, generator: torch.Generator) -> None:
        """Start with the principal axes of the remembered latents. `generator` is not used.

        Computed on the CPU: the axes' signs are then the same on any device, and MPS has no eigenvalues.

        Raises:
            ConfigError: there are too few of them.
        """
        self.check_enough()
        points = self.remembered().cpu()
        mean, n = points.mean(0), len(self.levels)
        variances, axes = torch.linalg.eigh(torch.cov((points - mean).T))
        axes, spread = axes[:, -n:].T, variances[-n:].clamp(min=1e-8).sqrt()
        down = (axes / spread[:, None]).contiguous()
        self.down.weight.copy_(down)
        self.down.bias.copy_(-down @ mean)
        self.back.weight.copy_((axes * spread[:, None]).T)
        self.back.bias.copy_(mean)
        if world_size() > 1:  # an axis may point either way, and DDP sends parameters only at the start
            for parameter in (*self.down.parameters(), *self.back.parameters()):
                dist.broadcast(parameter, 0)
        self.started.fill_(True)

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Quantised:
        """Round frames to codes: x (B, T, C) -> Quantised, with a commitment of 0 (none is needed)."""
        top = self.count - 1
        bounded = (torch.tanh(self.down(x).to(self.grid)) * (1 + _EDGE) + 1) / 2 * top  # (B, T, n) in [0, L - 1]
        places = bounded.detach().round().clamp(min=torch.zeros_like(top), max=top)
        codes = (places.long() * self.stride).sum(-1)
        passed = bounded + (places - bounded).detach()
        return Quantised(self._vectors(self._centred(passed)), codes, x.new_zeros(()))

    def update(self, frames: Tensor, codes: Tensor, generator: torch.Generator, replace: bool = True) -> Tensor:
        """Does nothing: all parameters learn by gradient. Returns 0 replaced codes, ()."""
        return codes.new_zeros(())
