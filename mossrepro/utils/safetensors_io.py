"""Safetensors folders in the hub's layout, one file or several with an index: read lazily, written atomically."""

import contextlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mossrepro.utils.errors import CheckpointError, ConfigError, DataError
from mossrepro.utils.io import SHORT, fill, flush, read_text, replacing

INDEX = "model.safetensors.index.json"
_FLOATS = ("F64", "F32", "F16", "BF16")  # types of the header that weights can be read from
# Settings of config.json, and ends of tensors' names, that only quantised models have (compressed-tensors, fp8, AWQ,
# GPTQ, bitsandbytes, MLX).
_QUANTISED_SETTINGS = ("quantization_config", "compression_config", "quantization")
_QUANTISED_NAMES = re.compile(
    r"(_scale|scale_inv|_zero_point|_packed|[._]scales|qweight|qzeros|g_idx|absmax|quant_map|\.SCB)$|\.quant_state\."
)


def read_config(folder: str | Path) -> dict[str, Any]:
    """A folder's config.json. CheckpointError when there is none or it is broken."""
    path = Path(folder) / "config.json"
    try:
        plain = json.loads(read_text(path, SHORT))
    except (OSError, ValueError, RecursionError, DataError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error
    if not isinstance(plain, dict):
        raise CheckpointError(f"{path}: not a table of settings")
    return plain


def architecture(plain: dict[str, Any]) -> str:
    """The model class that a hub's config.json names first; "" where it names none."""
    named = plain.get("architectures")
    return named[0] if isinstance(named, list) and named and isinstance(named[0], str) else ""


def refuse_quantised(folder: Path, plain: dict[str, Any], dtypes: dict[str, str] | None = None) -> None:
    """CheckpointError for a folder of quantised weights: read as they are, they would be wrong by their scales.

    plain: its config.json. dtypes: name of a tensor -> the type that the file's header gives it.
    """
    kind = next((plain[key] for key in _QUANTISED_SETTINGS if plain.get(key)), None)
    if isinstance(kind, dict):
        kind = kind.get("quant_method") or kind.get("quant_algo") or f"{kind.get('bits', 'unknown')} bits"
    for name, dtype in (dtypes or {}).items():
        if kind is not None:
            break
        if _QUANTISED_NAMES.search(name):
            kind = f"it holds {name}"
        elif dtype not in _FLOATS and (name.endswith(("weight", "bias")) or dtype.startswith(("F", "C"))):
            kind = f"{name} is {dtype}"
    if kind is not None:
        raise CheckpointError(
            f"{folder}: quantised weights ({kind}) cannot be read; take the folder with the model's bf16 weights"
        )


def refuse_unknown(folder: Path, extra: Iterable[str], harmless: str = "") -> None:
    """CheckpointError that counts `extra`, names of tensors that no model here has, and names the first three.

    harmless: a regular expression of whole names that change nothing and so may be there.
    """
    extra = sorted(name for name in extra if not re.fullmatch(harmless, name))
    if extra:
        count = "1 tensor is" if len(extra) == 1 else f"{len(extra)} tensors are"
        more = ", ..." if len(extra) > 3 else ""
        raise CheckpointError(
            f"{folder}: {count} not part of this model ({', '.join(extra[:3])}{more}); "
            "take weights of the architecture that config.json names"
        )


def count_layers(folder: Path, names: Iterable[str], prefix: str) -> int:
    """How many layers `prefix`0., `prefix`1., ... the names of a folder's tensors show. CheckpointError for gaps."""
    found = {name[len(prefix) :].partition(".")[0] for name in names if name.startswith(prefix)}
    missing = next((i for i in range(len(found)) if str(i) not in found), None)
    if missing is not None:
        raise CheckpointError(f"{folder}: {prefix}{missing} is missing; fetch the folder again")
    return len(found)


class Shards:
    """The tensors of a folder by name; nothing but the headers is read before a tensor is asked for.

    Raises CheckpointError, which names the file: there are no weights, a shard of the index is missing, a file is
    broken or does not hold what the index says, or the weights are quantised.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        index = self.folder / INDEX
        places = _read_index(index) if index.is_file() else {}
        paths = sorted({self.folder / file for file in places.values()} or self.folder.glob("*.safetensors"))
        if not paths:
            raise CheckpointError(f"{self.folder}: there is no .safetensors file in it")
        for path in paths:
            if not path.is_file():
                raise CheckpointError(f"{path}: this shard is missing; fetch the folder again")
        self._files: dict[str, safe_open] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        dtypes: dict[str, str] = {}
        for path in paths:
            file = _open(path)
            for name in file.keys():
                if places.get(name, path.name) == path.name:
                    header = file.get_slice(name)
                    self._files[name], self._shapes[name] = file, tuple(header.get_shape())
                    dtypes[name] = str(header.get_dtype())
        for name in places.keys() - self._files.keys():
            raise CheckpointError(f"{self.folder / places[name]}: has no tensor {name}, though {INDEX} says so")
        has_config = (self.folder / "config.json").is_file()
        refuse_quantised(self.folder, read_config(self.folder) if has_config else {}, dtypes)

    @property
    def names(self) -> set[str]:
        return set(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, without reading it."""
        self._find(name)
        return self._shapes[name]

    def __getitem__(self, name: str) -> Tensor:
        """The tensor, mapped into memory as the file has it."""
        return self._find(name).get_tensor(name)

    def _find(self, name: str) -> safe_open:
        if name not in self._files:
            raise CheckpointError(f"{self.folder}: tensor {name} is missing")
        return self._files[name]


def _read_index(path: Path) -> dict[str, str]:
    """Name of a tensor -> the file that holds it."""
    try:
        places = json.loads(read_text(path, SHORT))["weight_map"]
        if not places or not all(isinstance(file, str) and Path(file).name == file for file in places.values()):
            raise ValueError("weight_map must name a file of this folder for every tensor")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, DataError) as error:
        raise CheckpointError(f"{path}: not an index of shards ({error}); fetch it again") from error
    return places


def _open(file: Path) -> safe_open:
    try:
        return safe_open(file, "pt")
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{file}: not a safetensors file ({error}); fetch it again") from error


def save_whole(folder: str | Path, state: dict[str, Tensor], config: dict[str, Any], tokenizer: str = "") -> None:
    """Write model.safetensors, config.json and, where it is given, tokenizer.json: all of them or none."""
    texts = {"config.json": json.dumps(config, indent=1) + "\n", "tokenizer.json": tokenizer}
    _save(Path(folder), {"model.safetensors": state}, texts)


def _save(folder: Path, states: dict[str, dict[str, Tensor]], texts: dict[str, str]) -> None:
    """Write files of weights and of text (none for an empty one): none gets its name before all are on the disk."""
    with contextlib.ExitStack() as files:  # renames them in reverse: weights come last
        for name, state in states.items():
            path = files.enter_context(replacing(folder / name))
            save_file({key: tensor.contiguous() for key, tensor in state.items()}, path, {"format": "pt"})
            flush(path)
        for name, text in texts.items():
            if text:
                path = files.enter_context(replacing(folder / name))
                fill(path, lambda file, text=text: file.write(text.encode()))
                flush(path)


def write(
    state: dict[str, Tensor],
    folder: str | Path,
    shard: str = "5GB",
    config: dict[str, Any] | None = None,
    tokenizer: str = "",
) -> None:
    """Write tensors in files of at most `shard` ("5GB", "200MB"), with an index if there are several.

    config, tokenizer: contents of config.json and tokenizer.json; no such file where they are empty.

    The old files stay until every new one is complete. ConfigError for a malformed size.
    """
    folder = Path(folder)
    try:
        split = split_torch_state_dict_into_shards(state, max_shard_size=shard)
    except ValueError as error:
        raise ConfigError(f"shard {shard!r} is no size; for instance 5GB or 200MB") from error
    texts = {"config.json": json.dumps(config, indent=2) + "\n" if config else "", "tokenizer.json": tokenizer}
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        texts[INDEX] = json.dumps(index, indent=2) + "\n"
    states = {file: {name: state[name] for name in names} for file, names in split.filename_to_tensors.items()}
    _save(folder, states, texts)
    if not split.is_sharded:
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
