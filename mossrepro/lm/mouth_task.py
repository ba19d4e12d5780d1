"""Training of a mouth (`mouth.py`) by itself: it learns to say the words that it is given.

In Stage 1 a mouth costs little beside the trunk and the tail whose names it reads, so that it meets few words while
they run. Here the words of the monologue are given to it as they are, nothing before it is run, and a document takes an
eighth of the time. It has then never seen what a text model knows: what it says in Stage 1 and after is what it reads.
"""

from typing import Any

import torch
from torch import Tensor

from mossrepro.lm.batches import LMBatch
from mossrepro.lm.losses import chunked_cross_entropy
from mossrepro.lm.task import VALIDATED, LayerSplitTask
from mossrepro.utils.devices import select, send
from mossrepro.utils.errors import ConfigError


class MouthTask(LayerSplitTask):
    """Next-code prediction by a mouth that is given what is said: cross-entropy, nats a code over all ranks' codes.

    A speech tail is never sure of its words. So what is given is a mean, too, of the right token and another one of the
    same document, of which the other has up to `doubt`.

    Args:
        init_from: as for `LayerSplitTask`: the stage `style`, in the recipe.
        codes: size of the codec's codebook.
        doubt: largest share of the other token, from 0 to 1.
        settings: as for `LayerSplitTask`; of its rates only head_lr and speech_lr have anything to train.
    """

    def __init__(self, init_from: str, codes: int, doubt: float = 0.5, **settings: Any) -> None:
        super().__init__(init_from, codes, **settings)
        if self.model.mouth is None:
            raise ConfigError("mouth=0: there is no mouth to train; give mouth=LAYERS")
        if not 0 <= doubt <= 1:
            raise ConfigError(f"doubt={doubt}: a share, from 0 to 1")
        self.doubt, self.weights = doubt, {"speech": 1.0}

    def losses(self, batch: LMBatch) -> dict[str, Tensor]:
        """Sum of cross-entropy over codes and their number: speech, n_speech (scalars)."""
        if "lengths" in batch:
            raise ConfigError("a mouth, which sees its reply alone, takes no packed batches: pack=false")
        tokens, codes = batch["monologue_target"], batch["speech_target"]  # in main memory
        given = (tokens, *doubts(tokens, codes, self.doubt if self.training else 0.0))
        said = self.model.recite(batch["grid"], *(send(one, self.device) for one in given))
        said = select(said, codes >= 0)
        targets = send(codes[codes >= 0], said.device)
        return {"speech": chunked_cross_entropy(self.model.speech_head, said, targets), "n_speech": (codes >= 0).sum()}

    def validation_step(self, batch: LMBatch, index: int) -> None:
        """Loss of the answers to V, given as words, nats a code: val/T2S alone, for no question is read."""
        if VALIDATED[index] == "T2S":
            out = self.losses(batch)
            loss = out["speech"] / out["n_speech"].clamp(min=1)
            self.log("val/T2S", loss, batch_size=len(batch["grid"]), add_dataloader_idx=False)


def doubts(tokens: Tensor, codes: Tensor, most: float) -> tuple[Tensor, Tensor]:
    """Other tokens of the same row, and the shares that they have: tokens (B, L) int64, below 0: none -> (B, L) each.

    Shares are up to `most`. Chance is in the sum of a row's `codes` (B, L), below 0: none, as in `Mouth.enter`.
    """
    others, shares = tokens.clone(), torch.zeros(tokens.shape, device=tokens.device)
    for row, share, seed in zip(others, shares, codes.clamp(min=0).sum(1).tolist(), strict=True):
        generator, at = torch.Generator().manual_seed(seed), row >= 0
        row[at] = row[at][torch.randperm(int(at.sum()), generator=generator)]
        share[at] = most * torch.rand(int(at.sum()), generator=generator)
    return others, shares
