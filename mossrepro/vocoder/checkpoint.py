"""Weights and settings of flow decoder and vocoder on disk."""

import json
from pathlib import Path
from typing import Any, TypeVar

from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import nn

from mossrepro.utils.errors import CheckpointError
from mossrepro.utils.io import write_atomic
from mossrepro.utils.old_names import VOCODER_CONFIG, VOCODER_TENSORS, renamed

Model = TypeVar("Model", bound=nn.Module)


def load_module(cls: type[Model], folder: str | Path) -> Model:
    """Build `cls(**config.json)` and fill it from `model.safetensors`."""
    folder = Path(folder)
    try:
        model = cls(**renamed(json.loads((folder / "config.json").read_text()), VOCODER_CONFIG))
        model.load_state_dict(renamed(load_file(folder / "model.safetensors"), VOCODER_TENSORS))
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder}: no {Path(error.filename or 'weights').name} here") from error
    except (RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder}: not a {cls.__name__} ({str(error).splitlines()[0]})") from error
    return model.eval()


def save_module(model: nn.Module, config: dict[str, Any], folder: str | Path) -> None:
    """Write `model.safetensors` and `config.json` into a folder, each atomically."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_atomic(Path(folder) / "model.safetensors", lambda file: file.write(to_bytes(weights)))
    write_atomic(Path(folder) / "config.json", lambda file: file.write((json.dumps(config, indent=2) + "\n").encode()))
