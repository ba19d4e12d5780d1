"""What the layers of flow decoder and vocoder remember between the chunks of one stream.

Every layer has one code path: without a memory it sees the whole sequence, with one it sees the next chunk after what
it has kept. The results are the same, and what is kept does not grow.
"""

from collections.abc import Hashable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mossrepro.utils.layers import LayerCache


class KeyValueWindow(LayerCache):
    """Keys and values of the last `size` rows of a stream: (B, G, at most size, E) each."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._kept: tuple[Tensor, Tensor] | None = None

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """k, v (B, G, n, E) of a chunk -> those that its rows may look at: the rows kept before it, then its own."""
        if self._kept is not None:
            k, v = torch.cat([self._kept[0], k], 2), torch.cat([self._kept[1], v], 2)
        first = max(0, k.shape[2] - self.size)
        self._kept = k[:, :, first:], v[:, :, first:]
        return k, v


class StreamMemory:
    """The state of one pass of a stream through layers: an entry for each, made when it is first met.

    A layer that sees rows beyond its own gives its rows that much later. Set `last` for the final chunk (which may be
    empty): layers then take zeros for what follows, as they do at the end of a whole sequence.
    """

    def __init__(self) -> None:
        self.last = False
        self._tails: dict[Hashable, Tensor] = {}
        self._windows: dict[Hashable, KeyValueWindow] = {}
        self._counts: dict[Hashable, int] = {}

    def join(self, layer: Hashable, x: Tensor, behind: int, ahead: int, kernel: int, stride: int = 1) -> Tensor:
        """Put the kept columns before a chunk, and keep what later windows of `kernel` columns need.

        Shapes: x (..., n) -> (..., kept + n). A stream begins with `behind` columns of zeros and ends with `ahead`.
        Windows begin `stride` columns after one another; each is complete in one call only.
        """
        before = self._tails.get(layer)
        joined = torch.cat([x.new_zeros(*x.shape[:-1], behind) if before is None else before, x], -1)
        joined = F.pad(joined, (0, ahead)) if self.last else joined
        windows = max(0, (joined.shape[-1] - kernel) // stride + 1)
        self._tails[layer] = joined[..., windows * stride :]
        return joined

    def add(self, layer: Hashable, x: Tensor, rest: int) -> Tensor:
        """Add the sum kept last time to the first columns of x (..., n), and keep its last `rest` for the next time."""
        before = self._tails.get(layer)
        x = x if before is None else x + F.pad(before, (0, x.shape[-1] - before.shape[-1]))
        self._tails[layer] = x[..., x.shape[-1] - rest :]
        return x

    def window(self, layer: Hashable, rows: int) -> KeyValueWindow:
        """The keys and values of an attention layer that looks back at most `rows` before a chunk."""
        return self._windows.setdefault(layer, KeyValueWindow(rows))

    def advance(self, layer: Hashable, rows: int) -> int:
        """The number of rows that `layer` has counted so far; `rows` more are counted."""
        before = self._counts.get(layer, 0)
        self._counts[layer] = before + rows
        return before


class StreamingConv1d(nn.Conv1d):
    """Convolution over time in which a row sees `look_ahead` rows beyond its own; zeros stand around a sequence.

    Shapes: x (B, C, T) -> (B, C', T) and x itself. In a stream, rows come `look_ahead` later: x (B, C, n) -> (B, C', m)
    and the m columns of the input that stand at the same places.
    """

    def __init__(self, channels: int, out: int, kernel: int, look_ahead: int, groups: int = 1) -> None:
        behind = kernel - 1 - look_ahead
        super().__init__(channels, out, kernel, groups=groups, padding=behind)
        self.behind, self.look_ahead, self.kernel = behind, look_ahead, kernel

    def forward(self, x: Tensor, memory: StreamMemory | None = None) -> tuple[Tensor, Tensor]:
        if memory is None:  # padded alike on both sides: the rows too many are at the end
            y = super().forward(x)
            return (y if self.behind == self.look_ahead else y[..., : x.shape[-1]]), x
        joined = memory.join(self, x, self.behind, self.look_ahead, self.kernel)
        rows = max(0, joined.shape[-1] - self.kernel + 1)
        here = joined[..., self.behind : self.behind + rows]
        if rows == 0:
            return x.new_zeros(len(x), self.out_channels, 0), here
        return F.conv1d(joined, self.weight, self.bias, groups=self.groups), here


def spread_look_ahead(total: int | None, kernels: list[int]) -> list[int]:
    """How far each of several convolutions in a row sees ahead: the first ones as far as half their kernel goes, until
    all together see `total` rows. None: each half its kernel.
    """
    halves, out = [kernel // 2 for kernel in kernels], []
    for half in halves:
        out.append(half if total is None else min(half, total - sum(out)))
    return out
