"""Gated ears: a low-rank change of the trunk that acts on heard speech alone.

    y = W x + g B A x       g = 1 at the codes of a user's turn, else 0;  B starts at 0

Written text and the model's own voice pass through the very weights they passed through before, so hearing is learnt
without a risk to either: what the model writes to a written question, and what it says to one, is the same bit for bit.
Codes also have a second embedding that is added where they are heard. Not in the paper, which trains everything
together in Stage 2. A and B are those of low-rank adaptation (arXiv 2106.09685), which has no gate.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mossrepro.lm.lora import SCALE


class Gate:
    """Which positions of the batch at hand are heard: (B, L, 1) bool, or None where none is."""

    def __init__(self) -> None:
        self.heard: Tensor | None = None


class Ear(nn.Module):
    """The change of a linear layer with weights like `like`: (B, L, in) -> (B, L, out), 0 where the gate is shut."""

    def __init__(self, like: Tensor, rank: int, gate: Gate) -> None:
        super().__init__()
        self.down, self.up = (nn.Parameter(like.new_zeros(size)) for size in ((rank, like.shape[1]), (len(like), rank)))
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        narrow = F.linear(x, self.down)  # (B, L, rank): what is gated here costs little, and B of 0 is 0
        return F.linear(SCALE * self.gate.heard.to(narrow.dtype) * narrow, self.up)


class GatedLinear(nn.Linear):
    """A linear layer without bias and its ear. It shares the weight of the layer `old` that it replaces."""

    def __init__(self, old: nn.Linear, rank: int, gate: Gate) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = old.in_features, old.out_features
        self.weight, self.bias = old.weight, None
        self.ear = Ear(old.weight, rank, gate)

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight)
        return y if self.ear.gate.heard is None else y + self.ear(x)


def add_ears(blocks: nn.ModuleList, rank: int) -> Gate:
    """Replace every linear layer in `blocks` by a `GatedLinear`; returns their common gate."""
    gate = Gate()
    for parent in list(blocks.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is nn.Linear:
                setattr(parent, name, GatedLinear(child, rank, gate))
    return gate


def heard_positions(text: Tensor, pad: int, turn: Sequence[int]) -> Tensor | None:
    """The spoken positions of users' turns: text ids (B, L) -> (B, L, 1) bool, None where there are none.

    A turn is that of the speaker whose name follows the token that opens it. Positions that continue a sequence, as in
    decoding one by one, are the model's own.

    Args:
        text: text channel of a grid, from the beginning of the sequences or of a packed row of them.
        pad: text id of spoken positions.
        turn: text ids that open a user's turn: <|im_start|>, then those of the word "user".
    """
    if text.shape[1] == 1:
        return None
    spoken, places = text == pad, torch.arange(text.shape[1], device=text.device)
    opened = (
        torch.where(text == turn[0], places, -1).cummax(1).values
    )  # where the turn of each position began, -1: none
    heard = spoken & (opened >= 0)
    for i, id in enumerate(turn[1:], 1):
        heard = heard & (text.gather(1, (opened + i).clamp(0, text.shape[1] - 1)) == id)
    return heard[..., None] if text.device.type != "cpu" or heard.any() else None
