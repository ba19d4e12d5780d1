"""Errors that a user can correct: one line each, which names what is wrong and what to do.

The command line prints them without a traceback and exits with code 2.
"""

import errno
import importlib.util
import traceback
from pathlib import Path

_LONGEST_NAME = 200  # characters of a path that a message repeats


class MossError(Exception):
    """Base of every error that a user can correct."""


class AudioError(MossError):
    """A sound file that cannot be used: missing, empty, silent, not finite, or not audio."""


class AssetError(MossError):
    """An embedded asset (weights, voices, tables) that is missing or has the wrong hash."""


class ConfigError(MossError):
    """A setting that contradicts another one or the model."""


class CheckpointError(MossError):
    """Weights on disk that do not fit the model they are loaded into."""


class DiskError(MossError):
    """A file that cannot be written: the disk is full, or the folder refuses it. The old one is untouched."""


class TrainingError(MossError):
    """A fit that cannot go on: its loss or its weights are no longer finite."""


class DataError(MossError):
    """A corpus, manifest or token store that cannot be read."""


class Interrupted(MossError):
    """A fit that was asked to stop and saved its state first; the same command continues it."""


# Packages outside the default install -> how pip gets them (the extras of pyproject.toml).
EXTRAS = dict.fromkeys(("onnxruntime", "pocketsphinx"), "mossrepro[data]")
EXTRAS |= dict.fromkeys(("jiwer", "matplotlib", "pystoi", "rapidfuzz"), "mossrepro[evaluation]")
MEASURING = tuple(EXTRAS)  # packages that `reproduce` and `eval codec` need
EXTRAS |= dict.fromkeys(("jupytext", "nbclient"), "mossrepro[lessons]")
EXTRAS |= {"transformers": "transformers", "pesq": "mossrepro[pesq]"}


def require(*packages: str) -> None:
    """Refuse to begin long work that will need an optional package at its end. MossError names the first one."""
    for name in packages:
        if importlib.util.find_spec(name) is None:
            raise MossError(missing_package(ModuleNotFoundError(name=name)))


def missing_package(error: BaseException | None) -> str:
    """One line for an import that failed for want of an optional package; empty where that was not the cause."""
    while error is not None:
        name = getattr(error, "name", None) if isinstance(error, ModuleNotFoundError) else None
        extra = EXTRAS.get((name or "").split(".")[0])
        if extra:
            return f"this needs the package {name}, which is not installed: pip install '{extra}'"
        error = error.__cause__ or error.__context__
    return ""


def visible(text: str) -> str:
    """A text as one line that does nothing to a terminal: what cannot be printed is escaped, as a newline is.

    Names of files and labels of others may hold anything.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def system_refusal(error: OSError) -> str:
    """One line for a file or folder that the system refuses, or a full disk; empty where it is about neither."""
    if error.filename is not None:
        name = str(error.filename)
        return f"{name if len(name) <= _LONGEST_NAME else name[:_LONGEST_NAME] + '...'}: {error.strerror}"
    return error.strerror if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS) else ""


def fault(error: BaseException) -> str:
    """One line about a fault of ours: what and where it is, and what to do with it."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    message = " ".join(str(error).split())
    what = f"{type(error).__name__}: {message if len(message) <= 300 else message[:300] + '...'}".rstrip(": ")
    return (
        f"a fault of ours, {what}{place}; please report it as an issue of this project with the command that you gave, "
        "MOSSREPRO_DEBUG=1 shows the traceback"
    )
