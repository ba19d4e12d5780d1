"""What codes mean: how well they tell phones apart, and how many of them are in use.

Phone purity, cluster purity and phone-normalised mutual information as in HuBERT (arXiv 2106.07447, section 4.3).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from rapidfuzz.distance import Levenshtein

from mossrepro.codec.recogniser import STEPS


def contingency(pairs: Iterable[tuple[np.ndarray, np.ndarray]], codes: int, phones: int) -> np.ndarray:
    """How often a code met a phone: (codes, phones) int64.

    `pairs` holds, for every clip, its codes (T,) and its phones at 50 Hz (4 T,), negative where nothing counts.
    """
    counts = np.zeros((codes, phones), np.int64)
    for row, spoken in pairs:
        each = np.repeat(np.asarray(row), STEPS)[: len(spoken)]
        counted = spoken[: len(each)] >= 0
        np.add.at(counts, (each[counted], spoken[: len(each)][counted]), 1)
    return counts


@dataclass(frozen=True)
class Units:
    """Statistics of codes against phones.

    phone_purity: accuracy of the most frequent phone of each code. pnmi: mutual information over the entropy of phones.
    used: share of codes in use. perplexity: of the codes.
    """

    phone_purity: float
    pnmi: float
    used: float
    perplexity: float


def describe(counts: np.ndarray) -> Units:
    """Numbers of a contingency table (codes, phones) with at least one count."""
    joint = counts / counts.sum()
    code, phone = joint.sum(1), joint.sum(0)
    mutual = _entropy(code) + _entropy(phone) - _entropy(joint.ravel())
    return Units(
        phone_purity=float(joint.max(1).sum()),
        pnmi=float(mutual / _entropy(phone)) if (phone > 0).sum() > 1 else 1.0,
        used=float((code > 0).mean()),
        perplexity=float(np.exp(_entropy(code))),
    )


def _entropy(shares: np.ndarray) -> float:
    """Nats."""
    seen = shares[shares > 0]
    return float(-(seen * np.log(seen)).sum())


def spread(texts: Sequence[str], rows: Sequence[np.ndarray]) -> tuple[float, float]:
    """How far apart the codes of two recordings are: (the same text in two voices, two different texts).

    Normalised edit distance of the codes (T,), repeats merged: 0 the same, 1 nothing in common. A tokenizer of
    words and not voices has a small first number and a second one near 1.
    """
    merged = [row[np.flatnonzero(np.diff(row, prepend=-1))].tolist() for row in map(np.asarray, rows)]
    same, different = [], []
    for i, j in combinations(range(len(texts)), 2):
        (same if texts[i] == texts[j] else different).append(Levenshtein.normalized_distance(merged[i], merged[j]))
    return float(np.mean(same)), float(np.mean(different))
