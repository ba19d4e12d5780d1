"""One codebook, learnt by moving averages.

arXiv 2510.00499, section on the speech tokenizer (one codebook); VQ-VAE, 1711.00937, appendix A.1 (the averages).
"""

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from mossrepro.utils.devices import select, send, without_autocast

RECENT = 8192  # latent frames kept for the k-means start and for replacing dead codes
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


class Remembering(nn.Module):
    """A ring of the newest latents, from which a quantiser is started; all state in buffers, so that it resumes."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("recent", torch.zeros(RECENT, dim))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))  # frames ever written to `recent`
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))
        self._full = False  # whether the ring was seen to be full, so that the device need not be asked again

    def _load_from_state_dict(self, *args, **kwargs) -> None:
        self._full = False
        super()._load_from_state_dict(*args, **kwargs)

    @torch.no_grad()
    def remember(self, frames: Tensor) -> None:
        """Keep the newest latents, frames (N, C), in the ring."""
        frames = frames.float()[-RECENT:]
        at = (self.seen + torch.arange(len(frames), device=frames.device)) % RECENT
        self.recent[at] = frames
        self.seen += len(frames)

    def held(self) -> int:
        """The number of latents in the ring. Once it is full, nothing is read back from the device."""
        if self._full:
            return RECENT
        count = int(self.seen.clamp(max=RECENT))
        self._full = count == RECENT
        return count

    def remembered(self) -> Tensor:
        """The latents in the ring (n, C)."""
        return self.recent[: self.held()]

    def shuffled(self, generator: torch.Generator) -> Tensor:
        """The numbers of the latents in the ring, in random order: (n,) int64."""
        return send(torch.randperm(self.held(), generator=generator), self.recent.device)


class Quantiser(Remembering):
    """Vector quantiser with k-means start, moving-average update, dead-code restart and straight-through gradient.

    Translation to the symbols of 1711.00937: `counts` = N_i, `sums` = m_i, `codebook` = e_i = m_i / N_i.
    All state lives in buffers, all randomness comes from the generator given to `start` and `update`: a resumed run
    equals an uninterrupted one.
    """

    def __init__(self, codes: int, dim: int, decay: float = 0.99) -> None:
        super().__init__(dim)
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
        """Place the codebook by k-means on the remembered latents."""
        points = self.remembered()
        self.codebook.copy_(self._draw(self.shuffled(generator)))
        for _ in range(iterations):
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
    def update(self, frames: Tensor, codes: Tensor, generator: torch.Generator) -> Tensor:
        """Move the codebook towards frames (N, C) that chose codes (N,); returns how many dead codes were replaced, ().

        Where no latents have been remembered none is.
        """
        return self.move(frames, codes, self.shuffled(generator))

    @torch.no_grad()
    def move(self, frames: Tensor, codes: Tensor, order: Tensor) -> Tensor:
        """As `update`, with the order in which latents take the place of dead codes (`shuffled`).

        How many are dead is known to the device alone: every code has a latent drawn for it, and few take it.
        """
        counts, sums = self._tally(frames.float(), codes)
        if dist.is_initialized():  # the same codebook on every rank; restarts agree through DDP's buffer broadcast
            dist.all_reduce(counts)
            dist.all_reduce(sums)
        self.counts.lerp_(counts, 1 - self.decay)
        self.sums.lerp_(sums, 1 - self.decay)
        replaced = codes.new_zeros(())
        if len(order):
            average = self.counts.mean()
            dead = self.counts < DEAD * average  # (K,)
            drawn = self._draw(order)[(dead.cumsum(0) - 1).clamp(min=0)]  # the first dead code takes the first latent
            self.counts.copy_(torch.where(dead, average, self.counts))
            self.sums.copy_(torch.where(dead[:, None], drawn * average, self.sums))
            replaced = dead.sum()
        self.codebook.copy_(self.sums / self.counts[:, None])
        return replaced
