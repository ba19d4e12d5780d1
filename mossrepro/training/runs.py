"""The folder of a run: runs/NAME, where NAME follows from the size and its changes, its parts, and what made it."""

import argparse
import contextlib
import os
import platform
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import mossrepro
from mossrepro.training import metrics
from mossrepro.training.config import read_size
from mossrepro.utils import cache, old_names
from mossrepro.utils.errors import CheckpointError, ConfigError, DataError
from mossrepro.utils.io import write_json
from mossrepro.utils.old_names import renamed
from mossrepro.utils.packs import find_folder
from mossrepro.utils.records import is_file_name, misfit, read_json, short

RUNS = Path("runs")
PARTS = (
    "codec",
    "recogniser",
    "script",
    "tokens",
    "stage1",
    "stage2",
    "sft",
    "flow",
    "vocoder",
    "backbone",
)  # of a finished run
RECORD = "run.json"
_LONGEST_PATH = 1_000  # bytes


def changes_of(args: argparse.Namespace) -> tuple[Sequence[str], str | Path]:
    """`--set` and `--backbone`, as `StageGraph` takes them."""
    return args.set or (), args.backbone or ""


def run_folder(args: argparse.Namespace) -> Path:
    """The folder of the run that `--size`, `--name`, `--set` and `--backbone` name.

    Raises:
        ConfigError: the name is a path: it would lead out of runs/, where a run is emptied before it is filled.
    """
    name = run_name(size_name(args.size), *changes_of(args)) if args.name is None else args.name
    if not is_file_name(name):
        raise ConfigError(f"{short(name)} is no name for a folder in {RUNS}/; give a plain one with --name")
    return RUNS / name


def read_parts(run: str | Path, needed: Sequence[str] = PARTS) -> dict[str, str]:
    """The parts of a finished run by name: their folders, or "smollm2" (its parts.json).

    A folder is of the cache, also where the cache has been moved since, or of the run itself (`mossrepro run pack`).
    The run: its folder, or what else `utils.packs.find_folder` takes.

    Raises:
        CheckpointError: there is no such file, it holds something else, or one of `needed` is not in it.
    """
    run = find_folder(run)
    path = run / "parts.json"
    if not path.is_file():
        raise CheckpointError(f"{run}: no parts.json, so no finished run; make one with `mossrepro reproduce`")
    parts = read_json(path, CheckpointError)
    if problem := misfit(parts, dict[str, str]):
        raise CheckpointError(f"{path}: {problem}, not the folders of a run by name")
    missing = [name for name in needed if name not in renamed(parts, old_names.PARTS)]
    odd = [
        name  # a run may be somebody else's: what it names is a folder, and nothing is fetched for it
        for name, folder in parts.items()
        if "\0" in folder or len(os.fsencode(folder)) > _LONGEST_PATH or folder.startswith(("hub:", "pack:"))
    ]
    if missing or odd:
        what = f"{odd[0]} is no folder" if odd else f"names no {missing[0]}"
        raise CheckpointError(f"{path}: {what}; run `mossrepro reproduce` again")
    return {name: _place(run, folder) for name, folder in parts.items()}


def _place(run: Path, folder: str) -> str:
    """Where the folder of a part is now; as it was said, where it is nowhere."""
    path = Path(folder)
    if not path.parts or path.is_absolute() and os.path.isdir(path):
        return folder
    places = [run / path]
    with contextlib.suppress(ConfigError):  # no home folder, so no cache
        places += [cache.home().joinpath(*path.parts[-2:])] if len(path.parts) > 1 else []
    return next((str(place.absolute()) for place in places if os.path.isdir(place)), folder)


def write_record(run: str | Path, size: str) -> None:
    """Write run.json: when the run was finished, and with which code, packages and machine."""
    packages = ("torch", "lightning", "numpy", "tokenizers", "safetensors", "onnxruntime")
    found = {}
    for name in packages:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    about = {"finished": round(time.time(), 3), "size": size, "version": mossrepro.__version__}
    about |= {"commit": metrics.commit(), "command": metrics.command(), "hardware": metrics.hardware()}
    about |= {"python": platform.python_version(), "system": platform.platform(), "packages": found}
    write_json(Path(run) / RECORD, about)


def read_record(run: str | Path) -> dict[str, Any]:
    """What run.json says; empty where there is none (runs of earlier versions), or nobody can read it."""
    try:
        about = read_json(Path(run) / RECORD)
    except DataError:
        return {}
    return about if isinstance(about, dict) else {}


def finished(run: str | Path) -> float:
    """When a run was finished, in seconds since 1970: as it says itself, for a copy has another time on the disk."""
    said = read_record(run).get("finished")
    return float(said) if misfit(said, float) == "" else (Path(run) / "parts.json").stat().st_mtime


def size_name(size: str | Path) -> str:
    """The name that a size's file gives itself: `small`, whatever its path. ConfigError: the file is no size."""
    return read_size(size)["size"]["name"]


def run_name(size: str, changes: Sequence[str] = (), backbone: str | Path = "") -> str:
    """The default name of a run: its size, and a hash of the changes where there are any."""
    return f"{size}-{cache.digest([sorted(changes), str(backbone)])[:6]}" if changes or backbone else size
