"""The order of everything random: a counter-based generator that any worker can jump into.

A number depends only on (seed, counters), never on what was drawn before it, so that a run can continue at step
100,000 without replaying the first 99,999, with any number of loader workers and on any machine.
"""

import hashlib

import numpy as np


def _key(seed: int, counters: tuple[int | str, ...]) -> int:
    """128 bits that name the stream; `repr` keeps 1 and "1" apart, the separator keeps (1, 23) and (12, 3) apart."""
    text = "\x1f".join([repr(int(seed)), *(repr(c if isinstance(c, str) else int(c)) for c in counters)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")


def rng(seed: int, *counters: int | str) -> np.random.Generator:
    """A Philox generator for the stream (seed, counters): `rng(0, step, "noise")`.

    Two calls with equal arguments give equal numbers; different arguments give independent streams.
    """
    return np.random.Generator(np.random.Philox(key=_key(seed, counters)))


def seed_for(seed: int, *counters: int | str) -> int:
    """An integer in [0, 2**63) for the stream (seed, counters), fit for `torch.Generator.manual_seed`."""
    return _key(seed, counters) >> 65
