"""A language model as its changes of the text model that it started from, which is how a pack holds it.

Trunk and speech tail began as SmolLM2's own layers and are still close to them. Of a matrix that has changed the
difference is kept as the product of two narrow ones, its largest singular values (as LoRA, arXiv 2106.09685, has it
from the start); of what is equal nothing is kept; parts that the text model never had, such as the mouth and the ears,
are kept as they are. `checkpoint.from_pretrained` adds it all up.

    changes_of            in config.json: what the folder's weights are changes of
    NAME                  a vector's difference, or a weight that the text model does not have
    NAME.left NAME.right  a matrix's difference is left @ right: (rows, rank), (rank, columns)
"""

import torch
from torch import Tensor

from mossrepro.utils.errors import CheckpointError
from mossrepro.utils.safetensors_io import Shards

_LEAST = 0.4  # of the squared differences; a hundred steps of SmolLM2's feed-forward layers keep 0.63 at rank 64
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
        CheckpointError: a weight has another shape than in `start`, or so few singular values hold so little of the
            differences that the model cannot have started from it.
    """
    out = {name: value for name, value in state.items() if name not in start}
    whole = kept = torch.zeros(())
    for name in sorted(state.keys() & start.keys()):
        if state[name].shape != start[name].shape:
            raise CheckpointError(f"{name} is {tuple(state[name].shape)}: the model did not start from this one")
        apart = state[name].float() - start[name].float()
        if apart.dim() == 2 and apart.any():
            left, values, right = torch.linalg.svd(apart, full_matrices=False)
            root = values[:rank].sqrt()
            out |= {f"{name}.left": left[:, :rank] * root, f"{name}.right": root[:, None] * right[:rank]}
            whole, kept = whole + values.square().sum(), kept + values[:rank].square().sum()
        elif apart.any():
            out[name] = apart
    if kept < _LEAST * whole:
        raise CheckpointError(f"rank {rank} keeps {kept / whole:.0%} of its changes: it did not start from this model")
    return out


class Changed:
    """The tensors of a folder of changes, each added to what it is a change of; like `Shards`.

    Raises:
        CheckpointError: a factor stands alone or beside the whole, or the factors of a change do not fit each other.
    """

    def __init__(self, source: Shards, start: dict[str, Tensor]) -> None:
        self.source, self.start, self.folder = source, start, source.folder
        self.names = set()
        for name in sorted(source.names):
            stem, _, side = name.rpartition(".")
            factors = [f"{stem}.left", f"{stem}.right"]
            if side not in ("left", "right") or stem not in start:
                self.names.add(name)
            elif stem in source.names or not source.names.issuperset(factors):
                raise CheckpointError(f"{self.folder}: {name} wants {stem}.left and .right and nothing else of {stem}")
            else:
                self.names.add(stem)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading one. CheckpointError where a change does not fit what it changes."""
        if name not in self.start:
            return self.source.shape(name)
        shape, found = tuple(self.start[name].shape), None
        if f"{name}.left" in self.source.names:
            left, right = self.source.shape(f"{name}.left"), self.source.shape(f"{name}.right")
            found = (left[:1] + right[1:]) if len(left) == len(right) == 2 and left[1] == right[0] else (left, right)
        elif name in self.names:
            found = self.source.shape(name)
        if found not in (None, shape):
            raise CheckpointError(f"{self.folder}: the change of {name} is {found}, what it changes is {shape}")
        return shape

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.start:
            return self.source[name]
        start = self.start[name].clone()  # two parts that start alike are not one
        if f"{name}.left" in self.source.names:
            return start.addmm_(self.source[f"{name}.left"].float(), self.source[f"{name}.right"].float())
        return start.add_(self.source[name].float()) if name in self.names else start
