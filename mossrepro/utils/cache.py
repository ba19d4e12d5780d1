"""A content-addressed cache: every expensive result is a folder named by the hash of its specification."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mossrepro.utils.errors import ConfigError, DiskError
from mossrepro.utils.io import move_in, write_text
from mossrepro.utils.locks import hold_lock


def home() -> Path:
    """The cache folder, as an absolute path: `$MOSSREPRO_HOME`, by default ~/.cache/mossrepro.

    Raises:
        ConfigError: the variable is not set, and this user has no home folder.
    """
    wish = os.environ.get("MOSSREPRO_HOME")
    try:
        return Path(wish or "~/.cache/mossrepro").expanduser().absolute()
    except (RuntimeError, OSError) as error:  # no HOME and no entry in the table of users; no working folder
        raise ConfigError(f"there is no home folder ({error}); set MOSSREPRO_HOME to a folder for the cache") from error


def digest(obj: Any) -> str:
    """16 hex characters that name plain data (dicts, lists, strings, numbers, booleans, None): its canonical JSON."""
    text = json.dumps(obj, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def cached(kind: str, spec: dict[str, Any], build: Callable[[Path], None]) -> Path:
    """Folder `home()/kind/digest(spec)`, made by `build` if it does not exist yet.

    `build` writes into `{digest}.partial`, which survives an interruption, so that a builder may resume from what it
    finds there. Then spec.json is added and the folder is renamed: it is complete or does not exist. Of two processes
    that want the same folder one waits for the other.

    Raises:
        DiskError: the cache cannot be written to, or it was removed under the builder.
    """
    name = digest(spec)
    final = home() / kind / name
    if final.is_dir():
        return final
    partial = final.with_name(f"{name}.partial")
    busy = DiskError(f"{final}: another process is making it")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        lock = hold_lock(final.with_name(f"{name}.lock"), float("inf"), busy)
    except OSError as error:
        raise DiskError(f"{final}: cannot be made here ({error.strerror}); {_MEND}") from error
    with lock:
        if not final.is_dir():
            partial.mkdir(exist_ok=True)
            build(partial)
            if not partial.is_dir():
                raise DiskError(f"{partial}: was removed while it was made; give the same command again")
            write_text(partial / "spec.json", json.dumps(spec, indent=1, sort_keys=True) + "\n")
            move_in(partial, final)
    return final


_MEND = "set MOSSREPRO_HOME to a folder that you can write to"
