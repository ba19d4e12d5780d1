"""The second judge and the aligner: pocketsphinx, which has nothing in common with Whisper.

It knows 134,000 words; a word that it lacks is pronounced by the synthesisers' rules.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mossrepro.speech.normalise import PHONES, normalise
from mossrepro.utils import cache
from mossrepro.utils.errors import AssetError
from mossrepro.utils.io import read_lines


def _package(inner: str) -> str:
    """A file of pocketsphinx's own English model."""
    spec = importlib.util.find_spec("pocketsphinx")
    if spec is None or not spec.submodule_search_locations:
        raise AssetError("pocketsphinx is not installed: pip install pocketsphinx==5.1.1")
    return str(Path(spec.submodule_search_locations[0]) / "model" / "en-us" / inner)


def _sphinx(**settings: Any) -> Any:
    import pocketsphinx

    files = {"hmm": _package("en-us"), "dict": _package("cmudict-en-us.dict")}
    return pocketsphinx.Decoder(pocketsphinx.Config(**files, loglevel="FATAL", **settings))


def _decode(decoder: Any, wave: np.ndarray) -> None:
    decoder.start_utt()
    decoder.process_raw((np.clip(wave, -1, 1) * 32767).astype("<i2").tobytes(), full_utt=True)
    decoder.end_utt()


# Phonemes of hibari's rules (misaki's alphabet) -> pocketsphinx's ARPAbet; other symbols are stress marks.
_PHONES = dict(
    zip(
        "AIOWYʤʧᵊᵻɑɔæʌəɛɪiuʊðθʃʒŋɡɹjhbdfklmnpstvwzɾɜɐɚTO",
        "EY AY OW AW OY JH CH AH IH AA AO AE AH AH EH IH IY UW UH DH TH SH ZH NG G R Y HH "
        "B D F K L M N P S T V W Z T ER AH ER T OW".split(),
        strict=True,
    )
)


@functools.lru_cache(maxsize=1)
def _spelling() -> Any:
    from hibari.g2p import G2P

    return G2P()


@functools.lru_cache(maxsize=1)
def _dictionary() -> dict[str, list[list[str]]]:
    """Word -> its pronunciations, as pocketsphinx's file has them ("read" and "read(2)" are one word)."""
    found: dict[str, list[list[str]]] = {}
    for line in read_lines(_package("cmudict-en-us.dict")):
        word, *phones = line.split()
        found.setdefault(word.partition("(")[0], []).append(phones)
    return found


def pronunciations(words: Iterable[str]) -> dict[str, list[list[str]]]:
    """The pronunciations of each word, in PHONES: first as the synthesisers say it, then those of the dictionary.

    All voices of `voices.py` go by hibari's rules, which say many a name as no dictionary has it. They are asked for
    the word alone, in small letters ("polish" is not "Polish"). A word without any sound is said "AH".
    """
    found = {}
    for word in words:
        ways = [_sounds(word), *_dictionary().get(word, ())]
        found[word] = [list(way) for way in dict.fromkeys(map(tuple, ways)) if way] or [["AH"]]
    return found


@functools.cache
def _sounds(word: str) -> tuple[str, ...]:
    """A word's phones by hibari's rules; its vowel and r of "bird" and "water" are one phone here."""
    symbols = _spelling()(word).replace("ɜɹ", "ɜ").replace("əɹ", "ɚ")
    return tuple(_PHONES[symbol] for symbol in symbols if symbol in _PHONES)


def _learn(decoder: Any, words: Iterable[str]) -> None:
    """Add the words that the dictionary lacks, pronounced by hibari's rules.

    The others it knows as the dictionary has them alone: where a voice says such a word otherwise, the times of its
    phones are a little off.
    """
    for word in words:
        if decoder.lookup_word(word) is None:
            decoder.add_word(word, " ".join(pronunciations([word])[word][0]), True)


class SphinxJudge:
    """Transcription by pocketsphinx, an acoustic model that has nothing in common with Whisper."""

    def __init__(self) -> None:
        self._closed = _sphinx(lm=None)
        self._lists: set[str] = set()

    def closed(self, wave: np.ndarray, sentences: Sequence[str]) -> str | None:
        """Which of the sentences is spoken in the wave (n,) at 16 kHz; None when no path through any of them survives.

        That rejects noise and most other sentences, but not one that differs in one word: measure the false accepts.
        """
        spoken = {normalise(sentence): sentence for sentence in sentences}
        name = "list" + cache.digest(sorted(spoken))
        if name not in self._lists:
            _learn(self._closed, {word for text in spoken for word in text.split()})
            self._closed.add_jsgf_string(name, f"#JSGF V1.0;\ngrammar g;\npublic <s> = {' | '.join(sorted(spoken))};\n")
            self._lists.add(name)
        self._closed.activate_search(name)
        _decode(self._closed, wave)
        heard = self._closed.hyp()
        return spoken.get(heard.hypstr) if heard and heard.hypstr else None

    @functools.cached_property
    def _free(self) -> Any:
        return _sphinx(lm=_package("en-us.lm.bin"))

    def free(self, wave: np.ndarray) -> str:
        """Free transcription of a wave (n,) at 16 kHz with the general English language model."""
        _decode(self._free, wave)
        heard = self._free.hyp()
        return heard.hypstr if heard else ""


@functools.lru_cache(maxsize=1)
def _aligner() -> Any:
    return _sphinx(lm=None)


def _follow(wave: np.ndarray, text: str) -> tuple[Any, list[str]]:
    """The aligner after one pass over the wave with the words of `normalise(text)`; no pass without words."""
    words = normalise(text).split() if len(wave) else []
    decoder = _aligner()
    if words:
        _learn(decoder, words)
        decoder.set_align_text(" ".join(words))
        _decode(decoder, wave)
    return decoder, words


def align_phones(wave: np.ndarray, text: str) -> list[tuple[str, float, float]]:
    """When every phone of a known text is spoken in the wave (n,) at 16 kHz: (phone, start, end) in seconds.

    Phones are the 39 of the CMU dictionary (pauses are left out); an empty list when the sound does not fit the text.
    """
    decoder, words = _follow(wave, text)
    if not words or not any(segment.word in words for segment in decoder.seg() or []):
        return []
    try:
        decoder.set_alignment()  # a second pass, inside the words just found
        _decode(decoder, wave)
    except RuntimeError:  # pocketsphinx raises it when no path through the phones survives
        return []
    phones = [phone for word in decoder.get_alignment() or [] for phone in word]
    spans = [(p.name, p.start / 100, (p.start + p.duration) / 100) for p in phones]
    return [span for span in spans if span[0] in PHONES]


def align(wave: np.ndarray, text: str) -> list[tuple[str, float, float]]:
    """When every word of a known text is spoken in the wave (n,) at 16 kHz: (word, start, end) in seconds.

    The words are those of `normalise(text)`; an empty list when the sound does not fit the text.
    """
    decoder, words = _follow(wave, text)
    if not words:
        return []
    spans = []
    for segment in decoder.seg() or []:
        if not segment.word.startswith(("<", "[", "+")):
            word = segment.word.split("(")[0]  # "read(2)" is a second pronunciation
            spans.append((word, segment.start_frame / 100, (segment.end_frame + 1) / 100))
    return spans if [word for word, _, _ in spans] == words else []
