"""An open vocabulary and sentences over it: random words, and words that follow each other as people say them.

What is trained on random words cannot guess them from context, but a list of words is not how people talk: in sentences
a word takes half of the time and function words all but vanish.
"""

from __future__ import annotations

import functools
import gzip
import importlib.util
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mossrepro.utils import assets, cache
from mossrepro.utils.errors import AssetError
from mossrepro.utils.gguf import GGUFFile
from mossrepro.utils.io import read_lines, write_json
from mossrepro.utils.records import read_json

_SIZE = 5_100  # enough for 5,000 pronunciations; with more words, a recogniser sees each less often
_COMMON = 400  # a third of the words come from the most frequent ones: function words give a sentence its rhythm
_COMMON_SHARE = 1 / 3
# Tokens of one or two letters are mostly fragments of words; these are words.
_SHORT = "a i to of in is be it he we on as an or at by do me if so up go no my us am oh".split()
_ASKING = frozenset("who what when where why how do does did is are was can could would will should have has".split())
# Profanity, slurs and words often used as slurs, and words that lost their apostrophe.
_UNWANTED = frozenset(
    "anus ass bra butt cum fart gay jew pee pimp poop porn pus rape sex sexual slut suck tit cant wont".split()
)


@functools.cache
def vocabulary(homophones: bool = True) -> list[str]:
    """5,100 lower-case English words, the most frequent first (by the unigrams of pocketsphinx's language model).

    They are words that SmolLM2 writes as a single token, and that both a recogniser's dictionary (pocketsphinx) and a
    synthesiser's lexicon (hibari) know. homophones=False keeps only the most frequent spelling of a pronunciation
    (to, not too and two): out of context they cannot be told apart.
    """
    spec = {"asset": assets.ASSETS["smollm2"].sha256, "size": _SIZE, "short": _SHORT, "unwanted": sorted(_UNWANTED)}
    folder = cache.cached("vocabulary", spec, _build)
    words = read_json(folder / "words.json")
    return words["all" if homophones else "distinct"]


def _build(folder: Path) -> None:
    sounds = _lexicon()
    dictionary = _dictionary()
    words = []
    for token in _tokens():
        word = token[1:]
        if token[:1] != "Ġ" or not (word.isascii() and word.isalpha() and word.islower()):
            continue
        if word in dictionary and word in sounds and word not in _UNWANTED and (len(word) > 2 or word in _SHORT):
            words.append(word)
    frequency = _frequency()
    words = sorted(words, key=lambda word: -frequency(word))[:_SIZE]
    heard: set[str] = set()
    distinct = []
    for word in words:
        if not heard.intersection(sounds[word]):
            distinct.append(word)
            heard.update(sounds[word])
    write_json(folder / "words.json", {"all": words, "distinct": distinct}, indent=None)


def _tokens() -> list[str]:
    return GGUFFile(assets.get("smollm2")).metadata["tokenizer.ggml.tokens"]


def _frequency() -> Callable[[str], int]:
    """Word -> logarithm of its unigram probability in pocketsphinx's language model."""
    table, _ = _language_model()
    return lambda word: table.prob([word])


@functools.cache
def _language_model() -> tuple[Any, Any]:
    """The trigrams of English of pocketsphinx, and the base of its logarithms."""
    import pocketsphinx

    model = _package_file("pocketsphinx", "model/en-us/en-us.lm.bin", "pocketsphinx==5.1.1")
    base = pocketsphinx.LogMath()
    return pocketsphinx.NGramModel(pocketsphinx.Config(), base, str(model)), base


def _package_file(module: str, inner: str, pip: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise AssetError(f"{module} is not installed: pip install {pip}")
    return Path(spec.submodule_search_locations[0]) / inner


def _dictionary() -> set[str]:
    path = _package_file("pocketsphinx", "model/en-us/cmudict-en-us.dict", "pocketsphinx==5.1.1")
    return {line.split(maxsplit=1)[0] for line in read_lines(path) if line.strip()}


def _lexicon() -> dict[str, set[str]]:
    """Word -> its pronunciations without stress marks; a word read in two ways has both."""
    path = _package_file("hibari", "assets/lexicon_us_gold.json.gz", "hibari-tts==0.2.1")
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        entries = json.load(stream)
    return {
        word: {
            sound.replace("ˈ", "").replace("ˌ", "")
            for sound in (entry.values() if isinstance(entry, dict) else [entry])
            if sound
        }
        for word, entry in entries.items()
    }


def random_sentence(
    rng: np.random.Generator, words: Sequence[str], low: int = 4, high: int = 12, must: Sequence[str] = ()
) -> str:
    """low to high words in random order, lower case, no punctuation; the words of `must` are among them."""
    count = max(int(rng.integers(low, high + 1)), len(must))
    drawn = list(must)
    for _ in range(count - len(must)):
        pool = min(_COMMON, len(words)) if rng.random() < _COMMON_SHARE else len(words)
        drawn.append(words[int(rng.integers(pool))])
    return " ".join(drawn[index] for index in rng.permutation(count))


def natural_sentence(rng: np.random.Generator, words: Sequence[str], low: int = 3, high: int = 10) -> str:
    """A sentence of low to high words, each drawn by the two before it: pocketsphinx's trigrams, kept to `words`.

    With a capital and a full stop, or a question mark after a word that asks, so that a synthesiser gives it a melody.
    A sentence that grows too long is dropped for another.
    """
    table, base = _language_model()
    while True:
        said = []
        while len(said) <= high:
            before = [*reversed(said[-2:]), *(["<s>"] if len(said) < 2 else [])]
            choices = [*words, "</s>"] if len(said) >= low else words
            chances = np.array([base.exp(table.prob([word, *before])) for word in choices])
            word = choices[int(rng.choice(len(choices), p=chances / chances.sum()))]
            if word == "</s>":
                text = " ".join("I" if word == "i" else word for word in said)
                return text[0].upper() + text[1:] + ("?" if said[0] in _ASKING else ".")
            said.append(word)
