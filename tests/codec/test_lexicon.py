"""The best words are found exactly: compared with trying every sequence of words and every alignment."""

from itertools import product

import numpy as np
import pytest

from mossrepro.codec.lexicon import Lexicon
from mossrepro.codec.recogniser import BLANK, LABELS, labels

WORDS = {"oh": [["OW"]], "owe-owe": [["OW", "OW"]], "tea": [["T", "IY"]], "eat": [["IY", "T"]], "eight": [["EY", "T"]]}


def best_alignment(log_probs: np.ndarray, target: list[int]) -> float:
    """The best CTC path of one label sequence, by the textbook's recursion over blanks and labels."""
    states = [BLANK]
    for label in target:
        states += [label, BLANK]
    score = np.full(len(states), -np.inf)
    score[:2] = log_probs[0, states[:2]]
    for step in log_probs[1:]:
        new = np.full_like(score, -np.inf)
        for i, label in enumerate(states):
            ways = [score[i], score[i - 1] if i else -np.inf]
            if i > 1 and label != BLANK and label != states[i - 2]:
                ways.append(score[i - 2])
            new[i] = max(ways) + step[label]
        score = new
    return max(score[-2:])


def best_words(log_probs: np.ndarray, words: dict, most: int) -> tuple[float, list[str]]:
    """Of all sequences of up to `most` words the best, each word at the price of log(number of words)."""
    found = [(-np.inf, [])]
    for count in range(1, most + 1):
        for chosen in product(words, repeat=count):
            target = labels([phone for word in chosen for phone in words[word][0]])
            found.append((best_alignment(log_probs, target) - count * np.log(len(words)), list(chosen)))
    return max(found, key=lambda pair: pair[0])


@pytest.mark.parametrize("seed", range(12))
def test_it_finds_what_an_exhaustive_search_finds(seed):
    random = np.random.default_rng(seed)
    phones = [BLANK, *labels(["OW", "T", "IY", "EY"])]
    scores = np.full((6, len(LABELS)), -40.0)
    scores[:, phones] = 2.5 * random.standard_normal((6, len(phones)))
    log_probs = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    none = log_probs[:, BLANK].sum()
    score, words = best_words(log_probs, WORDS, 4)
    assert Lexicon(WORDS).read(log_probs) == (words if score > none else [])


def certain(*path: str) -> np.ndarray:
    """Log-probabilities of which `path` is nearly the only one."""
    log_probs = np.full((len(path), len(LABELS)), -20.0)
    log_probs[range(len(path)), [LABELS.index(label) for label in path]] = -1e-3
    return log_probs


def test_a_doubled_sound_needs_a_blank_inside_a_word_and_between_words():
    lexicon = Lexicon({"eat": [["IY", "T"]], "tea": [["T", "IY"]]})
    assert lexicon.read(certain("IY", "T", "_", "T", "IY")) == ["eat", "tea"]
    assert lexicon.read(certain("IY", "T", "T", "IY")) != ["eat", "tea"]
    inside = Lexicon({"twice": [["OW", "OW", "T"]], "once": [["OW", "T"]]})
    assert inside.read(certain("OW", "_", "OW", "T")) == ["twice"]
    assert inside.read(certain("OW", "OW", "T")) == ["once"]


def test_every_pronunciation_counts_and_of_two_words_alike_the_first_is_written():
    lexicon = Lexicon({"read": [["R", "EH", "D"], ["R", "IY", "D"]], "red": [["R", "EH", "D"]]})
    assert lexicon.read(certain("R", "IY", "D", "_", "R", "EH", "D")) == ["read", "read"]


def test_silence_holds_no_words_and_too_few_steps_hold_none_either():
    lexicon = Lexicon({"tea": [["T", "IY"]]})
    assert lexicon.read(certain("_", "_", "_")) == [] and lexicon.read(np.zeros((0, len(LABELS)))) == []
    with pytest.raises(ValueError, match="words"):
        Lexicon({})
