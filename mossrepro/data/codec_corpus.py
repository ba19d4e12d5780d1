"""The corpus of the speech tokenizer: which sentences are spoken in which voices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from mossrepro.data.corpus import Clip
from mossrepro.data.sentences import natural_sentence, random_sentence, vocabulary
from mossrepro.data.synthesis import Utterance, synthesise
from mossrepro.speech import roster
from mossrepro.speech.voices import VERSION
from mossrepro.utils import assets, cache, random
from mossrepro.utils.audio import SAMPLE_RATE
from mossrepro.utils.errors import ConfigError


@dataclass(frozen=True)
class CodecRecipe:
    """How much of what: numbers of clips, but of sentences for `kokoro`, `test` and `test_new`.

    assistant, pseudo: random sentences in the assistant's voice, and others in the hibari pseudo-speakers.
    kokoro: sentences in the Kokoro training voices; each is also spoken by `variants` pseudo-speakers of its voice.
    valid: clips of the assistant and pseudo-speakers; valid_kokoro: of Kokoro training voices.
    test: sentences, each in the assistant's voice and the two that roster "five" holds out.
    test_new: how many of these sentences the held-out voices of roster "all" say too.
    natural: sentences as people say them (`natural_sentence`), in Kokoro voices as `kokoro`, and each in a hibari one.
    test_natural: such sentences in the held-out voices of roster "all", a test of their own (`is_natural`).
    """

    assistant: int
    pseudo: int
    kokoro: int
    variants: int
    valid: int
    test: int
    test_new: int = 0
    valid_kokoro: int = 0
    natural: int = 0
    test_natural: int = 0
    version: int = 1


CODEC_RECIPES = {
    "smoke": CodecRecipe(assistant=6, pseudo=16, kokoro=2, variants=2, valid=4, test=3),
    "tiny": CodecRecipe(assistant=60, pseudo=300, kokoro=4, variants=4, valid=16, test=8),
    "small": CodecRecipe(assistant=900, pseudo=4000, kokoro=200, variants=4, valid=48, test=50),
}
# With the roster "all": more sentences by Kokoro voices, of which there are 16 times as many.
CODEC_RECIPES_ALL = {
    "small": CodecRecipe(
        600, 2000, kokoro=960, variants=2, valid=40, test=50, test_new=24, valid_kokoro=40, natural=960, test_natural=16
    ),
}
_NATURAL = "natural"


def codec_corpus(size: str, workers: int | None = None, cached: Callable = cache.cached, voices: str = "five") -> Path:
    """The corpus for the speech tokenizer: sentences of an open vocabulary, many speakers, 16 kHz.

    voices: a roster (`speech.roster`). No sentence appears in two splits and the held-out voices appear in "test"
    alone. Cached by its recipe.

    Raises ConfigError for a size without a recipe (base and full need real recordings: `mossrepro data add`).
    """
    if size not in CODEC_RECIPES:
        raise ConfigError(f"no codec recipe for size {size!r}; known: {', '.join(CODEC_RECIPES)}")
    recipe = CODEC_RECIPES_ALL.get(size, CODEC_RECIPES[size]) if voices == "all" else CODEC_RECIPES[size]
    engines = {name: assets.ASSETS[name].sha256 for name in ("hibari", "kokoro", "kokoro-voices")}
    sources = {"voices": cache.digest([VERSION, _voices(voices)]), "words": cache.digest(vocabulary(False))}
    spec = {"recipe": asdict(recipe), "engines": engines, "rate": SAMPLE_RATE, **sources}
    build = lambda folder: synthesise(list(_codec_jobs(recipe, voices)), folder, workers, SAMPLE_RATE)  # noqa: E731
    return cached("codec-corpus", spec, build)


def _voices(voices: str) -> list[dict]:
    """The voices of a roster as plain data, a part of the cache key."""
    chosen = [asdict(roster.VOICES[name]) for name in roster.names(roster=voices)]
    return [{**voice, "styles": [list(style) for style in voice["styles"]]} for voice in chosen]


def _codec_jobs(recipe: CodecRecipe, voices: str) -> Iterator[Utterance]:
    """All utterances of a codec corpus: random words, the slow engine's first, then natural sentences."""
    sentence = _Sentences()
    kokoro, pseudo = roster.names("kokoro", "train", False, voices), roster.names("hibari", "train", True)
    held_out = roster.names(role="held-out")
    new = [name for name in roster.names(role="held-out", roster=voices) if name not in held_out]
    for i in range(recipe.test):
        text = sentence("test", 3, 6)
        for voice in [*held_out, "assistant", *(new if i < recipe.test_new else ())]:
            yield Utterance(f"test-{voice}-{i:05d}", text, voice, "test")
    for i in range(recipe.kokoro):
        base, text = kokoro[i % len(kokoro)], sentence("train", 3, 6)
        for voice in [base, *roster.variants(base, voices)[: recipe.variants]]:
            yield Utterance(f"train-{voice}-{i:05d}", text, voice, "train")
    for i in range(recipe.valid_kokoro):
        voice = kokoro[i * len(kokoro) // recipe.valid_kokoro]
        yield Utterance(f"valid-{voice}-{i:05d}", sentence("valid", 3, 6), voice, "valid")
    for i in range(recipe.valid):
        voice = "assistant" if i % 4 == 0 else pseudo[i % len(pseudo)]
        yield Utterance(f"valid-{voice}-{i:05d}", sentence("valid", 4, 10), voice, "valid")
    for i in range(recipe.assistant):
        yield Utterance(f"train-assistant-{i:05d}", sentence("train", 3, 12), "assistant", "train")
    for i in range(recipe.pseudo):
        voice = pseudo[i % len(pseudo)]
        yield Utterance(f"train-{voice}-{i:05d}", sentence("train", 3, 12), voice, "train")
    for i in range(recipe.test_natural):
        text = sentence.natural("test")
        for voice in new:
            yield Utterance(f"test-{_NATURAL}-{voice}-{i:05d}", text, voice, "test")
    for i in range(recipe.natural):
        base, text = kokoro[i % len(kokoro)], sentence.natural("train")
        for voice in [base, *roster.variants(base, voices)[: recipe.variants], pseudo[i % len(pseudo)]]:
            yield Utterance(f"train-{_NATURAL}-{voice}-{i:05d}", text, voice, "train")


def is_natural(clip: Clip) -> bool:
    """Whether a clip of the codec's corpus is a sentence as people say it, not random words."""
    return clip.id.startswith(f"{clip.split}-{_NATURAL}-")


class _Sentences:
    """Sentences without repeats: the n-th is the same on every machine."""

    def __init__(self) -> None:
        self.words = vocabulary(homophones=False)
        self.said: set[str] = set()
        self.count = 0

    def __call__(self, split: str, low: int, high: int) -> str:
        return self._new(split, lambda draw: random_sentence(draw, self.words, low, high))

    def natural(self, split: str) -> str:
        return self._new(split, lambda draw: natural_sentence(draw, self.words))

    def _new(self, split: str, make: Callable[[np.random.Generator], str]) -> str:
        while True:
            self.count += 1
            text = make(random.rng(0, "codec", split, self.count))
            if text not in self.said:
                self.said.add(text)
                return text
