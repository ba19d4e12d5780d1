"""Twins: the same document with what its users say in writing, and where the same word ends in both."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from mossrepro.lm.grid import LATE, Grid, Positions

MOST_WORDS = 1000  # of a turn
WORD = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")


class Heard(NamedTuple):
    """What somebody said: its text, its codes (n,), and the times of its words in seconds, if they are known."""

    text: str
    codes: np.ndarray
    words: Sequence[tuple[str, float, float]] = ()


def end_code(stop: float) -> int:
    """The code by which a word has been heard that ends after `stop` seconds."""
    return max(0, round(12.5 * stop + LATE))


def heard_turn(grid: Grid, heard: Heard, request: str, first: int) -> tuple[Positions, Positions]:
    """A user's turn, `request` in writing and then speech, and its twin, all of it in writing.

    If the times of all words are known, these are numbered from `first` in both, where they end.
    """
    opening, end = grid.text(f"<|im_start|>user\n{request}"), grid.text("<|im_end|>\n")
    whole, spoken = request + heard.text, grid.spoken(heard.codes)
    twin, words = grid.turn("user", text=whole), list(WORD.finditer(whole, len(request)))
    if 0 < len(words) == len(heard.words) < MOST_WORDS:
        before, (here, there) = len(grid.text("<|im_start|>user\n")), (spoken.word_end, twin.word_end)
        for i, (word, (_, _, stop)) in enumerate(zip(words, heard.words, strict=True), first):
            here[min(1 + end_code(stop), len(here) - 1)] = i  # behind SOSP
            there[before + int(np.flatnonzero(grid.tokens_within(whole, *word.span()))[-1])] = i
    return grid.join(opening, spoken, end), twin


class Pairs(NamedTuple):
    """Places (n,) of a document and of its twin that are to be alike: where a word ends, and where the reply is read.

    token: what tells a place from others: the last token of the word, or the token that is to follow in the reply.
    reply: bool, which of the two it is.
    """

    here: np.ndarray
    there: np.ndarray
    token: np.ndarray
    reply: np.ndarray


def paired(document: Positions, longest: int, pad: int) -> Pairs:
    """The places that a document has in common with its twin, among the first `longest` positions of both.

    Of a reply only what is written, and only where something is heard before it. pad: text id of spoken positions.
    """
    none, twin = np.zeros(0, np.int64), document.twin
    if twin is None or np.array_equal(document.text, twin.text):
        return Pairs(none, none, none, none.astype(bool))
    sides = document[:longest], twin[:longest]
    ends = (np.where(side.word_end < 0, -1 - i, side.word_end) for i, side in enumerate(sides))
    _, *words = np.intersect1d(*ends, return_indices=True)
    replies = [np.flatnonzero(side.supervise[1:] & (side.text[1:] != pad)) for side in sides]
    whole = min(map(len, replies))  # one side may be cut off
    here, there = (np.concatenate((ours, reply[:whole])) for ours, reply in zip(words, replies, strict=True))
    of_reply = np.arange(len(here)) >= len(words[0])
    return Pairs(here, there, np.append(sides[1].text, -1)[there + of_reply], of_reply)
