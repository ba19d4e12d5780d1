"""Weights and settings of flow decoder and vocoder on disk."""

import json
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import save as to_bytes
from torch import nn

from mossrepro.utils.io import write_atomic
from mossrepro.utils.old_names import VOCODER_CONFIG, VOCODER_TENSORS
from mossrepro.utils.pretrained import load_own

Model = TypeVar("Model", bound=nn.Module)


def load_module(cls: type[Model], folder: str | Path) -> Model:
    """`cls(**config.json)`, filled from `model.safetensors`. CheckpointError where they do not fit."""
    return load_own(cls, cls, folder, VOCODER_CONFIG, VOCODER_TENSORS)


def save_module(model: nn.Module, config: dict[str, Any], folder: str | Path) -> None:
    """Write `model.safetensors` and `config.json` into a folder, each atomically."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_atomic(Path(folder) / "model.safetensors", lambda file: file.write(to_bytes(weights)))
    write_atomic(Path(folder) / "config.json", lambda file: file.write((json.dumps(config, indent=2) + "\n").encode()))
