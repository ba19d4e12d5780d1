"""The folder of a run: runs/NAME, where NAME follows from the size and its changes."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mossrepro.training.config import find_size, read_config
from mossrepro.utils import cache

RUNS = Path("runs")


def changes_of(args: argparse.Namespace) -> tuple[Sequence[str], str | Path]:
    """`--set` and `--backbone`, as `StageGraph` takes them."""
    return args.set or (), args.backbone or ""


def run_folder(args: argparse.Namespace) -> Path:
    """The folder of the run that `--size`, `--name`, `--set` and `--backbone` name."""
    return RUNS / (args.name or run_name(size_name(args.size), *changes_of(args)))


def size_name(size: str | Path) -> str:
    """The name that a size's file gives itself: `small`, whatever its path."""
    return read_config(find_size(size))["size"]["name"]


def run_name(size: str, changes: Sequence[str] = (), backbone: str | Path = "") -> str:
    """The default name of a run: its size, and a hash of the changes where there are any."""
    return f"{size}-{cache.digest([sorted(changes), str(backbone)])[:6]}" if changes or backbone else size
