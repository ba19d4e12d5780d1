"""Corpora and token stores of others: whatever is wrong in them is one line that names the file."""

import ast
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hostile_sounds import RATE, WAVE

from mossrepro import cli
from mossrepro.codec.tokenise import TokeniseTask
from mossrepro.data.alignment import read_phones
from mossrepro.data.corpus import MANIFEST, Clip, CorpusWriter, read_manifest
from mossrepro.data.facts import read_facts
from mossrepro.data.script import read_script, read_word_times
from mossrepro.data.token_store import TokenStore, TokenWriter, code_table, held
from mossrepro.evaluation.artifacts import RunArtifacts
from mossrepro.utils.errors import ConfigError, DataError

GOOD = {
    "id": "a",
    "audio": "audio/a.flac",
    "rate": RATE,
    "seconds": 1.0,
    "text": "x",
    "speaker": "me",
    "split": "train",
}
BAD = {  # what is changed in a line of a manifest: what is said
    "audio": ["/etc/passwd", "../x.flac", "audio/../../x.flac", "", "a\0b", 3, None, "\ud800.flac"],
    "seconds": [0, -1, float("nan"), float("inf"), "1", None, True, 1e400, [1]],
    "rate": [0, -16_000, 1.5, "16000", 10**30],
    "id": ["", 3, None, "../x", "/x", "\ud800"],
    "text": [3, None, ["x"], "\ud800"],
    "speaker": [3, None, "\udfff"],
    "split": ["dev", 3, None, ["train"], {}],
    "words": [3, "x", [3], [["x"]], [["x", "a", "b"]], [["x", 0.0, float("nan")]], {}],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field in BAD for value in BAD[field]])
def test_a_line_of_a_manifest_that_nobody_can_use_is_named(field, value, tmp_path):
    lines = [json.dumps(GOOD), json.dumps({**GOOD, "id": "b", field: value})]
    (tmp_path / MANIFEST).write_text("".join(line + "\n" for line in lines))
    with pytest.raises(DataError, match=rf"{MANIFEST}:2: {field}\b"):
        read_manifest(tmp_path)


def test_two_clips_of_one_id_are_named(tmp_path):
    (tmp_path / MANIFEST).write_text(json.dumps(GOOD) + "\n" + json.dumps({**GOOD, "text": "y"}) + "\n")
    with pytest.raises(DataError, match=f"{MANIFEST}:2: .*'a'"):
        read_manifest(tmp_path)


@pytest.mark.parametrize(
    "text", [b"[" * 100_000, b"\xff\xfe", b'{"id": ' + b"9" * 5_000 + b"}", b"null", b"\0", b'"a"']
)
def test_a_manifest_that_is_none_is_one_line(text, tmp_path, capsys):
    (tmp_path / MANIFEST).write_bytes(text + b"\n")
    with pytest.raises(DataError, match=MANIFEST):
        read_manifest(tmp_path)


def test_a_manifest_with_a_clip_of_no_length_is_refused_by_a_verb(tmp_path, capsys):
    """Through the command line, up to the data of a fit."""
    with CorpusWriter(tmp_path) as writer:
        writer.add("a", WAVE, RATE, "word", "me", "train")
    line = (tmp_path / MANIFEST).read_text()
    (tmp_path / MANIFEST).write_text(re.sub(r'"seconds": [\d.]+', '"seconds": 0', line))
    argv = ["fit", "-c", "configs/vocoder.yaml", "-c", "configs/smoke.yaml", "--data.init_args.corpus", str(tmp_path)]
    assert cli.main(argv) == 2
    err = capsys.readouterr().err.splitlines()
    assert f"{MANIFEST}:1: seconds" in err[-1]


def store(folder, **files: str | bytes):
    """A token store of three clips, some files of it replaced."""
    with TokenWriter(folder, 64) as writer:
        writer.add([(name, np.arange(3)) for name in "abc"])
    for name, text in files.items():
        (folder / name.replace("_", ".")).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


ROW = '{"id": "a", "start": 0, "length": 3}\n'
STORES = [
    {"store_json": text}
    for text in ("", "[", "{}", "3", '{"codes": 1e999}', '{"codes": NaN}', '{"codes": -1}', '{"codes": 0}',
                 '{"codes": 1e9}', '{"codes": "64"}', '{"codes": [64]}', "[" * 100_000, b"\xff")
] + [
    {"index_jsonl": text}
    for text in ("[]\n", "3\n", '{"id": "a", "start": 1e999, "length": 1}\n',
                 '{"id": "a", "start": NaN, "length": 1}\n',
                 '{"id": "a", "start": 0, "length": 1e300}\n', '{"id": ["a"], "start": 0, "length": 1}\n',
                 '{"id": "a", "start": "0", "length": 1}\n', '{"id": "a", "start": -1, "length": 1}\n',
                 '{"id": "a", "start": 0.5, "length": 1}\n', ROW + ROW.replace('0,', '3,'), "[" * 100_000 + "\n",
                 '{"id": "a", "start": 0, "length": ' + "9" * 5_000 + "}\n", b"\xff\n")
]  # fmt: skip


@pytest.mark.parametrize("files", STORES, ids=range(len(STORES)))
def test_a_store_that_nobody_can_use_is_named(files, tmp_path):
    with pytest.raises(DataError, match=re.escape(str(tmp_path))):
        TokenStore(store(tmp_path, **files))


@pytest.mark.parametrize("text", [b"\xff", b"", b'{"codes": 65}\n'])
def test_a_store_of_something_else_is_not_written_into(text, tmp_path):
    store(tmp_path, store_json=text)
    with pytest.raises(DataError, match="was begun with another codebook size"):
        TokenWriter(tmp_path, 64)
    assert (tmp_path / "store.json").read_bytes() == text


def test_files_with_names_like_those_of_a_shard_are_no_shards(tmp_path):
    store(tmp_path)
    for name in ("index-x.jsonl", "index--1.jsonl", "index-1 (copy).jsonl", "index-0.jsonl", "index-²..jsonl"):
        (tmp_path / name).write_text(ROW)
    assert held(tmp_path) == {"a", "b", "c"} == set(TokenStore(tmp_path))


def npy(shape: str, kind: str = "<f4") -> bytes:
    head = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(head).to_bytes(2, "little") + head.encode() + bytes(64)


@pytest.mark.parametrize(
    "data",
    [b"", b"\x93NUMPY", npy("(1000000000000, 4)"), npy("(4, 4)", "|O"), npy("(16,)"), npy("()"), npy("(4, 4)", "<i4"),
     npy("(4, 4)", "<c8"), npy("(-4, -4)"), npy("'x'"), npy("(4, 0)"), b"PK\x03\x04" + bytes(50)],
)  # fmt: skip
def test_a_table_that_is_none_is_one_line_without_its_memory(data, tmp_path):
    (tmp_path / "codebook.npy").write_bytes(data)
    with pytest.raises(ConfigError, match="codebook.npy"):
        code_table(tmp_path, "codebook", 4)
    predicting = SimpleNamespace(store=tmp_path, _done={"a"}, _codebook=lambda: np.zeros((4, 4)))
    with pytest.raises(ConfigError, match="codebook.npy"):
        TokeniseTask._check_codebook(predicting)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"numbers": 3}', '{"numbers": {}}'])
def test_a_codec_that_does_not_say_its_corpus_is_named(text, tmp_path):
    (tmp_path / "spec.json").write_text(text)
    with pytest.raises(DataError, match="spec.json"):
        RunArtifacts({"backbone": "smollm2", "codec": str(tmp_path)}, tmp_path).codec_corpus  # noqa: B018


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]x",
        "3\n",
        "{}\n",
        '{"id": 3}\n',
        "[" * 100_000,
        '{"id": "a", "role": "x", "text": 3}\n',
        b"\xff",
        '{"id": "../x", "role": "test", "text": "x", "voice": "x", "split": "test"}\n',
    ],
)
def test_a_script_that_nobody_can_use_is_named(text, tmp_path):
    for name in ("script.jsonl", "facts.json"):
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError, match="script.jsonl"):
        read_script(tmp_path)
    with pytest.raises(DataError, match="facts.json"):
        read_facts(tmp_path)


ASKED = {"id": "q0", "role": "question", "text": "x", "voice": "me", "split": "train", "fact": "capital-france"}
ANSWER = {**ASKED, "id": "answer-capital-france", "role": "answer", "voice": "assistant"}
UNFIT = {  # lines that do not fit each other or the facts: what is said
    "a second line 'q0'": [ASKED, ASKED],
    "about 'capital-x', which is no fact": [ASKED, {**ASKED, "id": "q1", "fact": "capital-x"}],
    "role answer about ''": [ASKED, {**ANSWER, "fact": ""}],
    "must be called answer-capital-france": [ASKED, {**ANSWER, "id": "a0"}],
    "role test about ''": [ASKED, {**ASKED, "id": "q1", "role": "test", "fact": ""}],
}


@pytest.mark.parametrize("said", UNFIT)
def test_lines_of_a_script_that_do_not_fit_its_facts_are_named(said, tmp_path):
    (tmp_path / "facts.json").write_text(json.dumps([["capital", "France", "Paris", "A"]]))
    for lines, place in ((UNFIT[said], 2), ([ASKED, ANSWER], None)):
        (tmp_path / "script.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        if place is None:
            assert [line.id for line in read_script(tmp_path)] == ["q0", "answer-capital-france"]
        else:
            with pytest.raises(DataError, match=rf"script.jsonl:{place}: .*{re.escape(said)}"):
                read_script(tmp_path)


TIMES = ["x", [3], [["a"]], [["a", 0.0]], [["a", "0", 1.0]], [[None, 0.0, 1.0]], [["a", 0.0, float("nan")]],
         [["a", 2.0, 1.0]], [["a", -1.0, 1.0]], [["a", 0.0, 1e9]], [["a", 0.0, 1.0, 2.0]],
         [["a", True, True]]]  # fmt: skip


@pytest.mark.parametrize("words", TIMES, ids=str)
def test_times_of_words_that_are_none_are_named(words, tmp_path):
    assert read_word_times(tmp_path) is None
    (tmp_path / "words.json").write_text(json.dumps({"a": [["x", 0.0, 0.5], ["y", 0.5, 0.5]], "b": words}))
    with pytest.raises(DataError, match="words.json: "):
        read_word_times(tmp_path)
    (tmp_path / "words.json").write_text(json.dumps({"a": [["x", 0, 0.5]]}))
    assert read_word_times(tmp_path) == {"a": [("x", 0, 0.5)]}


@pytest.mark.parametrize("facts", [[["a", "b"]], [["a", "b", "c", 3]], {"a": 1}, [3], "abcd", [["a"] * 5]])
def test_facts_that_are_none_are_named(facts, tmp_path):
    (tmp_path / "facts.json").write_text(json.dumps(facts))
    with pytest.raises(DataError, match="facts.json"):
        read_facts(tmp_path)


def test_no_module_reads_json_by_hand():
    """A file that holds none would be a fault of ours: `utils/records.py` reads it, or what is raised is caught."""
    for path in (Path(__file__).parents[2] / "mossrepro").rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        tried = [part for node in nodes if isinstance(node, ast.Try) for part in node.body]
        caught = {id(node) for part in tried for node in ast.walk(part)}
        names = [node for node in nodes if isinstance(node, ast.Attribute)]
        read = [node for node in names if ast.unparse(node) in ("json.loads", "json.load")]
        if path.name not in ("voices.py", "sentences.py"):  # which read assets, verified by their hash
            assert not [node.lineno for node in read if id(node) not in caught], path


PHONES = ["[]", "3", "{", '{"id": "a"}', '{"id": 3, "phones": []}', '{"id": "a", "phones": [3]}']


@pytest.mark.parametrize("line", PHONES)
def test_a_line_of_phones_that_nobody_can_use_is_named(line, tmp_path):
    (tmp_path / "phones.jsonl").write_text(f'{line}\n{{"id": "b", "phones": [["W", 0.0, 0.1]]}}\n')
    with pytest.raises(DataError, match="phones.jsonl:1: "):
        read_phones(tmp_path)
    (tmp_path / "phones.jsonl").write_text('{"id": "b", "phones": [["W", 0.0, 0.1]]}\n{"id": "a", "ph')
    assert read_phones(tmp_path) == {"b": [("W", 0.0, 0.1)]}


@pytest.mark.parametrize("line", ["[]", "{", '{"id": "a"}', '{"id": "a", "reason": 3}', "3"])
def test_a_list_of_skipped_clips_that_is_none_hides_nothing(line, tmp_path, capsys):
    """It stands in a store that may be somebody else's."""
    store(tmp_path)
    (tmp_path / "skipped-9.jsonl").write_text(line + "\n")
    clips = [SimpleNamespace(id=name) for name in "abcd"]
    trainer = SimpleNamespace(datamodule=SimpleNamespace(clips=clips))
    predicting = SimpleNamespace(store=tmp_path, trainer=trainer, budget=0.5)
    if line == "{":
        with pytest.raises(DataError, match="skipped-9.jsonl"):
            TokeniseTask._settle(predicting)
    else:
        TokeniseTask._settle(predicting)
        assert "1 of 4 clips have no codes, the first: d" in capsys.readouterr().err


def test_a_good_line_stays_good():
    assert Clip(**GOOD).line() == json.dumps(GOOD)
