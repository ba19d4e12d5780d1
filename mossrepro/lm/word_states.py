"""Word states: where a heard word ends, the trunk's state is drawn to that of the same word in writing.

A text model keeps what it has read of a word at the word's last token and looks it up there later. Where the states of
heard words are like those of written ones, all that lies behind them works as it does for text. So a document that is
heard has a twin in which the user writes, and for the words w of one document

    loss of a word = -log softmax_w(cos(h - m, t_w - m) / 0.07)

h: the state behind a layer where the heard word ends; t_w: those of the written words; m: the mean of the t_w. Only the
words of one document are told apart, so that the loss does not depend on how a step is divided over devices. The twin
passes through the text model as it is, and teaches only. The loss is CLIP's (arXiv 2103.00020); not in the paper.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mossrepro.lm.grid import Grid, Positions
from mossrepro.lm.model import LayerSplitLM

LATE = 1  # codes (80 ms) by which a causal codec's output lags behind the sound, see `CodecDataModule`
MOST_WORDS = 1000  # of a turn
TEMPERATURE = 0.07
_DEPTHS = (0.25, 0.5, 0.75, 1.0)  # of the trunk: the layers whose states are compared
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


class Heard(NamedTuple):
    """What somebody said: its text, its codes (n,), and the times of its words in seconds, if they are known."""

    text: str
    codes: np.ndarray
    words: Sequence[tuple[str, float, float]] = ()


def heard_turn(grid: Grid, heard: Heard, request: str, first: int) -> tuple[Positions, Positions]:
    """A user's turn, `request` in writing and then speech, and its twin, all of it in writing.

    If the times of all words are known, these are numbered from `first` in both, where they end.
    """
    opening, end = grid.text(f"<|im_start|>user\n{request}"), grid.text("<|im_end|>\n")
    whole, spoken = request + heard.text, grid.spoken(heard.codes)
    twin, words = grid.turn("user", text=whole), list(_WORD.finditer(whole, len(request)))
    if 0 < len(words) == len(heard.words) < MOST_WORDS:
        before, (here, there) = len(grid.text("<|im_start|>user\n")), (spoken.word_end, twin.word_end)
        for i, (word, (_, _, stop)) in enumerate(zip(words, heard.words, strict=True), first):
            here[min(1 + max(0, round(12.5 * stop + LATE)), len(here) - 1)] = i
            there[before + int(np.flatnonzero(grid.tokens_within(whole, *word.span()))[-1])] = i
    return grid.join(opening, spoken, end), twin


def paired(document: Positions, longest: int) -> np.ndarray:
    """Where the words of a document end that its twin has too, (words, 2): in the document, and in the twin."""
    if document.twin is None:
        return np.zeros((0, 2), np.int64)
    ours, theirs = document.word_end[:longest], document.twin.word_end[:longest]
    _, here, there = np.intersect1d(np.where(ours < 0, -1, ours), np.where(theirs < 0, -2, theirs), return_indices=True)
    return np.stack((here, there), 1)


@contextmanager
def states(model: LayerSplitLM) -> Iterator[list[Tensor]]:
    """Within it, every pass through the trunk appends the states (B, L, D) behind the layers that are compared."""
    trunk, found = [*model.trunk][: model.config.split_layer], []
    chosen = sorted({max(1, round(depth * len(trunk))) - 1 for depth in _DEPTHS})
    hooks = [trunk[i].register_forward_hook(lambda block, args, out: found.append(out)) for i in chosen]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def contrast(heard: Tensor, written: Tensor, row: Tensor, word: Tensor) -> Tensor:
    """The sum over words of the loss above: states (W, D) of both, the document (W,) and the word (W,) of each."""
    heard, written = heard.float(), written.float()
    other = row[:, None] != row
    mean = (~other).float() @ written / (~other).sum(1, keepdim=True)
    heard, written = (F.normalize(states - mean, dim=-1) for states in (heard, written))
    twice = (word[:, None] == word) & ~torch.eye(len(word), dtype=torch.bool, device=word.device)
    likeness = (heard @ written.T / TEMPERATURE).masked_fill(other | twice, -torch.inf)
    return F.cross_entropy(likeness, torch.arange(len(word), device=word.device), reduction="sum")


def word_state_loss(model: LayerSplitLM, heard: list[Tensor], twin: Tensor, words: Tensor) -> Tensor:
    """The sum of `contrast` over all words, as a mean over layers.

    Args:
        model: the model, whose pass over the documents left `heard` (`states`).
        heard: states (B, L, D) of the documents.
        twin: grid (B, M, 2) of their twins.
        words: (W, 3): document, place there, and place in the twin, of every word.
    """
    row, here, there = words.to(twin.device).unbind(1)
    with torch.no_grad(), states(model) as written:
        model(twin, tails=())
    said = twin[row, there, 0]  # a word's last token tells it from others
    losses = [
        contrast(ours[row, here], theirs[row, there], row, said) for ours, theirs in zip(heard, written, strict=True)
    ]
    return torch.stack(losses).mean()
