"""Names for inputs of a stage by what is inside them, for the keys of the cache."""

import hashlib
from pathlib import Path

from mossrepro.data.corpus import MANIFEST
from mossrepro.utils import cache


def content_name(value: str | int | Path) -> str:
    """The part of a path that says what is inside: the cache's folder name, or a plain word such as "smollm2"."""
    path = Path(str(value))
    if path.is_absolute() and not path.is_relative_to(cache.home()):
        if path.is_file():  # a file of the user's
            return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        if any(path.glob("*.safetensors")):
            return weights_name(path)
        if (path / MANIFEST).is_file():  # a corpus of the user's, whose ids name their sounds
            return hashlib.sha256((path / MANIFEST).read_bytes()).hexdigest()[:16]
    if path.is_file() or path.parent.parent.name == "packs":  # a part of a pack: the pack's name says what is inside
        return f"{path.parent.name}/{path.name}"
    return path.name


def weights_name(folder: Path) -> str:
    """A hash that names the weights in a folder: config, file sizes, and the first and last megabyte of each file."""
    found = hashlib.sha256((folder / "config.json").read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            size = path.stat().st_size
            found.update(f"{path.name} {size}".encode() + file.read(1 << 20))
            file.seek(max(0, size - (1 << 20)))
            found.update(file.read())
    return found.hexdigest()[:16]
