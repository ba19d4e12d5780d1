"""Oracle codes: what a perfect but jittery codec would write, made from the text alone.

They need no codec, and serve as a diagnostic: a failure with oracle codes is the language model's, a failure with real
codes only is the codec's.
"""

import zlib

import numpy as np

from mossrepro.data.facts import plain
from mossrepro.utils.random import rng


def oracle_codes(text: str, name: str, codes: int, noise: float = 0.03) -> np.ndarray:
    """About 12.5 codes a second of ordinary speech, (n,) int64 below `codes`.

    One code for each pair of a letter and its left neighbour; some are doubled, some wrong (with probability `noise`),
    and half of the words are followed by a pause code. `name` (the line's id) seeds the jitter.
    """
    generator = rng(0, "oracle", name)
    pause, out = codes - 1, []
    for word in plain(text).split():
        for i in range(len(word)):
            code = zlib.crc32(word[max(0, i - 1) : i + 1].encode()) % (codes - 1)
            if generator.random() < noise:
                code = int(generator.integers(codes - 1))
            out += [code] * (1 + (generator.random() < 0.15))
        out += [pause] * int(generator.integers(0, 2))
    return np.array(out or [pause], dtype=np.int64)


class OracleStore:
    """Stands in for a token store: id -> codes."""

    def __init__(self, texts: dict[str, str], codes: int) -> None:
        self.texts, self.codes = texts, codes

    def __getitem__(self, name: str) -> np.ndarray:
        return oracle_codes(self.texts[name], name, self.codes)

    def __contains__(self, name: str) -> bool:
        return name in self.texts
