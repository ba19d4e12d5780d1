"""A mouth: layers behind the speech tail that say what its output names, and see nothing else.

    speech tail -> text norm, text head -> the likeliest next tokens -> mean of their embeddings -+
                                                                                                  +-> layers -> codes
    codes said so far -> an embedding of the mouth's own ------------------------------------------+

The inner monologue (`task.py`) keeps the output of the speech tail readable to the frozen text head. What is read there
is a distribution: no token is sampled, written into the sequence or fed back to the trunk. The point is what the layers
can *not* see. A tail that learns to say words by repeating them finds the word in the prompt, and has learnt nothing
about saying one that the trunk came upon by itself; what the monologue names looks the same either way (docs/LOG.md).

A deviation from the paper, whose speech head reads the speech tail itself.
"""

import torch
from torch import Tensor, nn

from mossrepro.utils.layers import RMSNorm, TransformerBlock

NAMED = 8  # tokens that are read, the likeliest: their shares add up to almost 1


class Mouth(nn.Module):
    """The layers of a mouth and what goes into them; `LayerSplitLM.say` runs it.

    Args:
        dim: width D of the language model.
        vocab: rows of the speech embedding.
        blocks: the layers.
        eps: of the norm of what is named.
    """

    def __init__(self, dim: int, vocab: int, blocks: list[TransformerBlock], eps: float) -> None:
        super().__init__()
        self.norm, self.named = RMSNorm(dim, eps), nn.Linear(dim, dim, bias=False)
        self.codes = nn.Embedding(vocab, dim)
        self.layers = nn.ModuleList(blocks)
        self.reads_all = False  # also where there is no speech: for tracing, where no shape may depend on values

    def enter(self, named: Tensor, codes: Tensor, spoken: Tensor) -> Tensor:
        """The input of the layers, (B, L, D).

        named (B, L, D): mean embeddings of what is named; codes, spoken (B, L): the speech ids, and where there is one.

        In training every second document has to say its words by what is named before their first code. For the trunk
        reads its own voice badly: what the tail names later it finds in the prompt, or nowhere. Chance is in the sum of
        a document's codes, so that it is the same for it on every device and after every stop.
        """
        if self.training:
            forgotten = torch.where(spoken, codes, 0).sum(1) % 2 == 0  # (B,)
            named = named.masked_fill((forgotten[:, None] & spoken)[..., None], 0.0)
        said = self.codes(torch.where(spoken, codes, 0))
        return self.named(self.norm(named)) + spoken[..., None].to(said.dtype) * said


def mean_named(logits: Tensor, embedding: nn.Embedding) -> Tensor:
    """Mean embedding (..., D) of the NAMED likeliest tokens by their probabilities: logits (..., V), no gradient."""
    logits = logits.float()
    top = logits.topk(min(NAMED, logits.shape[-1]), -1)
    weights = (top.values - logits.logsumexp(-1, keepdim=True)).exp()
    vectors = embedding(top.indices)
    return (weights[..., None].to(vectors.dtype) * vectors).sum(-2)


def reply_starts(text: Tensor, sosp: int, first: int = 0, before: Tensor | None = None) -> Tensor:
    """Where the speech began that each position is of: text ids (B, L) -> (B, L) int64, -1 before the first SOSP.

    Of sequences that come in pieces, `first` is the place of the first position here, and `before` (B,) what was found
    for the one before it.
    """
    places = torch.arange(first, first + text.shape[1], device=text.device)
    found = torch.where(text == sosp, places, -1).cummax(1).values
    return found if before is None else torch.maximum(found, before[:, None])


def reply_mask(starts: Tensor) -> Tensor:
    """Which positions a mouth sees: those of its own reply, from SOSP on: starts (B, L) -> (B, 1, L, L) bool."""
    places = torch.arange(starts.shape[1], device=starts.device)
    return ((places <= places[:, None]) & (places >= starts[..., None]))[:, None]
