"""A language model as its changes of the text model that it started from, which is how a pack holds it.

Trunk and speech tail began as SmolLM2's own layers and are still close to them: of these the difference is kept, in
very few bits (as arXiv 2402.10193, BitDelta, found to be enough), and nothing of what is equal. Parts that the text
model never had, such as the mouth and the ears, are kept whole. `checkpoint.from_pretrained` adds up the two.
"""

import torch
from torch import Tensor

from mossrepro.utils.errors import CheckpointError
from mossrepro.utils.safetensors_io import Shards

CHANGES_OF = "changes_of"  # the key of config.json that names what a folder's weights are changes of


def inherited(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What every part of a split model starts as that comes from the text model: name -> weight.

    state: of a model whose text half has not been trained (`checkpoint.load_gguf`).
    """
    own = {name: weight for name, weight in state.items() if name.startswith(("trunk.", "text_"))}
    return own | {
        name.replace("text_", "speech_", 1): weight
        for name, weight in own.items()
        if name.startswith(("text_tail.", "text_norm."))
    }


def changes(state: dict[str, Tensor], start: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The weights of a model as (differences from `start`, all that `start` does not have); equal ones are left out.

    CheckpointError: a weight has another shape than in `start`, so the model did not start from it.
    """
    for name in state.keys() & start.keys():
        if state[name].shape != start[name].shape:
            raise CheckpointError(f"{name} is {tuple(state[name].shape)}: the model did not start from this one")
    apart = {name: state[name].float() - start[name].float() for name in state if name in start}
    return {name: value for name, value in apart.items() if value.any()}, {
        name: value for name, value in state.items() if name not in start
    }


class Changed:
    """The tensors of a folder of changes, each added to what it is a change of; like `Shards`."""

    def __init__(self, source: Shards, start: dict[str, Tensor]) -> None:
        self.source, self.start, self.folder, self.names = source, start, source.folder, source.names

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor. CheckpointError where the change of a weight has another one than the weight."""
        if name not in self.start:
            return self.source.shape(name)
        shape = tuple(self.start[name].shape)
        if name in self.names and self.source.shape(name) != shape:
            raise CheckpointError(f"{self.folder}: {name} is {self.source.shape(name)}, what it changes is {shape}")
        return shape

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.start:
            return self.source[name]
        start = self.start[name].clone()  # two parts that start alike are not one
        return start + self.source[name].to(torch.float32) if name in self.names else start
