"""The language model of a size on the codes of a pack: nothing is spoken, and no codec and no voice is trained.

`mossrepro reproduce --size small --set size.sound=pack:teach --set size.speech=pack:speech` trains and asks a language
model in the time that the language model takes; what is measured on recordings is left out.
"""

from collections.abc import Sequence
from pathlib import Path

from mossrepro.codec.model import SpeechCodec
from mossrepro.data.facts import Fact, read_facts
from mossrepro.data.token_store import TokenStore
from mossrepro.experiments.graph import StageGraph
from mossrepro.training.config import changed_size
from mossrepro.utils.errors import ConfigError, DataError
from mossrepro.utils.packs import find_folder


def open_graph(size: str | Path, changes: Sequence[str] = (), backbone: str | Path = "") -> StageGraph:
    """The graph of a size, or, where `size.sound` names a pack, that of its language model alone."""
    packed = changed_size(size, changes, backbone)["size"].get("sound", "").startswith("pack:")
    return (PackedGraph if packed else StageGraph)(size, changes, backbone)


class PackedGraph(StageGraph):
    """The stages of a language model on given codes.

    Raises:
        ConfigError: no pack of codes is named, one of the two lacks a part, or they are of another codebook.
    """

    unmeasured = ("codec", "vocoder", "words")

    def __init__(self, size: str | Path, changes: Sequence[str] = (), backbone: str | Path = "") -> None:
        super().__init__(size, changes, backbone)
        if not self.size.speech.startswith("pack:"):
            raise ConfigError("size.sound is a pack, and so must size.speech be: --set size.speech=pack:NAME")
        counts = {SpeechCodec.from_pretrained(self.codec()).config.codes, TokenStore(self.tokens()).vocabulary}
        if counts != {self.size.codec.codes}:
            raise ConfigError(f"the packs are of {counts} codes, size.codec.codes={self.size.codec.codes}")

    def _part(self, pack: str, part: str) -> Path:
        folder = find_folder(pack, part)
        if folder.name != part:
            raise ConfigError(f"{pack}: has no {part}; take another pack")
        return folder

    def codec(self) -> Path:
        return self._part(self.size.sound, "codec")

    recogniser = codec

    def flow(self) -> Path:
        return self._part(self.size.sound, "flow")

    def vocoder(self) -> Path:
        return self._part(self.size.sound, "vocoder")

    def script(self) -> Path:
        return self._part(self.size.speech, "script")

    def tokens(self) -> Path:
        return self._part(self.size.speech, "tokens")

    def text_to_code(self) -> Path:
        return self._part(self.size.speech, "text_to_code")

    def known(self) -> list[Fact]:
        return read_facts(self.script())

    def codec_corpus(self) -> Path:
        raise DataError(f"{self.size.sound}: a pack holds no recordings; leave size.sound as it is")
