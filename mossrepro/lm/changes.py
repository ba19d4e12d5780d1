"""A language model as its changes of the text model that it started from, which is how a pack holds it.

Trunk and speech tail began as SmolLM2's own layers and are still close to them. Of a matrix that has changed the
difference is kept as the product of two narrow ones, its largest singular values (as LoRA, arXiv 2106.09685, has it
from the start); of what is equal nothing is kept; parts that the text model never had, such as the mouth and the ears,
are kept whole. `checkpoint.from_pretrained` adds it all up.

    changes_of            in config.json: what the folder's weights are changes of
    NAME                  a vector's difference, or a weight that the text model does not have
    NAME.left NAME.right  a matrix's difference is left @ right: (rows, rank), (rank, columns)
"""

import re

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


def changes(state: dict[str, Tensor], start: dict[str, Tensor], rank: int) -> dict[str, Tensor]:
    """The weights of a model as a folder of changes holds them.

    Args:
        state: of the model.
        start: what its parts started as (`inherited`).
        rank: of the differences of matrices; of narrower ones all is kept.

    Raises:
        CheckpointError: a weight has another shape than in `start`, so the model did not start from it.
    """
    out = {name: value for name, value in state.items() if name not in start}
    for name in sorted(state.keys() & start.keys()):
        if state[name].shape != start[name].shape:
            raise CheckpointError(f"{name} is {tuple(state[name].shape)}: the model did not start from this one")
        apart = state[name].float() - start[name].float()
        if apart.dim() == 2 and apart.any():
            left, values, right = torch.linalg.svd(apart, full_matrices=False)
            root = values[:rank].sqrt()
            out |= {f"{name}.left": left[:, :rank] * root, f"{name}.right": root[:, None] * right[:rank]}
        elif apart.any():
            out[name] = apart
    return out


class Changed:
    """The tensors of a folder of changes, each added to what it is a change of; like `Shards`."""

    def __init__(self, source: Shards, start: dict[str, Tensor]) -> None:
        self.source, self.start, self.folder = source, start, source.folder
        self.names = {re.sub(r"\.(left|right)$", "", name) for name in source.names}

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor. CheckpointError where the change of a weight has another one than the weight."""
        if name not in self.start:
            return self.source.shape(name)
        shape, change = tuple(self.start[name].shape), self._change(name)
        if change is not None and tuple(change.shape) != shape:
            raise CheckpointError(f"{self.folder}: {name} is {tuple(change.shape)}, what it changes is {shape}")
        return shape

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.start:
            return self.source[name]
        start, change = self.start[name].clone(), self._change(name)  # two parts that start alike are not one
        return start if change is None else start.add_(change)

    def _change(self, name: str) -> Tensor | None:
        if f"{name}.left" not in self.source.names:
            return self.source[name] if name in self.source.names else None
        left, right = self.source[f"{name}.left"], self.source[f"{name}.right"]
        if left.dim() != 2 or right.dim() != 2 or left.shape[1] != len(right):
            raise CheckpointError(f"{self.folder}: {name}.left and {name}.right are no two factors")
        return left @ right
