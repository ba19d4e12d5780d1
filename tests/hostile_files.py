"""Files of any content, for property tests: what reads them returns, or says one line, and takes little memory."""

import tracemalloc
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mossrepro.utils.errors import MossError

MOST = 64 << 20  # bytes of memory for a file of a few kilobytes
often = pytest.mark.parametrize("examples", [100, pytest.param(2_000, marks=pytest.mark.slow)])


def check(examples: int, files: st.SearchStrategy, read: Callable[[Any], Any]) -> None:
    """Call `read` with many files. It returns, or raises a MossError of one line, and takes little memory."""

    @settings(max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(files)
    def one(file):
        tracemalloc.start()  # for the reading alone: hypothesis is slow when it is watched
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", RuntimeWarning)  # NumPy's, a second line
                read(file)
        except MossError as error:
            assert str(error).strip()
        finally:
            most = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert most < MOST

    one()


# Bytes that are nearly a good file: some replaced, cut or doubled, numbers set to what is the most or the least.
EXTREMES = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 62, (1 << 64) - 1]


def changed(good: bytes, head: int) -> st.SearchStrategy[bytes]:
    """A good file with changes, most of them in its first `head` bytes."""

    def apply(changes: list[tuple[int, int, int]], cut: int | None) -> bytes:
        data = bytearray(good)
        for place, size, value in changes:
            data[place : place + size] = (value & ((1 << 8 * size) - 1)).to_bytes(size, "little")
        return bytes(data if cut is None else data[:cut])

    change = st.tuples(
        st.integers(0, head), st.sampled_from([1, 2, 4, 8]), st.sampled_from(EXTREMES) | st.integers(0, 1 << 64)
    )
    cut = st.none() | st.integers(0, len(good))
    return st.builds(apply, st.lists(change, min_size=1, max_size=4), cut)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=8) | st.just("../x"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
