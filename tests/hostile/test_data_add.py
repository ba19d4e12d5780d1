"""`data add` with folders that nobody should trust: nothing from outside, nothing lost, one line for each fault."""

import json
import os
import threading
import time

import numpy as np
import pytest
import soundfile
from hostile_sounds import RATE, WAVE, pcm, sparse, wav

from mossrepro import cli
from mossrepro.data import ingest
from mossrepro.data.corpus import MANIFEST, CorpusWriter, load_clip, read_manifest
from mossrepro.utils import locks
from mossrepro.utils.errors import DataError


@pytest.fixture
def add(tmp_path, capsys):
    """Runs `mossrepro data add in -o out`: (exit code, what it said, texts of the corpus)."""
    (tmp_path / "in").mkdir()

    def run(*flags):
        code = cli.main(["data", "add", str(tmp_path / "in"), "-o", str(tmp_path / "out"), *flags])
        there = (tmp_path / "out" / MANIFEST).is_file()
        texts = sorted(clip.text for clip in read_manifest(tmp_path / "out")) if there else []
        return code, capsys.readouterr().err, texts

    return run


def sound(path, pitch=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.3 * np.sin(np.arange(4_000) / (9 + pitch)), RATE)


OUTSIDE = {  # how a folder reaches for what lies outside it
    "absolute path": lambda here, there: (here / "transcripts.tsv").write_text(f"{there}/x.wav\tsecret\n"),
    "dots": lambda here, there: (here / "transcripts.tsv").write_text("../there/x.wav\tsecret\n"),
    "dots inside": lambda here, there: (here / "transcripts.tsv").write_text("wavs/../../there/x.wav\tsecret\n"),
    "ids": lambda here, there: (here / "1.trans.txt").write_text("../there/x SECRET\n"),
    "metadata": lambda here, there: (here / "metadata.csv").write_text("../../there/x|secret\n"),
    "linked sound": lambda here, there: [
        (here / "y.wav").symlink_to(there / "x.wav"), (here / "y.txt").write_text("secret")
    ],
    "linked text": lambda here, there: [
        (here / "y.txt").symlink_to(there / "x.txt"), sound(here / "y.wav", 3)
    ],
    "linked table": lambda here, there: [
        (here / "transcripts.tsv").symlink_to(there / "table.tsv"), sound(here / "y.wav", 3)
    ],
    "linked folder": lambda here, there: (here / "sub").symlink_to(there, target_is_directory=True),
}  # fmt: skip


@pytest.mark.parametrize("way", OUTSIDE)
def test_nothing_from_outside_the_folder_is_taken_unless_a_flag_says_so(way, add, tmp_path):
    there = tmp_path / "there"
    sound(there / "x.wav", 1)
    (there / "x.txt").write_text("secret")
    (there / "table.tsv").write_text("y.wav\tsecret\n")
    (tmp_path / "in" / "wavs").mkdir()
    OUTSIDE[way](tmp_path / "in", there)
    code, said, texts = add()
    assert code == 2 and texts == [] and "outside" in said and "--outside" in said, said
    code, said, texts = add("--outside")
    assert code == 0 and texts == ["secret"], said
    if way.startswith("linked"):
        return
    sound(tmp_path / "in" / "wavs" / "mine.wav", 2)
    for table in (tmp_path / "in").glob("*.*"):
        table.write_text(
            table.read_text() + "wavs/mine.wav\tmine\n".replace("\t", "|" if "meta" in table.name else "\t")
        )
    if way != "ids":
        code, said, texts = add()
        assert code == 0 and texts == ["mine", "secret"] and "skipped 1 of 2" in said, said


@pytest.mark.parametrize("id", ["/", ".", "..", "../..", "//", "\0", "~", "a/../b", "x" * 5_000, "\u202e", "-", "-x-"])
def test_ids_that_are_no_names_are_skipped(id, add, tmp_path):
    sound(tmp_path / "in" / "a.wav")
    sound(tmp_path / "in" / "b.wav", 1)
    (tmp_path / "in" / "b.wav").rename(tmp_path / "in" / ".wav")
    (tmp_path / "in" / "a.trans.txt").write_text(f"{id} NO\na YES\n")
    code, said, texts = add()
    assert code == 0 and texts == ["yes"] and "skipped 1 of 2" in said, said
    assert {path.parent for path in tmp_path.rglob("*.flac")} == {tmp_path / "out" / "audio"}


def test_names_that_are_not_utf8_are_added(add, tmp_path):
    for pitch, name in enumerate((b"caf\xe9", b"th\xe9")):
        folder = tmp_path / "in" / os.fsdecode(name)
        folder.mkdir()
        wav(folder / os.fsdecode(name + b".wav"), pcm(WAVE[: 4_000 + pitch]))
        (folder / os.fsdecode(name + b".txt")).write_text(f"word {pitch}")
    code, said, texts = add()
    assert code == 0 and texts == ["word 0", "word 1"], said
    clips = read_manifest(tmp_path / "out")
    assert {clip.speaker for clip in clips} == {"caf\\xe9", "th\\xe9"}
    assert all(len(load_clip(tmp_path / "out", clip, RATE)) for clip in clips)
    assert "unchanged 2 clips" in add()[1]


def test_transcripts_that_are_not_utf8_are_skipped_alone(add, tmp_path):
    for speaker in ("1", "2"):
        sound(tmp_path / "in" / speaker / f"{speaker}-1.flac", int(speaker))
        text = f"{speaker}-1 CAF\xe9\n" if speaker == "1" else f"{speaker}-1 TEA\n"
        (tmp_path / "in" / speaker / f"{speaker}.trans.txt").write_bytes(text.encode("latin-1"))
    code, said, texts = add()
    assert code == 0 and texts == ["tea"] and "1.trans.txt: not UTF-8 text" in said, said
    for name in ("transcripts.tsv", "metadata.csv"):
        (tmp_path / "in" / name).write_bytes("a.wav\tcaf\xe9\n".encode("utf-16"))
    for path in (tmp_path / "in").rglob("*.trans.txt"):
        path.unlink()
    code, said, _ = add()
    assert code == 2 and said.count("\n") == 1 and "not UTF-8 text" in said


@pytest.mark.parametrize("length", [200, 245, 250])
def test_names_as_long_as_names_can_be(length, add, tmp_path):
    name = "n" * length
    sound(tmp_path / "in" / f"{name}.wav")
    (tmp_path / "in" / f"{name}.txt").write_text("long")
    code, said, texts = add()
    assert code == 0 and texts == ["long"], said


def test_a_table_of_many_rows_takes_seconds(add, tmp_path):
    sound(tmp_path / "in" / "a.wav")
    with (tmp_path / "in" / "transcripts.tsv").open("w") as table:
        table.write("a.wav\tthe only one\n")
        table.writelines(f"{i}.wav\tword {i}\n" for i in range(20_000))
    started = time.monotonic()
    code, said, texts = add()
    assert code == 0 and texts == ["the only one"] and "skipped 20000 of 20001" in said, said
    assert len(said) < 3_000 and time.monotonic() - started < 30  # about 2 s on an idle machine


def test_an_hour_of_silence_and_a_header_that_lies_are_skipped(add, tmp_path):
    sparse(tmp_path / "in" / "long.wav", 3_601)
    wav(tmp_path / "in" / "slow.wav", pcm(WAVE), 1)
    sound(tmp_path / "in" / "a.wav")
    for name in ("long", "slow", "a"):
        (tmp_path / "in" / f"{name}.txt").write_text(name)
    code, said, texts = add()
    assert code == 0 and texts == ["a"] and "skipped 2 of 3" in said, said


def test_another_writer_of_the_corpus_loses_nothing(add, tmp_path, monkeypatch):
    """While one `data add` sums up, another one may have begun to write."""
    sound(tmp_path / "in" / "a.wav")
    (tmp_path / "in" / "a.txt").write_text("mine")
    tell = ingest._tell

    def meanwhile(*args):
        with (tmp_path / "out" / MANIFEST).open("a") as stream:
            stream.write('{"id": "half')
        tell(*args)

    with monkeypatch.context() as patch:
        patch.setattr(ingest, "_tell", meanwhile)
        assert cli.main(["data", "add", str(tmp_path / "in"), "-o", str(tmp_path / "out")]) == 0
    (tmp_path / "in" / "a.wav").write_text("broken")

    def late(*args):
        with CorpusWriter(tmp_path / "new") as writer:
            writer.add("theirs", WAVE, RATE, "theirs", "them", "train")
        tell(*args)

    monkeypatch.setattr(ingest, "_tell", late)
    assert cli.main(["data", "add", str(tmp_path / "in"), "-o", str(tmp_path / "new")]) == 2
    assert [clip.text for clip in read_manifest(tmp_path / "new")] == ["theirs"]


def test_two_at_once_give_one_whole_corpus(tmp_path):
    for who in ("one", "two"):
        for i in range(4):
            sound(tmp_path / who / f"{i}.wav", i + 4 * (who == "two"))
            (tmp_path / who / f"{i}.txt").write_text(f"{who} {i}")
    calls = [
        threading.Thread(target=ingest.add_folder, args=(tmp_path / who, tmp_path / "out")) for who in ("one", "two")
    ]
    [call.start() for call in calls], [call.join() for call in calls]
    assert len(read_manifest(tmp_path / "out")) == 8


def test_a_lock_that_is_taken_away_is_made_again(tmp_path, monkeypatch):
    """Another process removes the file between its opening and the look at it."""
    path, try_lock, calls = tmp_path / "lock", locks._try_lock, []

    def gone(file):
        calls.append(file)
        if len(calls) == 1:
            path.unlink()
        return try_lock(file)

    monkeypatch.setattr(locks, "_try_lock", gone)
    with locks.hold_lock(path, 5, DataError("busy")):
        assert path.is_file() and len(calls) == 2


def test_the_folder_of_the_recordings_is_not_made_the_corpus(add, tmp_path, monkeypatch):
    sound(tmp_path / "in" / "a.wav")
    (tmp_path / "in" / "a.txt").write_text("word")
    (tmp_path / "out").symlink_to(tmp_path / "in", target_is_directory=True)
    code, said, _ = add()
    assert code == 2 and "is the folder of the recordings" in said and said.count("\n") == 1
    assert sorted(path.name for path in (tmp_path / "in").iterdir()) == ["a.txt", "a.wav"]
    (tmp_path / "out").unlink()
    assert cli.main(["data", "add", str(tmp_path / "in"), "-o", str(tmp_path / "in" / "corpus")]) == 0  # within it
    assert cli.main(["data", "add", str(tmp_path / "in"), "-o", str(tmp_path / "in" / "corpus")]) == 0


def test_a_message_shows_what_a_name_holds(add, tmp_path):
    name = "a\x1b[31m\nb"
    sound(tmp_path / "in" / f"{name}.wav")
    (tmp_path / "in" / f"{name}.txt").write_text("")
    code, said, _ = add()
    assert code == 2 and "\x1b" not in said and "a\\x1b[31m\\nb.wav" in said


def test_an_id_never_leaves_the_corpus(tmp_path):
    with CorpusWriter(tmp_path / "out") as writer:
        for id in ("../x", "/x", "a/b", "..", ""):
            with pytest.raises(DataError, match="no name for a file"):
                writer.add(id, WAVE, RATE, "x", "me", "train")
    assert json.dumps([path.name for path in tmp_path.rglob("*.flac")]) == "[]"
