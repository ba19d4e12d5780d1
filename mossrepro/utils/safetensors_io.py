"""Safetensors folders in the hub's layout, one file or several with an index: read lazily, written atomically."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mossrepro.utils.errors import CheckpointError, ConfigError

INDEX = "model.safetensors.index.json"


def read_config(folder: str | Path) -> dict[str, Any]:
    """A folder's config.json. CheckpointError when there is none or it is broken."""
    path = Path(folder) / "config.json"
    try:
        plain = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error
    if not isinstance(plain, dict):
        raise CheckpointError(f"{path}: not a table of settings")
    return plain


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
        return self._read(name, lambda file: tuple(file.get_slice(name).get_shape()))

    def __getitem__(self, name: str) -> Tensor:
        """The tensor, mapped into memory as the file has it."""
        return self._read(name, lambda file: file.get_tensor(name))

    def _read(self, name: str, get: Callable[[safe_open], Any]) -> Any:
        file = self._file(name)
        try:
            return get(file)
        except SafetensorError as error:  # the index names a shard that does not hold it
            raise CheckpointError(f"{self.folder / self._files[name]}: has no tensor {name} ({error})") from error

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


def save_whole(folder: str | Path, state: dict[str, Tensor], config: dict[str, Any]) -> None:
    """Write model.safetensors and config.json, each atomically and flushed to the disk."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _put(folder / "model.safetensors", lambda path: _save(state, path))
    _put(folder / "config.json", lambda path: path.write_text(json.dumps(config, indent=1) + "\n"))


def _save(state: dict[str, Tensor], path: Path) -> None:
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path, {"format": "pt"})


def _put(path: Path, write: Callable[[Path], Any]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    write(partial)
    with partial.open("rb") as file:
        os.fsync(file.fileno())  # a power cut must not leave a done.json beside weights that are not there
    os.replace(partial, path)


def write(state: dict[str, Tensor], folder: str | Path, shard: str = "5GB") -> None:
    """Write tensors in files of at most `shard` ("5GB", "200MB"), with an index if there are several.

    The old weights stay until every new file is complete. ConfigError for a malformed size.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        split = split_torch_state_dict_into_shards(state, max_shard_size=shard)
    except ValueError as error:
        raise ConfigError(f"shard {shard!r} is no size; for instance 5GB or 200MB") from error
    for file, names in split.filename_to_tensors.items():
        _save({name: state[name] for name in names}, folder / f".{file}.partial")
    for file in split.filename_to_tensors:
        os.replace(folder / f".{file}.partial", folder / file)
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        _put(folder / INDEX, lambda path: path.write_text(json.dumps(index, indent=2) + "\n"))
    else:
        (folder / INDEX).unlink(missing_ok=True)
    for old in folder.glob("*.safetensors"):
        if old.name not in split.filename_to_tensors:
            old.unlink()


@torch.no_grad()
def fill_from(model: torch.nn.Module, source: Shards, names: dict[str, str]) -> None:
    """Load weights into a model on the meta device, one tensor at a time; `names` maps ours to the folder's.

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
