"""Weights and settings of flow decoder and vocoder on disk."""

from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from mossrepro.utils.old_names import VOCODER_CONFIG, VOCODER_TENSORS
from mossrepro.utils.pretrained import load_own
from mossrepro.utils.safetensors_io import save_whole

Model = TypeVar("Model", bound=nn.Module)


def load_module(cls: type[Model], folder: str | Path, part: str) -> Model:
    """`cls(**config.json)`, filled from `model.safetensors`. CheckpointError where they do not fit.

    folder, part: as `utils.packs.find_folder` takes them.
    """
    return load_own(cls, cls, folder, VOCODER_CONFIG, VOCODER_TENSORS, part)


def save_module(model: nn.Module, config: dict[str, Any], folder: str | Path) -> None:
    """Write `model.safetensors` and `config.json` into a folder, both or none."""
    save_whole(folder, {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}, config)
