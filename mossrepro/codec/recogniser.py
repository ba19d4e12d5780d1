"""Phone recogniser on codes alone: what is left of the words after quantisation.

A connectionist temporal classification head (CTC, Graves et al. 2006) that sees one second to either side: enough
to undo blurred sounds, too little for a language model. Words are then looked up (`lexicon.py`).
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mossrepro.speech.normalise import PHONES
from mossrepro.utils.devices import capable

BLANK = 0
LABELS = ("_", *PHONES)  # index = label; "_" stands for CTC's blank
STEPS = 4  # CTC steps per code: 50 a second, enough for the fastest speech
_INDEX = {phone: label for label, phone in enumerate(LABELS)}


def labels(phones: list[str]) -> list[int]:
    """Phones of PHONES -> CTC labels."""
    return [_INDEX[phone] for phone in phones]


def ctc_labels(best: Tensor) -> list[int]:
    """The most likely label of every step, best (S,) int64 -> labels: repeats merged, blanks removed."""
    return [label for label in torch.unique_consecutive(best).tolist() if label != BLANK]


def ctc_loss(log_probs: Tensor, target: Tensor, lengths: Tensor, target_lengths: Tensor) -> Tensor:
    """CTC loss in nats, summed over a batch: log_probs (B, S, 40), target (B, L) -> (). Impossible targets count 0.

    lengths, target_lengths (B,) in steps and labels; in main memory, or the loss waits for the device.
    """
    total = F.ctc_loss(
        capable(log_probs).transpose(0, 1),
        capable(target),
        lengths,
        target_lengths,
        blank=BLANK,
        reduction="sum",
        zero_infinity=True,
    )
    return total.to(log_probs.device)


class ConvBlock(nn.Module):
    """Depthwise convolution over time, then a feed-forward layer, as one residual (ConvNeXt, 2201.03545)."""

    def __init__(self, dim: int, kernel: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.mix = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, 4 * dim)
        self.down = nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor, valid: Tensor) -> Tensor:
        """x (B, T, D), valid (B, T, 1): padding is zeroed, so that a clip gives the same in a batch as alone."""
        mixed = self.mix((x * valid).transpose(1, 2)).transpose(1, 2)
        return x + self.down(self.dropout(F.gelu(self.up(self.norm(mixed)))))


class Recogniser(nn.Module):
    """Quantised frames (B, T, C) -> CTC log-probabilities of blank and the 39 phones (B, 4 T, 40)."""

    def __init__(self, code_dim: int, dim: int = 384, layers: int = 4, kernel: int = 7, dropout: float = 0.2) -> None:
        super().__init__()
        self.enter = nn.Linear(code_dim, dim)
        self.blocks = nn.ModuleList(ConvBlock(dim, kernel, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, STEPS * len(LABELS))

    def forward(self, frames: Tensor, lengths: Tensor | None = None) -> Tensor:
        """frames (B, T, C), lengths (B,) in codes -> log-probabilities (B, 4 T, 40)."""
        batch, steps, _ = frames.shape
        lengths = torch.full((batch,), steps, device=frames.device) if lengths is None else lengths
        x = self.enter(frames)
        valid = (torch.arange(steps, device=frames.device)[None] < lengths[:, None])[..., None].to(x)
        for block in self.blocks:
            x = block(x, valid)
        return F.log_softmax(self.head(self.norm(x)).float().view(batch, steps * STEPS, -1), dim=-1)
