"""Word states: where a heard word ends, the trunk's state is drawn to that of the same word in writing.

A text model keeps what it has read of a word at the word's last token and looks it up there later. Where the states of
heard words are like those of written ones, all that lies behind them works as it does for text. So a document that is
heard has a twin in which the user writes (`twins.py`), and for the words w of a batch

    loss of a word = -log softmax_w(cos(h - m, t_w - m) / 0.07)

h: the state behind a layer where the heard word ends; t_w: those of the written words; m: the mean of the t_w. The same
again for the places from which a reply is written, among themselves: what the model has looked up about a word is read
there. Every device reads the twins of the whole batch, so that the loss does not depend on how a step is divided. Twins
pass through the text model as it is, and teach only. The loss is CLIP's (arXiv 2103.00020); not in the paper.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from mossrepro.lm.batches import LMBatch
from mossrepro.lm.model import LayerSplitLM
from mossrepro.utils.devices import select, send

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


def contrast(heard: Tensor, written: Tensor, own: Tensor, word: Tensor) -> Tensor:
    """The sum over heard words of the loss above.

    Args:
        heard: states (W, D) where words end that are heard.
        written: states (V, D) where words end in the twins.
        own: (W,) int64, which of the V is the same word.
        word: (V,) int64, equal for those that are not to be told apart.
    """
    written = written.float()
    mean = written.mean(0)
    heard, written = (F.normalize(states - mean, dim=-1) for states in (heard.float(), written))
    alike = (word[own][:, None] == word) & (own[:, None] != torch.arange(len(word), device=word.device))
    return F.cross_entropy((heard @ written.T / TEMPERATURE).masked_fill(alike, -torch.inf), own, reduction="sum")


def read_twin(model: LayerSplitLM, batch: LMBatch, whole: bool) -> tuple[list[Tensor], Tensor | None]:
    """What the model makes of a batch's twin, without a gradient: the states that are compared, (B, M, D) each.

    And, if `whole`, the text tail's output (n, D) where the twin has text targets.
    """
    gate, read = model.gate and model.gate.heard, model.read
    with torch.no_grad(), states(model) as written:
        text = model(batch["twin"], tails=("text",) if whole else ()).text
    if model.gate is not None:  # checkpointed layers are run once more in the backward pass
        model.gate.heard, model.read = gate, read
    return written, None if text is None else select(text, batch["twin_target"] >= 0)


def nearest(read: Tensor, row: Tensor, here: Tensor) -> Tensor:
    """The nearest codes that are read, at most two away: read (B, L) bool, places row, here (W,) -> (W,); -1: none."""
    found = torch.full_like(here, -1)
    for step in (0, -1, 1, -2, 2):
        at = (here + step).clamp(0, read.shape[1] - 1)
        found = torch.where((found < 0) & read[row, at], at, found)
    return found


def word_state_loss(heard: list[Tensor], written: list[Tensor], batch: LMBatch, read: Tensor | None = None) -> Tensor:
    """The sum of `contrast` over all words and replies of a batch, a mean over layers: states of both sides -> ().

    read (B, L) bool: the heard codes that the trunk reads, where it passes over others (`LayerSplitLM.read`): a word's
    state is then that of the nearest, and a word that has none close by is left out. None: it reads all.
    """
    device, sums = written[0].device, []
    row, here, own = batch["words"].unbind(1)  # in main memory: nothing waits for the device
    twin, there, token, kind = batch["written"].unbind(1)
    if read is not None:  # for which a step waits
        here = torch.where(kind[own] == 0, nearest(read.cpu(), row, here), here)
        row, own, here = row[here >= 0], own[here >= 0], here[here >= 0]
    for which in (0, 1):
        chosen, mine = kind == which, kind[own] == which
        place = (chosen.cumsum(0) - 1)[own[mine]]  # of a heard one among the written ones of its kind
        parts = (row[mine], here[mine], twin[chosen], there[chosen], place, token[chosen])
        ours, at, theirs, beside, place, alike = (send(part, device) for part in parts)
        sums += [contrast(h[ours, at], t[theirs, beside], place, alike) for h, t in zip(heard, written, strict=True)]
    return torch.stack(sums).sum() / len(heard)
