"""The token store: what goes in comes out, by id, also after a kill."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mossrepro.data.token_store import TokenStore, TokenWriter, held
from mossrepro.utils.errors import DataError


def rows(*lengths: int) -> list[tuple[str, np.ndarray]]:
    return [(f"clip-{i}", np.arange(i, i + length)) for i, length in enumerate(lengths)]


def test_codes_come_back_by_id(tmp_path):
    with TokenWriter(tmp_path, 1024) as writer:
        writer.add(rows(3, 0, 5))
    store = TokenStore(tmp_path)
    assert list(store) == ["clip-0", "clip-1", "clip-2"] and len(store) == 3 and store.vocabulary == 1024
    assert store["clip-2"].tolist() == [2, 3, 4, 5, 6] and store["clip-2"].dtype == np.int64
    assert store["clip-1"].tolist() == [] and store.length("clip-0") == 3
    assert "clip-2" in store and "clip-9" not in store
    with pytest.raises(DataError, match="clip-9"):
        store["clip-9"]


def test_a_killed_writer_loses_only_what_was_half_written(tmp_path):
    with TokenWriter(tmp_path, 64) as writer:
        writer.add(rows(3, 4))
    with open(tmp_path / "codes.u16", "ab") as codes, open(tmp_path / "index.jsonl", "a") as index:
        codes.write(b"\x01\x00\x02")  # killed in the middle of a code
        index.write('{"id": "clip-2", "sta')  # and of a line
    with TokenWriter(tmp_path, 64) as writer:
        assert writer.done == {"clip-0", "clip-1"}
        writer.add([("clip-2", np.array([7, 8, 9]))])
    store = TokenStore(tmp_path)
    assert store["clip-1"].tolist() == [1, 2, 3, 4] and store["clip-2"].tolist() == [7, 8, 9]


def test_broken_stores_are_refused(tmp_path):
    with pytest.raises(DataError, match="not a token store"):
        TokenStore(tmp_path / "nothing")
    with TokenWriter(tmp_path, 64) as writer:
        writer.add(rows(3))
    with pytest.raises(DataError, match="codebook size"):
        TokenWriter(tmp_path, 128)
    (tmp_path / "codes.u16").write_bytes(b"\x00\x00")
    with pytest.raises(DataError, match="shorter"):
        TokenStore(tmp_path)


def test_several_writers_make_one_store(tmp_path):
    for shard, items in ((0, rows(3)), (2, [("b", np.array([9]))]), (1, [("c", np.array([4, 5]))])):
        with TokenWriter(tmp_path, 64, shard) as writer:
            assert not writer.done
            writer.add(items)
    store = TokenStore(tmp_path)
    assert list(store) == ["clip-0", "c", "b"] and store["b"].tolist() == [9] and store["c"].tolist() == [4, 5]
    assert held(tmp_path) == set(store) and held(tmp_path / "nothing") == set()
    (tmp_path / "codes-1.u16").write_bytes(b"")
    with pytest.raises(DataError, match="codes-1.u16: is shorter"):
        TokenStore(tmp_path)


@settings(max_examples=25, deadline=None)
@given(
    st.dictionaries(st.text(min_size=1), st.lists(st.integers(0, 1023), max_size=5), max_size=6),
    st.lists(st.integers(0, 2), min_size=6, max_size=6),
)
def test_any_clips_dealt_to_any_writers_come_back(tmp_path_factory, clips, shards):
    folder = tmp_path_factory.mktemp("store")
    for shard in range(3):
        with TokenWriter(folder, 1024, shard) as writer:
            writer.add(
                [(name, np.array(c, int)) for (name, c), s in zip(clips.items(), shards, strict=False) if s == shard]
            )
    store = TokenStore(folder)
    assert {name: store[name].tolist() for name in store} == clips and held(folder) == set(clips)
