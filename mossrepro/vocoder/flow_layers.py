"""The transformer layers of the flow decoder, over whole sequences or chunk by chunk."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mossrepro.utils.layers import TransformerBlock, rotary_table
from mossrepro.vocoder.sampling import Context
from mossrepro.vocoder.streaming import StreamMemory

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
