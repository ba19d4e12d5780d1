"""The token store: what goes in comes out, by id, also after a kill."""

import json
import subprocess
import sys

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


def test_an_orphan_and_its_successor_never_write_one_shard(tmp_path):
    with TokenWriter(tmp_path, 64) as orphan:
        orphan.add(rows(3))
        with pytest.raises(DataError, match="codes.u16: another process is writing it"):
            TokenWriter(tmp_path, 64, wait=0.0)
        with TokenWriter(tmp_path, 64, shard=1, wait=0.0) as other:
            other.add([("b", np.array([9]))])
        orphan.add([("c", np.array([4, 5]))])
    store = TokenStore(tmp_path)
    assert store["clip-0"].tolist() == [0, 1, 2] and store["c"].tolist() == [4, 5] and store["b"].tolist() == [9]


def test_a_killed_writer_leaves_no_lock(tmp_path):
    with TokenWriter(tmp_path, 64):
        pass
    code = "import sys; from mossrepro.utils.locks import hold_lock; file = hold_lock(sys.argv[1], 0, OSError())\n"
    code += "print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(tmp_path / "codes.u16")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(DataError, match="another process"):
            TokenWriter(tmp_path, 64, wait=0.0)
        process.kill()
    with TokenWriter(tmp_path, 64, wait=5.0) as writer:
        writer.add(rows(3))


@pytest.mark.parametrize("vocabulary", [0, 65_537, 151_936])
def test_a_codebook_that_16_bits_cannot_hold_is_refused(tmp_path, vocabulary):
    with pytest.raises(DataError, match=f"no codebook of {vocabulary}"):
        TokenWriter(tmp_path, vocabulary)


@pytest.mark.parametrize("code", [64, 65_600, -1])
def test_codes_outside_the_codebook_are_not_written(tmp_path, code):
    with TokenWriter(tmp_path, 64) as writer:
        with pytest.raises(DataError, match="'bad' has codes outside the codebook of 64"):
            writer.add([("good", np.array([1])), ("bad", np.array([2, code]))])
        writer.add(rows(2))
    assert list(TokenStore(tmp_path)) == ["clip-0"]


def test_codes_outside_the_codebook_are_not_read(tmp_path):
    with TokenWriter(tmp_path, 64) as writer:
        writer.add(rows(3))
    (tmp_path / "codes.u16").write_bytes(np.array([1, 900, 2], "<u2").tobytes())
    with pytest.raises(DataError, match="codes.u16: holds code 900 of a codebook of 64"):
        TokenStore(tmp_path)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ([("a", 0, 3), ("b", 2, 2)], r"index.jsonl: two clips share code 2"),
        ([("a", 0, 3), ("b", 0, 3)], r"index.jsonl: two clips share code 0"),
        ([("a", -2, 2)], r"index.jsonl:1: first code -2"),
        ([("a", 0, 2), ("b", 2, -1)], r"index.jsonl:2: .*-1 codes"),
        ([("a", 0, 2), ("b", 2, 9)], r"codes.u16: is shorter than its index"),
        ([("a", "x", 2)], r"index.jsonl:1: not a row"),
        ([("a", 0, 2), None], r"index.jsonl:2: not a row"),
    ],
)
def test_an_index_that_lies_is_refused_by_name(tmp_path, lines, reason):
    with TokenWriter(tmp_path, 64) as writer:
        writer.add(rows(4))
    spans = [line and dict(zip(("id", "start", "length"), line, strict=True)) for line in lines]
    (tmp_path / "index.jsonl").write_text("".join(json.dumps(span) + "\n" for span in spans))
    with pytest.raises(DataError, match=reason):
        TokenStore(tmp_path)


def test_a_half_written_code_does_not_keep_a_store_from_being_read(tmp_path):
    with TokenWriter(tmp_path, 64) as writer:
        writer.add(rows(3))
    with open(tmp_path / "codes.u16", "ab") as codes:
        codes.write(b"\xff\xff\xff")  # beyond the index: nobody's
    assert TokenStore(tmp_path)["clip-0"].tolist() == [0, 1, 2]


def test_codes_that_a_crash_lost_are_made_again_and_not_zeros(tmp_path):
    with TokenWriter(tmp_path, 64) as writer:
        writer.add([("a", np.array([7, 7])), ("b", np.array([8, 8]))])
    with open(tmp_path / "codes.u16", "r+b") as codes:
        codes.truncate(6)  # the machine stopped: the index reached the disk, the codes did not
    assert held(tmp_path) == {"a"}
    with TokenWriter(tmp_path, 64) as writer:
        assert writer.done == {"a"}
        writer.add([("b", np.array([9, 9]))])
    store = TokenStore(tmp_path)
    assert store["a"].tolist() == [7, 7] and store["b"].tolist() == [9, 9]


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
