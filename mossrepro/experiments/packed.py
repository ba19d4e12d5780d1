"""Parts of a size that packs hold, in the place of stages that would make them.

`mossrepro reproduce --size small --set size.sound=pack:teach --set size.speech=pack:speech` trains and asks a language
model in the time that the language model takes: nothing is spoken, no codec and no voice is trained, and what is
measured on recordings is left out.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from mossrepro.codec.model import SpeechCodec
from mossrepro.data.token_store import TokenStore, code_table
from mossrepro.training.sizes import Size
from mossrepro.utils.errors import ConfigError
from mossrepro.utils.packs import find_folder


class HasGiven(Protocol):
    """Stages of which some are given."""

    given: dict[str, Path]


S = TypeVar("S", bound=HasGiven)
SOUND, SPEECH = ("codec", "flow", "vocoder"), ("script", "tokens", "text_to_code")


def or_given(make: Callable[[S], Path]) -> Callable[[S], Path]:
    """A stage whose folder is that of a pack where the size names one (`Stages.given`)."""

    @functools.wraps(make)
    def found(stages: S) -> Path:
        return stages.given[make.__name__] if make.__name__ in stages.given else make(stages)

    return found


def given_parts(size: Size) -> dict[str, Path]:
    """Name of a stage -> the folder that stands for it; empty where `size.sound` names no pack.

    Raises:
        ConfigError: only one of the two packs is named, one of them lacks a part, or they are of another codebook.
    """
    named = [of.startswith("pack:") for of in (size.sound, size.speech)]
    if not any(named):
        return {}
    if not named[1]:
        raise ConfigError("size.sound is a pack, and so must size.speech be: --set size.speech=pack:NAME")
    if not named[0]:
        raise ConfigError("size.speech is a pack, and so must size.sound be: --set size.sound=pack:NAME")
    parts = {name: _part(pack, name) for pack, names in ((size.sound, SOUND), (size.speech, SPEECH)) for name in names}
    codec = SpeechCodec.from_pretrained(parts["codec"])
    counts = {codec.config.codes, TokenStore(parts["tokens"]).vocabulary}
    if counts != {size.codec.codes}:
        raise ConfigError(f"the packs are of {counts} codes, size.codec.codes={size.codec.codes}")
    mine, theirs = codec.quantiser.codebook.numpy(), code_table(parts["tokens"], "codebook", codec.config.codes)
    if not np.array_equal(mine, theirs):
        raise ConfigError(f"{size.sound} and {size.speech}: other codebooks; take packs that were made of each other")
    return parts | {"recogniser": parts["codec"]}


def _part(pack: str, part: str) -> Path:
    folder = find_folder(pack, part)
    if folder.name != part:
        raise ConfigError(f"{pack}: has no {part}; take another pack")
    return folder
