"""A content-addressed cache: every expensive result is a folder named by the hash of its specification."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


def home() -> Path:
    """The cache folder: `$MOSSREPRO_HOME`, by default ~/.cache/mossrepro."""
    return Path(os.environ.get("MOSSREPRO_HOME") or Path.home() / ".cache" / "mossrepro").expanduser()


def digest(obj: Any) -> str:
    """16 hex characters that name plain data (dicts, lists, strings, numbers, booleans, None): its canonical JSON."""
    text = json.dumps(obj, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def cached(kind: str, spec: dict[str, Any], build: Callable[[Path], None]) -> Path:
    """Folder `home()/kind/digest(spec)`, made by `build` if it does not exist yet.

    `build` writes into `{digest}.partial`, which survives an interruption, so that a builder may resume from what it
    finds there. Then spec.json is added and the folder is renamed: it is complete or does not exist. Of two processes
    that want the same folder one waits for the other.
    """
    name = digest(spec)
    final = home() / kind / name
    if final.is_dir():
        return final
    final.parent.mkdir(parents=True, exist_ok=True)
    with _turn(final.with_name(f"{name}.lock")):
        if not final.is_dir():
            partial = final.with_name(f"{name}.partial")
            partial.mkdir(exist_ok=True)
            build(partial)
            (partial / "spec.json").write_text(json.dumps(spec, indent=1, sort_keys=True) + "\n")
            os.replace(partial, final)
    return final


@contextlib.contextmanager
def _turn(path: Path) -> Iterator[None]:
    """Hold an advisory file lock; the kernel drops it when the process dies."""
    try:
        import fcntl
    except ImportError:  # Windows: no advisory locks; builders stay atomic, only not exclusive
        yield
        return
    with path.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
