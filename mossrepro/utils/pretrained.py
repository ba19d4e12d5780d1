"""Folders in our own layout, model.safetensors beside config.json: checked against each other before a model is built.

The numbers of config.json are bounded first, then a model without memory (on the meta device) is compared with the
header of the weights, so that no file can ask for more than it holds.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import torch
from torch import nn

from mossrepro.utils.errors import CheckpointError, ConfigError
from mossrepro.utils.old_names import renamed
from mossrepro.utils.packs import find_folder
from mossrepro.utils.records import misfit, short
from mossrepro.utils.safetensors_io import Shards, read_config, refuse_unknown

Model = TypeVar("Model", bound=nn.Module)
MOST = 1 << 20  # of any size: a width, a vocabulary, a window
_OTHER_MOST = {"max_positions": 1 << 30, "steps": 1000}
_LAYERS = re.compile(r"(.*_)?(layers|blocks|codebooks)")  # settings that count parts with tensors of their own
UNBUILDABLE = (ConfigError, TypeError, ValueError, RuntimeError, ArithmeticError)  # raised where sizes do not fit


def check_settings(kind: Callable, plain: dict[str, Any], where: Path, tensors: int) -> dict[str, Any]:
    """The settings of a config.json as arguments of the class `kind`, by the types of these.

    Whole numbers are from 0 to MOST, numbers of layers at most the number of `tensors` in the folder, and all are
    finite. CheckpointError names the file `where` and the first setting that is unknown or does not fit.
    """
    hints = get_type_hints(kind.__init__)
    hints.pop("return", None)
    if unknown := sorted(set(plain) - set(hints)):
        raise CheckpointError(f"{where}: unknown key {unknown[0]!r}; it was written by another version")
    for name, value in plain.items():
        most = tensors if _LAYERS.fullmatch(name) else _OTHER_MOST.get(name, MOST)
        if problem := misfit(value, hints[name], (0, most)):
            raise CheckpointError(f"{where}: {name}={short(value)} {problem}; take the config.json of these weights")
    return {name: _exact(value, hints[name]) for name, value in plain.items()}


def _exact(value: Any, hint: Any) -> Any:
    """A list as a tuple, and a whole number as the float that a setting is declared to be: tensors are made of it."""
    kinds = get_args(hint) or (hint,)
    if type(value) is int and float in kinds and int not in kinds:
        return float(value)
    return tuple(value) if isinstance(value, list) else value


def load_own(
    kind: Callable,
    make: Callable[..., Model],
    folder: str | Path,
    old_settings: dict[str, str],
    old_tensors: dict[str, str],
    part: str = "",
) -> Model:
    """A model in our own layout, in evaluation mode: `make(**settings)`, filled from model.safetensors.

    Args:
        kind: the class whose arguments the settings are.
        make: gives a model with random weights.
        folder: as `find_folder` takes it.
        old_settings, old_tensors: names of earlier versions -> today's.
        part: "codec", "flow", ...: which one of a pack.

    Raises:
        CheckpointError: something is missing, broken or does not fit; it names the folder.
    """
    folder = find_folder(folder, part)
    where = folder / "config.json"
    settings, source = renamed(read_config(folder), old_settings), Shards(folder)
    settings = check_settings(kind, settings, where, len(source.names))
    names = renamed({name: name for name in source.names}, old_tensors)  # ours -> the file's
    try:
        with torch.device("meta"):
            shapes = {name: tuple(value.shape) for name, value in make(**settings).state_dict().items()}
    except UNBUILDABLE as error:
        raise CheckpointError(f"{where}: no model has these settings ({str(error).splitlines()[0]})") from error
    refuse_unknown(folder, set(names) - set(shapes))
    for name, shape in shapes.items():
        found = source.shape(names.get(name, name))
        if found != shape:
            raise CheckpointError(f"{folder}: {name} is {found}, the model's is {shape}")
    model = make(**settings)
    model.load_state_dict({name: source[theirs] for name, theirs in names.items()})
    return model.eval()
