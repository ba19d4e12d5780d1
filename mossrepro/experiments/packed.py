"""Parts of a size that packs hold, in the place of stages that would make them.

`mossrepro reproduce --size small --set size.sound=pack:teach --set size.speech=pack:speech` trains and asks a language
model in the time that the language model takes: nothing is spoken, no codec and no voice is trained, and what is
measured on recordings is left out.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mossrepro.codec.model import SpeechCodec
from mossrepro.data.token_store import TokenStore
from mossrepro.training.sizes import Size
from mossrepro.utils.errors import ConfigError
from mossrepro.utils.packs import find_folder

if TYPE_CHECKING:
    from mossrepro.experiments.stages import Stages

S = TypeVar("S", bound="Stages")
SOUND, SPEECH = ("codec", "flow", "vocoder"), ("script", "tokens", "text_to_code")
UNMEASURED = ("codec", "vocoder", "words")  # of `measure.MEASURES`: what wants recordings


def or_given(make: Callable[[S], Path]) -> Callable[[S], Path]:
    """A stage whose folder is that of a pack where the size names one (`Stages.given`)."""

    @functools.wraps(make)
    def found(stages: S) -> Path:
        return stages.given[make.__name__] if make.__name__ in stages.given else make(stages)

    return found


def given_parts(size: Size) -> dict[str, Path]:
    """Name of a stage -> the folder that stands for it; empty where `size.sound` names no pack.

    Raises:
        ConfigError: no pack of codes is named, one of the two lacks a part, or they are of another codebook.
    """
    if not size.sound.startswith("pack:"):
        return {}
    if not size.speech.startswith("pack:"):
        raise ConfigError("size.sound is a pack, and so must size.speech be: --set size.speech=pack:NAME")
    parts = {name: _part(pack, name) for pack, names in ((size.sound, SOUND), (size.speech, SPEECH)) for name in names}
    counts = {SpeechCodec.from_pretrained(parts["codec"]).config.codes, TokenStore(parts["tokens"]).vocabulary}
    if counts != {size.codec.codes}:
        raise ConfigError(f"the packs are of {counts} codes, size.codec.codes={size.codec.codes}")
    return parts | {"recogniser": parts["codec"]}


def _part(pack: str, part: str) -> Path:
    folder = find_folder(pack, part)
    if folder.name != part:
        raise ConfigError(f"{pack}: has no {part}; take another pack")
    return folder
