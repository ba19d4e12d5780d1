"""Word states: where a heard word ends, the trunk's state is drawn to that of the same word in writing.

A text model keeps what it has read of a word at the word's last token and looks it up there later. Where the states of
heard words are like those of written ones, all that lies behind them works as it does for text. So a document that is
heard has a twin in which the user writes (`twins.py`), and for the words w of one document

    loss of a word = -log softmax_w(cos(h - m, t_w - m) / 0.07)

h: the state behind a layer where the heard word ends; t_w: those of the written words; m: the mean of the t_w. Only the
words of one document are told apart, so that the loss does not depend on how a step is divided over devices. The twin
passes through the text model as it is, and teaches only. The loss is CLIP's (arXiv 2103.00020); not in the paper.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from mossrepro.lm.batches import LMBatch
from mossrepro.lm.model import LayerSplitLM
from mossrepro.utils.devices import select

TEMPERATURE = 0.07
_DEPTHS = (0.25, 0.5, 0.75, 1.0)  # of the trunk: the layers whose states are compared


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


def read_twin(model: LayerSplitLM, batch: LMBatch, whole: bool) -> tuple[list[Tensor], Tensor | None]:
    """What the model makes of a batch's twin, without a gradient: the states that are compared, (B, M, D) each.

    And, if `whole`, the text tail's output (n, D) where the twin has text targets.
    """
    with torch.no_grad(), states(model) as written:
        text = model(batch["twin"], tails=("text",) if whole else ()).text
    return written, None if text is None else select(text, batch["twin_target"] >= 0)


def word_state_loss(heard: list[Tensor], written: list[Tensor], batch: LMBatch) -> Tensor:
    """The sum of `contrast` over all words of a batch, as a mean over layers: states of both sides -> ()."""
    row, here, there = batch["words"].to(written[0].device).unbind(1)
    said = batch["twin"][row, there, 0]  # a word's last token tells it from others
    both = zip(heard, written, strict=True)
    return torch.stack([contrast(ours[row, here], theirs[row, there], row, said) for ours, theirs in both]).mean()
