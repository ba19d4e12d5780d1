"""Twins: the same document with what its users say in writing, and where the same word ends in both."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mossrepro.lm.grid import LATE, Grid, Positions

MOST_WORDS = 1000  # of a turn
_WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


class Heard(NamedTuple):
    """What somebody said: its text, its codes (n,), and the times of its words in seconds, if they are known."""

    text: str
    codes: np.ndarray
    words: Sequence[tuple[str, float, float]] = ()


def heard_turn(grid: Grid, heard: Heard, request: str, first: int) -> tuple[Positions, Positions]:
    """A user's turn, `request` in writing and then speech, and its twin, all of it in writing.

    If the times of all words are known, these are numbered from `first` in both, where they end.
    """
    opening, end = grid.text(f"<|im_start|>user\n{request}"), grid.text("<|im_end|>\n")
    whole, spoken = request + heard.text, grid.spoken(heard.codes)
    twin, words = grid.turn("user", text=whole), list(_WORD.finditer(whole, len(request)))
    if 0 < len(words) == len(heard.words) < MOST_WORDS:
        before, (here, there) = len(grid.text("<|im_start|>user\n")), (spoken.word_end, twin.word_end)
        for i, (word, (_, _, stop)) in enumerate(zip(words, heard.words, strict=True), first):
            here[min(1 + max(0, round(12.5 * stop + LATE)), len(here) - 1)] = i
            there[before + int(np.flatnonzero(grid.tokens_within(whole, *word.span()))[-1])] = i
    return grid.join(opening, spoken, end), twin


def paired(document: Positions, longest: int) -> np.ndarray:
    """Where the words of a document end that its twin has too, (words, 2): in the document, and in the twin."""
    if document.twin is None:
        return np.zeros((0, 2), np.int64)
    ours, theirs = document.word_end[:longest], document.twin.word_end[:longest]
    _, here, there = np.intersect1d(np.where(ours < 0, -1, ours), np.where(theirs < 0, -2, theirs), return_indices=True)
    return np.stack((here, there), 1)
