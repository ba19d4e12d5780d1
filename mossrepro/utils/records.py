"""What others wrote as JSON: one line for whatever is wrong with it, and values of the types that a class declares."""

import functools
import json
import math
import os
import types
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from mossrepro.utils.errors import DataError, MossError
from mossrepro.utils.io import SHORT, read_text

Kind = TypeVar("Kind")
_WHOLE = (-(1 << 63), (1 << 63) - 1)
_LONGEST_NAME = 230  # bytes of a file's name, so that there is room for a suffix


def parse_json(text: str, where: str | Path, error: type[MossError] = DataError) -> Any:
    """The value that a text holds as JSON. `error` names its place `where`, if there is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as reason:
        raise error(f"{where}: not JSON ({reason})") from reason


def read_json(path: str | Path, error: type[MossError] = DataError) -> Any:
    """The value in a JSON file. `error` names the file: it is missing, not UTF-8, or holds no JSON."""
    try:
        return parse_json(read_text(path, SHORT), path, error)
    except OSError as reason:
        raise error(f"{path}: cannot be read ({reason.strerror})") from reason
    except DataError as reason:
        raise error(str(reason)) from reason


def build(kind: Callable[..., Kind], plain: Any, where: str | Path, finite: bool = True, others: bool = False) -> Kind:
    """An object of a class from a JSON object that has its arguments.

    Args:
        kind: the class; the types of its arguments are those that it declares.
        plain: the value that was read.
        where: its place, for the message: a file, or a file and a line.
        finite: refuse numbers that are NaN or infinite.
        others: leave out what `kind` has no argument for.

    Raises:
        DataError: names the place, and the first argument that is missing, unknown or of another type.
    """
    if not isinstance(plain, dict):
        raise DataError(f"{where}: not a JSON object")
    hints = _hints(kind)
    if unknown := sorted(set(plain) - set(hints)):
        if not others:
            raise DataError(f"{where}: unknown field {unknown[0]!r}")
        plain = {name: value for name, value in plain.items() if name in hints}
    for name, value in plain.items():
        if problem := misfit(value, hints[name], finite=finite):
            raise DataError(f"{where}: {name} {problem} ({short(value)})")
    try:
        return kind(**plain)
    except TypeError as error:  # an argument is missing
        raise DataError(f"{where}: {str(error).partition('() ')[2]}") from error


@functools.cache
def _hints(kind: Callable) -> dict[str, Any]:
    hints = get_type_hints(kind.__init__ if isinstance(kind, type) else kind)
    hints.pop("return", None)
    return hints


def misfit(value: Any, hint: Any, whole: tuple[int, int] = _WHOLE, finite: bool = True) -> str:
    """What keeps a JSON value from being of a declared type, in words; "" for nothing.

    hint: a class, a union, or a tuple, list or dict of such; JSON has lists for tuples.
    whole: the least and the largest whole number. finite: refuse NaN and infinity.
    """
    origin, inner = get_origin(hint) or hint, [part for part in get_args(hint) if part is not ...]
    if origin in (types.UnionType, Union):
        problems = [misfit(value, part, whole, finite) for part in inner]
        return "" if "" in problems else next(p for p, part in zip(problems, inner, strict=True) if part is not _NONE)
    if origin in (tuple, list, dict):
        if not isinstance(value, dict if origin is dict else (list, tuple)):
            return "has another type"
        parts = value.values() if origin is dict else value
        return next(filter(None, (misfit(part, inner[-1], whole, finite) for part in parts)), "") if inner else ""
    if hint is int:
        if type(value) is not int:
            return "is not a whole number"
        return "" if whole[0] <= value <= whole[1] else f"is not from {whole[0]} to {whole[1]}"
    if hint is float:
        return "" if _is_number(value, finite) else f"is not a {'finite ' if finite else ''}number"
    if hint is str:
        return "" if isinstance(value, str) and value.isascii() or _is_text(value) else "is not a text"
    return "" if hint is Any or isinstance(value, hint) else f"is not {_NAMES.get(hint, hint.__name__)}"


_NONE = type(None)
_NAMES = {bool: "true or false", _NONE: "empty"}


def _is_number(value: Any, finite: bool) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    if isinstance(value, int):  # beyond these bounds it is no number for NumPy and PyTorch
        return _WHOLE[0] <= value <= _WHOLE[1]
    return math.isfinite(value) or not finite


def _is_text(value: Any) -> bool:
    """Whether a value is a text that can be written as UTF-8: JSON can name halves of characters."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def short(value: Any) -> str:
    """A value for a message, in 40 characters."""
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."


def is_file_name(name: str) -> bool:
    """Whether a text can be the name of a file in a folder: no path, not too long."""
    return (
        PurePath(name).name == name not in ("", "..") and "\0" not in name and len(os.fsencode(name)) <= _LONGEST_NAME
    )


def is_inner(name: str) -> bool:
    """Whether a path can only lead to what lies below the folder that it starts from, links aside."""
    path = PurePath(name)
    return bool(path.parts) and "\0" not in name and not path.is_absolute() and ".." not in path.parts


def check_inside(path: Path, folder: str | Path, error: type[MossError] = DataError) -> Path:
    """The path itself. `error` if it leads out of the folder: a run may be somebody else's, a report is sent around."""
    if leads_out(path, folder):
        raise error(f"{path}: leads out of {folder}; take the link away")
    return path


def leads_out(path: str | Path, folder: str | Path) -> bool:
    """Whether a path, all links followed, leads to a place that is not below a folder."""
    real, root = os.path.realpath(path), os.path.realpath(folder)
    return os.path.commonpath([real, root]) != root
