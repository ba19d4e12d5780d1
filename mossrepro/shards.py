"""Safetensors folders as the hub has them, one file or several with an index: read lazily, written whole."""

import json
import os
from pathlib import Path

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mossrepro.errors import CheckpointError

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"


class Shards:
    """The tensors of a folder by name; nothing but the headers is read before a tensor is asked for.

    Raises CheckpointError, which names the file: there are no weights, a shard of the index is missing, or a file is
    broken.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        index = self.folder / INDEX
        try:
            if index.is_file():
                self._files = json.loads(index.read_text())["weight_map"]
            else:
                found = sorted(self.folder.glob("*.safetensors"))
                if not found:
                    raise CheckpointError(f"{self.folder}: there is no .safetensors file in it")
                self._files = {name: file.name for file in found for name in _open(file).keys()}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{index}: not an index of shards ({error})") from error
        for file in sorted(set(self._files.values())):
            if not (self.folder / file).is_file():
                raise CheckpointError(f"{self.folder / file}: this shard is missing; fetch the folder again")
        self._opened: dict[str, safe_open] = {}

    @property
    def names(self) -> set[str]:
        return set(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""
        return tuple(self._file(name).get_slice(name).get_shape())

    def __getitem__(self, name: str) -> Tensor:
        """The tensor, mapped into memory as the file has it."""
        return self._file(name).get_tensor(name)

    def _file(self, name: str) -> safe_open:
        if name not in self._files:
            raise CheckpointError(f"{self.folder}: tensor {name} is missing")
        file = self._files[name]
        if file not in self._opened:
            self._opened[file] = _open(self.folder / file)
        return self._opened[file]


def _open(file: Path) -> safe_open:
    try:
        return safe_open(file, "pt")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: not a safetensors file ({error}); fetch it again") from error


def write(state: dict[str, Tensor], folder: str | Path, shard: str = "5GB") -> None:
    """Write tensors in files of at most `shard` ("5GB", "200MB"), with an index if there are several.

    The old weights stay until every new file is complete.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    split = split_torch_state_dict_into_shards(state, max_shard_size=shard)
    for file, names in split.filename_to_tensors.items():
        save_file({name: state[name].contiguous() for name in names}, folder / f".{file}.partial", {"format": "pt"})
    for file in split.filename_to_tensors:
        os.replace(folder / f".{file}.partial", folder / file)
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        partial = folder / f".{INDEX}.partial"
        partial.write_text(json.dumps(index, indent=2) + "\n")
        os.replace(partial, folder / INDEX)
    else:
        (folder / INDEX).unlink(missing_ok=True)
    for old in folder.glob("*.safetensors"):
        if old.name not in split.filename_to_tensors:
            old.unlink()


@torch.no_grad()
def fill(model: torch.nn.Module, source: Shards, names: dict[str, str]) -> None:
    """Give a model on the meta device its weights, one tensor at a time: ours -> the folder's name.

    All shapes are compared first. Raises CheckpointError naming the first tensor that is missing or does not fit.
    """
    own = model.state_dict(keep_vars=True)
    for ours, theirs in names.items():
        shape = source.shape(theirs)
        if shape != tuple(own[ours].shape):
            raise CheckpointError(
                f"{source.folder}: {theirs} is {shape}, the model's {ours} is {tuple(own[ours].shape)}"
            )
    for ours, theirs in names.items():
        *path, last = ours.split(".")
        module = model.get_submodule(".".join(path))
        setattr(module, last, torch.nn.Parameter(source[theirs], requires_grad=own[ours].requires_grad))
