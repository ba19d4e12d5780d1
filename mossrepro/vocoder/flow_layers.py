"""The layers of the flow decoder, over whole sequences or chunk by chunk: of transformers, then its two halves."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from mossrepro.utils.layers import RMSNorm, TransformerBlock, rotary_table
from mossrepro.vocoder.sampling import FRAMES, Context
from mossrepro.vocoder.streaming import StreamMemory

SPREAD = 0.5  # standard deviation of the code embedding's initial values
HEAD = 64  # width of an attention head
THETA = 10000.0


def chunk_mask(length: int, chunk: int, device: torch.device, look_back: int = 0) -> Tensor:
    """(length, length) bool: row i may look at column j when j's chunk is not later than i's; chunk 0 = no limit.

    With look_back, j is not earlier than that many rows before i's chunk.
    """
    size = chunk if chunk > 0 else max(length, 1)
    place = torch.arange(length, device=device) // size
    mask = place[:, None] >= place[None, :]
    if look_back > 0:
        mask = mask & (torch.arange(length, device=device)[None, :] >= place[:, None] * size - look_back)
    return mask


class CausalConvolution(nn.Module):
    """Depthwise convolution over the last `kernel` rows, added to the input: (B, L, D) -> (B, L, D)."""

    def __init__(self, dim: int, kernel: int = 5):
        super().__init__()
        self.weight = nn.Conv1d(dim, dim, kernel, groups=dim)
        self.reach = kernel - 1

    def forward(self, x: Tensor, memory: StreamMemory | None = None) -> Tensor:
        columns = x.transpose(1, 2)
        if memory is None:
            columns = F.pad(columns, (self.reach, 0))
        else:
            columns = memory.join(self, columns, self.reach, 0, self.reach + 1)
        return x + F.silu(self.weight(columns)).transpose(1, 2)


class Block(nn.Module):
    """Causal convolution, shift and scale by the flow's time (estimator only), then a transformer layer.

    Shapes: x (B, L, D), time (B, D) or None, mask (B, 1, L, keys) -> (B, L, D). `look_back` in rows is for a stream,
    whose keys are the kept ones and those of x.
    """

    def __init__(self, dim: int, timed: bool):
        super().__init__()
        self.convolution = CausalConvolution(dim)
        self.layer = TransformerBlock(dim, dim // HEAD, dim // HEAD, HEAD, 8 * dim // 3 // 32 * 32, True, 1e-6)
        self.modulate = nn.Linear(dim, 2 * dim) if timed else None
        if self.modulate is not None:
            nn.init.zeros_(self.modulate.weight), nn.init.zeros_(self.modulate.bias)

    def forward(
        self,
        x: Tensor,
        table: tuple[Tensor, Tensor],
        mask: Tensor,
        time: Tensor | None = None,
        memory: StreamMemory | None = None,
        look_back: int = 0,
    ) -> Tensor:
        x = self.convolution(x, memory)
        if self.modulate is not None and time is not None:
            scale, shift = self.modulate(time)[:, None].chunk(2, -1)
            x = x * (1 + scale) + shift
        return self.layer(x, table, mask, None if memory is None else memory.window(self, look_back))


class Stack(nn.Module):
    """Blocks over a sequence with `rows` rows for a code: (B, L, D) -> (B, L, D)."""

    def __init__(self, dim: int, blocks: int, rows: int, timed: bool = False):
        super().__init__()
        self.rows = rows
        self.blocks = nn.ModuleList(Block(dim, timed) for _ in range(blocks))

    def forward(
        self,
        x: Tensor,
        valid: Tensor,
        context: Context,
        time: Tensor | None = None,
        memory: StreamMemory | None = None,
    ) -> Tensor:
        """valid (B, L) is False on padding, which is masked out (but every row may attend to itself).

        With a memory, x is the next chunk of a stream without padding, and looks at all that is kept.
        """
        length, device = x.shape[1], x.device
        chunk, look_back = (self.rows * codes for codes in context)
        start = 0 if memory is None else memory.advance(self, length)
        if memory is None:
            mask = chunk_mask(length, chunk, device, look_back) & valid[:, None, :]
            mask = (mask | torch.eye(length, dtype=torch.bool, device=device))[:, None]  # (B, 1, L, L)
        else:
            mask = torch.ones(1, 1, length, min(start, look_back) + length, dtype=torch.bool, device=device)
        table = rotary_table(torch.arange(start, start + length, device=device)[None], HEAD, THETA)
        for block in self.blocks:
            x = block(x, table, mask, time, memory, look_back)
        return x


class CodeEncoder(nn.Module):
    """codes (B, T) -> condition (B, 4T, dim). Row i sees codes up to the end of its chunk + `look_ahead`."""

    def __init__(self, codes: int, dim: int, blocks: int, fine_blocks: int, look_ahead: int):
        super().__init__()
        self.look_ahead = look_ahead
        self.embedding = nn.Embedding(codes, dim)
        nn.init.normal_(self.embedding.weight, std=SPREAD)
        self.ahead = nn.Conv1d(dim, dim, look_ahead + 1)
        self.coarse = Stack(dim, blocks, 1)
        self.upsample = nn.Linear(dim, FRAMES * dim)
        self.fine = Stack(dim, fine_blocks, FRAMES)
        self.norm = RMSNorm(dim)

    @torch.no_grad()
    def start_from(self, codebook: Tensor) -> None:
        """Initialise the embedding from codebook (codes, C): a random projection nearly keeps its distances."""
        dim = self.embedding.embedding_dim
        turned = (codebook - codebook.mean(0)) @ torch.randn(codebook.shape[1], dim).to(codebook)
        self.embedding.weight.copy_(SPREAD * turned / turned.std())

    def forward(
        self,
        codes: Tensor,
        valid: Tensor,
        context: Context,
        memory: StreamMemory | None = None,
        following: Tensor | None = None,
    ) -> Tensor:
        """valid (B, T) is False on padding. following (B, at most look_ahead): the codes behind a chunk of a stream."""
        x = self.embedding(codes) * valid[..., None]
        seen = x if following is None else torch.cat([x, self.embedding(following)], 1)
        missing = x.shape[1] + self.look_ahead - seen.shape[1]
        x = x + F.silu(self.ahead(F.pad(seen.transpose(1, 2), (0, missing)))).transpose(1, 2)
        x = self.coarse(x, valid, context, memory=memory)
        x = rearrange(self.upsample(x), "b t (frames d) -> b (t frames) d", frames=FRAMES)
        x = self.fine(x, repeat(valid, "b t -> b (t frames)", frames=FRAMES), context, memory=memory)
        return self.norm(x)


class Estimator(nn.Module):
    """Velocity of the flow: x (B, bands, L), time (B,), condition (B, L, dim) -> (B, bands, L)."""

    def __init__(self, bands: int, dim: int, blocks: int):
        super().__init__()
        self.time = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim), nn.SiLU())
        self.dim = dim
        self.x_in = nn.Linear(bands, dim)
        self.condition_in = nn.Linear(dim, dim)
        self.stack = Stack(dim, blocks, FRAMES, timed=True)
        self.norm = RMSNorm(dim)
        self.out = nn.Linear(dim, bands)
        nn.init.zeros_(self.out.weight), nn.init.zeros_(self.out.bias)

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        condition: Tensor,
        valid: Tensor,
        context: Context,
        memory: StreamMemory | None = None,
    ) -> Tensor:
        rates = torch.exp(-math.log(10000.0) * torch.arange(self.dim // 2, device=x.device) / (self.dim // 2))
        angles = 1000 * time[:, None] * rates
        clock = self.time(torch.cat([angles.cos(), angles.sin()], -1).to(x.dtype))
        y = self.x_in(x.transpose(1, 2)) + self.condition_in(condition)
        return self.out(self.norm(self.stack(y, valid, context, clock, memory))).transpose(1, 2)
