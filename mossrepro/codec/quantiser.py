"""One codebook, learnt by moving averages.

arXiv 2510.00499, section on the speech tokenizer (one codebook); VQ-VAE, 1711.00937, appendix A.1 (the averages).
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mossrepro.utils.devices import select, send, without_autocast
from mossrepro.utils.errors import ConfigError

RECENT = 8192  # latent frames kept at least for the k-means start and for replacing dead codes
DEAD = 0.03  # a code used less than this share of the average is dead


class Quantised(NamedTuple):
    """What the quantiser returns."""

    vectors: Tensor  # (B, T, C) codebook rows; the gradient passes straight through to the input
    codes: Tensor  # (B, T) int64
    commitment: Tensor  # scalar, mean squared distance of the valid frames to their codes


def nearest_code(x: Tensor, codebook: Tensor) -> Tensor:
    """Index of the closest codebook row: x (..., C), codebook (K, C) -> (...) int64.

    |x - c|^2 = |x|^2 - 2 x.c + |c|^2, and |x|^2 is the same for every row.
    """
    return (codebook.square().sum(-1) - 2 * x @ codebook.T).argmin(-1)


class Starts(Protocol):
    """What starts from remembered latents: a quantiser or a stack of them."""

    started: Tensor | bool
    lacking: int  # latents to remember before it can start

    def start(self, generator: torch.Generator) -> None:
        """Start. ConfigError if latents are lacking."""


class Remembering(nn.Module):
    """A ring of the newest latents, from which a quantiser is started; all state in buffers, so that it resumes.

    Its methods exchange nothing between ranks: given the latents of all ranks, each rank computes the same.

    Args:
        dim: width of a latent.
        needed: latents without which there is no start; the ring holds so many, and RECENT at least.
    """

    def __init__(self, dim: int, needed: int) -> None:
        super().__init__()
        self.needed = needed
        self.register_buffer("recent", torch.zeros(max(RECENT, needed), dim))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))  # frames ever written to `recent`
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))
        self._full = False  # whether the ring was seen to be full, so that the device need not be asked again

    @torch.no_grad()
    def remember(self, frames: Tensor) -> None:
        """Keep the newest latents, frames (N, C), in the ring."""
        frames = frames.float()[-len(self.recent) :]
        at = (self.seen + torch.arange(len(frames), device=frames.device)) % len(self.recent)
        self.recent[at] = frames
        self.seen += len(frames)

    def held(self) -> int:
        """The number of latents in the ring. Once it is full, nothing is read back from the device."""
        if self._full:
            return len(self.recent)
        count = min(int(self.seen), len(self.recent))
        self._full = count == len(self.recent)
        return count

    def remembered(self) -> Tensor:
        """The latents in the ring (n, C)."""
        return self.recent[: self.held()]

    def shuffled(self, generator: torch.Generator) -> Tensor:
        """The numbers of the latents in the ring, in random order: (n,) int64."""
        return send(torch.randperm(self.held(), generator=generator), self.recent.device)

    @property
    def lacking(self) -> int:
        """Latents to remember before it can start."""
        return max(0, self.needed - self.held())

    def check_enough(self) -> None:
        """ConfigError if it cannot start yet."""
        if self.lacking:
            raise ConfigError(f"{self.held()} latents are too few to start a quantiser that needs {self.needed}")

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: object) -> None:
        """More than RECENT codes were once saved with a ring of RECENT latents: it fills a part of ours."""
        self._full = False
        old = state_dict.get(prefix + "recent")
        if old is not None and len(old) < len(self.recent) and prefix + "seen" in state_dict:
            state_dict[prefix + "recent"] = F.pad(old, (0, 0, 0, len(self.recent) - len(old)))
            state_dict[prefix + "seen"] = state_dict[prefix + "seen"].clamp(max=len(old))
        super()._load_from_state_dict(state_dict, prefix, *rest)


class Quantiser(Remembering):
    """Vector quantiser with k-means start, moving-average update, dead-code restart and straight-through gradient.

    Translation to the symbols of 1711.00937: `counts` = N_i, `sums` = m_i, `codebook` = e_i = m_i / N_i.
    All state lives in buffers, all randomness comes from the generator given to `start` and `update`: a resumed run
    equals an uninterrupted one.

    Every code starts from a latent of its own. Up to RECENT codes k-means then moves them; with more the ring holds one
    latent a code, and the moving averages do.
    """

    def __init__(self, codes: int, dim: int, decay: float = 0.99) -> None:
        super().__init__(dim, needed=codes)
        self.decay = decay
        self.register_buffer("codebook", torch.zeros(codes, dim))
        self.register_buffer("counts", torch.zeros(codes))
        self.register_buffer("sums", torch.zeros(codes, dim))

    def forward(self, x: Tensor, valid: Tensor | None = None) -> Quantised:
        """Snap frames to codes: x (B, T, C), valid (B, T) bool -> Quantised. Changes no state.

        With `valid` in main memory nothing waits for the device.
        """
        x = x.to(torch.promote_types(x.dtype, self.codebook.dtype))
        with without_autocast(x.device):  # in bfloat16 1.5 % of codes would differ from `encode`'s
            codes = nearest_code(x, self.codebook)
        hard = F.embedding(codes, self.codebook)
        gap = (x - hard).square().mean(-1)
        commitment = gap.mean() if valid is None else select(gap, valid).mean()
        return Quantised(x + (hard - x).detach(), codes, commitment)

    def _draw(self, order: Tensor) -> Tensor:
        """A latent for every code (K, C) from the ring in an order (`shuffled`), without repeats if it holds enough."""
        codes = len(self.codebook)
        return self.recent[order.repeat(-(-codes // len(order)))[:codes]]

    @torch.no_grad()
    def start(self, generator: torch.Generator, iterations: int = 10) -> None:
        """Place the codebook by k-means on the remembered latents. ConfigError if they are fewer than the codes."""
        self.check_enough()
        points = self.remembered()
        self.codebook.copy_(self._draw(self.shuffled(generator)))
        for _ in range(iterations if len(points) > len(self.codebook) else 0):  # else each row is its own mean
            counts, sums = self._tally(points, nearest_code(points, self.codebook))
            self.codebook.copy_(torch.where(counts[:, None] > 0, sums / counts[:, None].clamp(min=1), self.codebook))
        self.counts.fill_(1.0)
        self.sums.copy_(self.codebook)
        self.started.fill_(True)

    def _tally(self, points: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """How often each code was chosen (K,) and the sum of what chose it (K, C)."""
        counts = torch.zeros_like(self.counts).index_add_(0, codes, torch.ones_like(codes, dtype=self.counts.dtype))
        return counts, torch.zeros_like(self.codebook).index_add_(0, codes, points)

    @torch.no_grad()
    def update(self, frames: Tensor, codes: Tensor, generator: torch.Generator, replace: bool = True) -> Tensor:
        """Move the codebook towards frames (N, C) that chose codes (N,); returns how many dead codes were replaced, ().

        On several ranks frames and codes are those of all of them. `replace`: whether dead codes are replaced by recent
        latents; the others wait for a later update, as do those for which no latent is left.
        """
        return self.move(frames, codes, self.shuffled(generator), replace)

    @torch.no_grad()
    def move(self, frames: Tensor, codes: Tensor, order: Tensor, replace: bool = True) -> Tensor:
        """As `update`, with the order in which latents take the place of dead codes (`shuffled`).

        How many are dead is known to the device alone: every code has a latent drawn for it, and few take it.
        """
        counts, sums = self._tally(frames.float(), codes)
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        replaced = codes.new_zeros(())
        if replace and len(order):
            average = self.counts.mean()
            dead = self.counts < DEAD * average  # (K,)
            place = dead.cumsum(0)  # the first dead code takes the first latent
            dead &= place <= len(order)
            drawn = self._draw(order)[(place - 1).clamp(min=0)]
            self.counts.copy_(torch.where(dead, average, self.counts))
            self.sums.copy_(torch.where(dead[:, None], drawn * average, self.sums))
            replaced = dead.sum()
        self.codebook.copy_(self.sums / self.counts[:, None])
        return replaced
