"""Reproducible random numbers: a counter-based generator that can start at any step, and a small memo.

A number depends only on (seed, counters), never on what was drawn before it, so that a run can continue at step
100,000 without replaying the first 99,999, with any number of loader workers and on any machine.
"""

import hashlib
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import numpy as np

T = TypeVar("T")


def _key(seed: int, counters: tuple[int | str, ...]) -> int:
    """The 128-bit key of a stream; `repr` keeps 1 and "1" apart, the separator keeps (1, 23) and (12, 3) apart."""
    text = "\x1f".join([repr(int(seed)), *(repr(c if isinstance(c, str) else int(c)) for c in counters)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


def rng(seed: int, *counters: int | str) -> np.random.Generator:
    """A Philox generator for the stream (seed, counters): `rng(0, step, "noise")`.

    Two calls with equal arguments give equal numbers; different arguments give independent streams.
    """
    return np.random.Generator(np.random.Philox(key=_key(seed, counters)))


def seed_for(seed: int, *counters: int | str) -> int:
    """An integer in [0, 2**63) for the stream (seed, counters), to give to `torch.Generator.manual_seed`."""
    return _key(seed, counters) >> 65


class Memo(Generic[T]):
    """A function of one argument that keeps its newest `size` results. Unlike functools.lru_cache it can be pickled."""

    def __init__(self, make: Callable[[Hashable], T], size: int) -> None:
        self.make, self.size = make, size
        self._known: dict[Hashable, T] = {}

    def __call__(self, key: Hashable) -> T:
        if key not in self._known:
            if len(self._known) >= self.size:
                del self._known[next(iter(self._known))]
            self._known[key] = self.make(key)
        return self._known[key]
