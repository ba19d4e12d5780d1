import shutil
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from mossrepro import cli
from mossrepro.data import human, ingest
from mossrepro.data.corpus import Clip, CorpusWriter, load_clip, read_manifest
from mossrepro.data.ingest import add_folder, summary
from mossrepro.utils.errors import DataError


def _sound(path, seconds=0.2, pitch=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    wave, kind = 0.3 * np.sin(np.arange(int(16_000 * seconds)) / (9 + pitch)), {}
    if path.suffix.lower() == ".opus":
        kind = {"format": "OGG", "subtype": "OPUS"}
    soundfile.write(path, wave, 16_000, **kind)


def _librispeech(folder):
    _sound(folder / "12" / "34" / "12-34-0001.flac")
    _sound(folder / "12" / "34" / "12-34-0002.flac")
    (folder / "12" / "34" / "12-34.trans.txt").write_text("12-34-0001 FIRST WORDS\n12-34-0002 MORE WORDS\n")
    return {"first words": "12", "more words": "12"}


def _ljspeech(folder):
    _sound(folder / "wavs" / "LJ001.wav")
    (folder / "metadata.csv").write_text("LJ001|In 1455|In fourteen fifty-five\n")
    return {"In fourteen fifty-five": folder.name}


def _table(folder):
    _sound(folder / "a.wav")
    _sound(folder / "sub" / "b.wav")
    (folder / "transcripts.tsv").write_text("path\tseconds\tsentence\na.wav\t1\tHello there.\nsub/b.wav\t1\tBye.\n")
    return {"Hello there.": folder.name, "Bye.": folder.name}


def _table_without_head(folder):
    _sound(folder / "a.wav")
    (folder / "transcripts.csv").write_text('a,"Yes, please.",anna\n')
    return {"Yes, please.": "anna"}


def _plain(folder):
    for speaker in ("anna", "bob"):
        _sound(folder / speaker / "x.wav")
        (folder / speaker / "x.txt").write_text(f"I am\n {speaker}")
    return {"I am anna": "anna", "I am bob": "bob"}


@pytest.mark.parametrize("layout", [_librispeech, _ljspeech, _table, _table_without_head, _plain])
def test_every_layout_becomes_the_same_kind_of_corpus(tmp_path, layout):
    (tmp_path / "source").mkdir()
    expected = layout(tmp_path / "source")
    target = add_folder(tmp_path / "source", tmp_path / "corpus")
    clips = read_manifest(target)
    assert {clip.text: clip.speaker for clip in clips} == expected
    assert len({clip.id for clip in clips}) == len(clips)
    assert load_clip(target, clips[0], 16_000).shape == (3_200,)
    assert f"{len(clips)} clips" in summary(clips)
    assert read_manifest(add_folder(tmp_path / "source", target)) == clips  # adding again adds nothing


def test_bad_files_are_skipped_with_their_reason_and_counted(tmp_path, capsys):
    _table(tmp_path)
    (tmp_path / "c.wav").write_text("not sound")
    with (tmp_path / "transcripts.tsv").open("a") as table:
        table.write("c.wav\t1\tNoise.\nd.wav\t1\tGone.\ne.wav\t1\t\n")
    clips = read_manifest(add_folder(tmp_path, tmp_path / "corpus"))
    assert {clip.text for clip in clips} == {"Hello there.", "Bye."}
    said = " ".join(capsys.readouterr().err.split())
    assert "skipped 3 of 5" in said
    assert all(reason in said for reason in ("not a sound file", "no such file", "e.wav: the transcript is empty"))


def test_a_folder_with_nothing_usable_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        add_folder(tmp_path / "nowhere", tmp_path / "corpus")
    with pytest.raises(DataError, match="no transcripts found"):
        add_folder(tmp_path, tmp_path / "corpus")
    (tmp_path / "metadata.csv").write_text("LJ001|words|words\n")
    with pytest.raises(DataError, match="none of 1 recordings is usable.*LJ001.wav: no such file"):
        add_folder(tmp_path, tmp_path / "corpus")


def test_human_recordings_are_found_or_explained(tmp_path, monkeypatch):
    monkeypatch.delenv(human.VARIABLE, raising=False)
    with pytest.raises(DataError, match="asterisk-core-sounds-en-g722"):
        human.make_corpus(tmp_path / "corpus")
    _table(tmp_path / "human" / "prompts")
    monkeypatch.setenv(human.VARIABLE, str(tmp_path / "human"))
    clips = read_manifest(human.make_corpus(tmp_path / "corpus"))
    assert {clip.text for clip in clips} == {"Hello there.", "Bye."}


@pytest.mark.skipif(human.find() is None, reason=f"no recordings: ${human.VARIABLE} is not set")
def test_real_human_recordings_have_two_halves(tmp_path):
    clips = read_manifest(human.make_corpus(tmp_path))
    share = sum(clip.split == "test" for clip in clips) / len(clips)
    assert len(clips) > 100 and 0.4 < share < 0.6


def _texts(target):
    return sorted(clip.text for clip in read_manifest(target))


def test_two_folders_with_equal_file_names_are_both_kept(tmp_path, capsys):
    for pitch, name in enumerate(("one", "two")):
        _sound(tmp_path / name / "x.wav", pitch=pitch)
        (tmp_path / name / "x.txt").write_text(f"I am {name}")
        assert cli.main(["data", "add", str(tmp_path / name), "-o", str(tmp_path / "corpus")]) == 0
    clips = read_manifest(tmp_path / "corpus")
    assert [clip.text for clip in clips] == ["I am one", "I am two"] and len({clip.id for clip in clips}) == 2
    assert not np.array_equal(*(load_clip(tmp_path / "corpus", clip, 24_000) for clip in clips))
    assert "added 1 clips (0.00 h), updated 0" in capsys.readouterr().err


def test_a_corrected_transcript_replaces_the_old_one(tmp_path, capsys):
    _sound(tmp_path / "in" / "wavs" / "a.wav", 18.0)
    _sound(tmp_path / "in" / "wavs" / "b.wav", pitch=1)
    (tmp_path / "in" / "metadata.csv").write_text("a|I has\nb|You have\n")
    before = {clip.id: clip for clip in read_manifest(add_folder(tmp_path / "in", tmp_path / "out"))}
    (tmp_path / "in" / "metadata.csv").write_text("a|I have\nb|You have\n")
    capsys.readouterr()
    after = {clip.id: clip for clip in read_manifest(add_folder(tmp_path / "in", tmp_path / "out"))}
    assert _texts(tmp_path / "out") == ["I have", "You have"] and before.keys() == after.keys()
    (changed,) = (clip for id, clip in after.items() if clip != before[id])
    assert replace(changed, text="I has") == before[changed.id]
    counted = "added 0 clips (0.00 h), updated 1 clips (0.01 h), unchanged 1 clips (0.00 h), skipped 0 of 2"
    assert counted in capsys.readouterr().err


def test_a_folder_that_was_moved_is_not_added_again(tmp_path):
    _plain(tmp_path / "in")
    clips = read_manifest(add_folder(tmp_path / "in", tmp_path / "out"))
    (tmp_path / "in").rename(tmp_path / "deep")
    shutil.copytree(tmp_path / "deep", tmp_path / "in" / "deep")
    assert read_manifest(add_folder(tmp_path / "in", tmp_path / "out")) == clips


def test_a_corpus_with_ids_of_version_01_is_not_doubled(tmp_path):
    _sound(tmp_path / "in" / "x.wav")
    (tmp_path / "in" / "x.txt").write_text("right")
    with CorpusWriter(tmp_path / "out") as writer:
        writer.add("x-db537424", np.full(4_800, 0.1, np.float32), 24_000, "wrong", "in", "valid")
    (clip,) = read_manifest(add_folder(tmp_path / "in", tmp_path / "out"))
    assert (clip.id, clip.text, clip.split) == ("x-db537424", "right", "valid")
    _sound(tmp_path / "in" / "x.wav", 0.4)  # another sound of that name
    assert len(read_manifest(add_folder(tmp_path / "in", tmp_path / "out"))) == 2


def test_a_run_that_was_cut_short_ends_as_one_that_was_not(tmp_path, monkeypatch):
    for i in range(12):
        _sound(tmp_path / "in" / f"speaker{i % 4}" / f"{i}.wav", 0.1 + 0.01 * i, pitch=i)
        (tmp_path / "in" / f"speaker{i % 4}" / f"{i}.txt").write_text(f"number {i}")
    whole = read_manifest(add_folder(tmp_path / "in", tmp_path / "whole"))
    calls, add = [], CorpusWriter.add

    def dies(*args):
        calls.append(args)
        if len(calls) == 5:
            raise KeyboardInterrupt
        add(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(CorpusWriter, "add", dies)
        add_folder(tmp_path / "in", tmp_path / "cut")
    assert len(read_manifest(tmp_path / "cut")) == 4
    assert read_manifest(add_folder(tmp_path / "in", tmp_path / "cut")) == whole


def test_links_are_followed_once_and_never_round(tmp_path):
    _sound(tmp_path / "disk" / "anna" / "x.wav")
    (tmp_path / "disk" / "anna" / "x.txt").write_text("over there")
    _sound(tmp_path / "disk" / "outside.wav", pitch=1)
    (tmp_path / "disk" / "outside.txt").write_text("not mine")
    (tmp_path / "disk" / "in").mkdir()
    for name, target in {"linked": "../anna", "again": "../anna", "loop": ".", "up": ".."}.items():
        (tmp_path / "disk" / "in" / name).symlink_to(target, target_is_directory=True)
    assert _texts(add_folder(tmp_path / "disk" / "in", tmp_path / "out", outside=True)) == ["over there"]


def test_formats_are_read_or_counted(tmp_path, capsys):
    for pitch, name in enumerate(("a.WAV", "b.Flac", "c.ogg", "d.OPUS", "e.mp3")):
        _sound(tmp_path / "in" / name, pitch=pitch)
        (tmp_path / "in" / f"{name[0]}.txt").write_text(f"This is {name[0]}")
    for name in ("f.m4a", "g.M4A", "h.wma"):
        (tmp_path / "in" / name).write_bytes(b"\0" * 99)
        (tmp_path / "in" / f"{name[0]}.txt").write_text("lost")
    _sound(tmp_path / "in" / "nobody-knows.wav", pitch=9)
    assert _texts(add_folder(tmp_path / "in", tmp_path / "out")) == [f"This is {x}" for x in "abcde"]
    said = capsys.readouterr().err
    assert "skipped: 2 .m4a (convert to wav or flac)" in said and "skipped: 1 .wma" in said
    assert "skipped: 1 sound files without a transcript" in said
    for path in (tmp_path / "in").glob("[a-e].*"):
        path.unlink()
    with pytest.raises(DataError, match="no transcripts.*it holds 2 .m4a, 1 .wma: convert to wav or flac"):
        add_folder(tmp_path / "in", tmp_path / "none")


def test_a_table_finds_files_whatever_their_suffix_and_folder(tmp_path):
    for pitch, name in enumerate(("a.wav", "clips/b.FLAC", "c.WAV")):
        _sound(tmp_path / "in" / name, pitch=pitch)
    (tmp_path / "in" / "c.m4a").write_bytes(b"\0" * 99)  # converted, as told
    (tmp_path / "in" / "transcripts.tsv").write_text("path\tsentence\na.mp3\tone\nb.flac\ttwo\nc.m4a\tthree\n")
    assert _texts(add_folder(tmp_path / "in", tmp_path / "out")) == ["one", "three", "two"]


def test_one_bad_file_or_row_does_not_end_the_whole(tmp_path, capsys):
    _sound(tmp_path / "in" / "a.wav")
    rows = ["a.wav\tGood.", "short", f"{'x' * 5_000}\tLong.", "b\0.wav\tNull.", "broken.wav\tNoise.", "in\tFolder."]
    (tmp_path / "in" / "broken.wav").write_bytes(b"RIFF\xff\xff\xff\xffWAVEfmt ")
    (tmp_path / "in" / "in").mkdir()
    (tmp_path / "in" / "transcripts.tsv").write_text("\n".join(rows))
    assert cli.main(["data", "add", str(tmp_path / "in"), "-o", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().err
    assert _texts(tmp_path / "out") == ["Good."] and "skipped 5 of 6 recordings" in said
    assert "transcripts.tsv:2: 1 of 2 columns" in said and max(map(len, said.split("\n"))) < 400
    (tmp_path / "in" / "transcripts.tsv").write_text("\n".join(rows[1:]))
    corpus = (tmp_path / "out" / "manifest.jsonl").read_bytes()
    assert cli.main(["data", "add", str(tmp_path / "in"), "-o", str(tmp_path / "out")]) == 2  # nothing of it is usable
    assert (tmp_path / "out" / "manifest.jsonl").read_bytes() == corpus
    assert "none of 5 recordings is usable; the first: " in capsys.readouterr().err


ODD = "odd\u2028na\u0085me"


@pytest.mark.parametrize(
    ("name", "table", "expected"),
    [
        ("transcripts.tsv", 'a.wav\t"Hello\nb.wav\tBye"\nc.wav\tYes\n', {'"Hello': "in", 'Bye"': "in", "Yes": "in"}),
        ("transcripts.csv", 'a.wav,"Hello\nb.wav,Bye\nc.wav,Yes\n', {'"Hello': "in", "Bye": "in", "Yes": "in"}),
        ("transcripts.tsv", f"{ODD}.wav\tOdd\t{ODD}\n", {"Odd": ODD}),
        ("transcripts.tsv", f"a.wav\t{'x' * 200_000}\n", {"x" * 200_000: "in"}),
        ("metadata.csv", "\ufeffa|One|\r\n\r\nb|2|Two\r\n", {"One": "in", "Two": "in"}),
        ("metadata.csv", "a.wav|anna|Hello\nb.wav|bob|Bye\n", {"Hello": "anna", "Bye": "bob"}),
        ("metadata.csv", f"a|One {ODD}\n", {"One odd na me": "in"}),
    ],
)  # fmt: skip
def test_tables_of_all_sorts_become_a_corpus(tmp_path, name, table, expected):
    for pitch, stem in enumerate(("a", "b", "c", ODD)):
        _sound(tmp_path / "in" / f"{stem}.wav", pitch=pitch)
    (tmp_path / "in" / name).write_bytes(table.encode())
    clips = read_manifest(add_folder(tmp_path / "in", tmp_path / "out"))
    assert {clip.text: clip.speaker for clip in clips} == expected
    assert all(len(load_clip(tmp_path / "out", clip, 16_000)) for clip in clips)


def test_a_text_file_in_another_encoding_is_skipped_alone(tmp_path, capsys):
    _plain(tmp_path / "in")
    (tmp_path / "in" / "bob" / "x.txt").write_bytes("caf\xe9".encode("latin-1"))
    assert _texts(add_folder(tmp_path / "in", tmp_path / "out")) == ["I am anna"]
    assert "x.txt: not UTF-8 text" in capsys.readouterr().err


def test_what_training_will_leave_out_is_told_at_once(tmp_path, capsys):
    for pitch, (text, seconds) in enumerate({"Fine.": 0.2, "…": 0.2, "Привет": 0.2, "Too long.": 15.5}.items()):
        _sound(tmp_path / "in" / f"{pitch}.wav", seconds, pitch)
        (tmp_path / "in" / f"{pitch}.txt").write_text(text)
    add_folder(tmp_path / "in", tmp_path / "out")
    said = capsys.readouterr().err
    assert "2 without an English word in the transcript (0.00 h)" in said
    long = next(clip for clip in read_manifest(tmp_path / "out") if clip.seconds > 15)
    assert ("1 longer than 15 s (0.00 h)" in said) == (long.split == "train")


def _speakers(target):
    """Speaker -> the splits that she is in."""
    homes = {}
    for clip in read_manifest(target):
        homes.setdefault(clip.speaker, set()).add(clip.split)
    return homes


def _libri_of_many(folder, speaker, chapter):
    name = f"{speaker}-{chapter}"
    _sound(folder / str(speaker) / str(chapter) / f"{name}-0.flac", pitch=speaker * 10 + chapter)
    (folder / str(speaker) / str(chapter) / f"{name}.trans.txt").write_text(f"{name}-0 WORDS OF {speaker} {chapter}\n")


def _filelist_of_many(folder, speaker, chapter):
    _sound(folder / "wavs" / f"{speaker}-{chapter}.wav", pitch=speaker * 10 + chapter)
    with (folder / "metadata.csv").open("a") as table:
        table.write(f"wavs/{speaker}-{chapter}.wav|{speaker}|words of {speaker} {chapter}\n")


def _folders_of_many(folder, speaker, chapter):
    path = folder / "wavs" / str(speaker) / str(chapter) / "x.wav"
    _sound(path, pitch=speaker * 10 + chapter)
    path.with_suffix(".txt").write_text(f"words of {speaker} {chapter}")


@pytest.mark.parametrize("write", [_libri_of_many, _filelist_of_many, _folders_of_many])
def test_nobody_is_heard_in_two_splits(tmp_path, write, capsys):
    for speaker in range(6):
        for chapter in range(4):
            write(tmp_path / "in", speaker, chapter)
    first = _speakers(add_folder(tmp_path / "in", tmp_path / "out"))
    assert first.keys() == set("012345") and all(len(splits) == 1 for splits in first.values())
    assert set.union(*first.values()) == {"train", "valid", "test"}
    said = capsys.readouterr().err
    assert "24 clips, 0.00 h (train 16 clips, 0.00 h, 4 speakers; valid 4 clips, 0.00 h, 1 speakers; test 4" in said
    assert "0 speakers in more than one" in said
    for speaker in range(5, 9):  # three are new, one has more to say
        write(tmp_path / "in", speaker, 5)
    second = _speakers(add_folder(tmp_path / "in", tmp_path / "out"))
    assert first.items() <= second.items() and all(len(splits) == 1 for splits in second.values())


def test_one_voice_is_split_by_what_it_says(tmp_path):
    for i in range(8):
        _sound(tmp_path / "in" / "wavs" / f"{i}.wav", pitch=i)
    (tmp_path / "in" / "metadata.csv").write_text("".join(f"{i}|words {i}\n" for i in range(8)))
    splits = {clip.text: clip.split for clip in read_manifest(add_folder(tmp_path / "in", tmp_path / "out"))}
    assert set(splits.values()) == {"train", "valid", "test"}
    names = dict(zip(range(8), "hgfedcba", strict=True))  # other names, the same sounds
    for i, name in names.items():
        (tmp_path / "in" / "wavs" / f"{i}.wav").rename(tmp_path / "in" / "wavs" / f"{name}.wav")
    (tmp_path / "in" / "metadata.csv").write_text("".join(f"{name}|words {i}\n" for i, name in names.items()))
    clips = read_manifest(add_folder(tmp_path / "in", tmp_path / "again"))
    plain = {clip.text: ingest.content_split(clip.id.split("-")[1]) for clip in clips}
    moved = [text for text in splits if splits[text] != plain[text]]  # so that no split is empty
    assert len(moved) <= 2 and {clip.text for clip in clips} == splits.keys()


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.integers(1, 900), min_size=3), st.randoms())
def test_speakers_keep_their_split_and_no_split_is_empty(seconds, random):
    splits = ingest.speaker_splits([], seconds)
    assert splits.keys() == seconds.keys() and set(splits.values()) == {"train", "valid", "test"}
    for split in ("valid", "test"):
        ours = [seconds[speaker] for speaker in splits if splits[speaker] == split]
        assert sum(ours) <= 0.05 * sum(seconds.values()) or len(ours) == 1
    assert not any(ingest.speaker_splits([], dict(list(seconds.items())[:2])))
    some = [name for name in seconds if random.random() < 0.5]
    clips = [Clip(name, "", 1, seconds[name], "", name, splits[name]) for name in some]
    assert ingest.speaker_splits(clips, seconds) == splits


def test_prompts_of_one_name_in_two_folders_are_both_kept(tmp_path, monkeypatch, capsys):
    source = tmp_path / "prompts"
    for pitch, name in enumerate(("one", "digits/one", "letters/one")):
        _sound(source / f"{name}.wav", pitch=pitch)
    (source / "transcripts.tsv").write_text("one.wav\tOne.\ndigits/one.wav\t1\nletters/one.wav\tO\nno.wav\tNo.\n")
    monkeypatch.setenv(human.VARIABLE, str(source))
    for _ in range(2):
        clips = read_manifest(human.make_corpus(tmp_path / "out"))
        assert [clip.id for clip in clips] == ["one", "digits-one", "letters-one"]
    assert "skipped 1 of 4 recordings, the first: " in capsys.readouterr().err


def test_missing_transcripts_are_written_by_whisper_and_unsure_ones_listed(tmp_path, capsys, monkeypatch):
    """Three recordings: one has a transcript, one is written down, of one (noise) nobody can be sure."""
    asked = []

    class Judge:
        def transcribe_scored(self, waves):
            asked.append(len(waves[0]))
            return [("A sure thing.", 0.9) if len(waves[0]) == 16_000 else ("mumble", 0.2)]

    monkeypatch.setattr(ingest, "WhisperJudge", Judge)
    time = np.arange(24_000) / 16_000
    for name, length in (("told", 20_000), ("untold", 16_000), ("unsure", 24_000)):
        (tmp_path / "in" / "ann").mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / "in" / "ann" / f"{name}.wav", 0.3 * np.sin(2000 * time[:length]), 16_000)
    (tmp_path / "in" / "ann" / "told.txt").write_text("what was told")
    ingest.add_folder(tmp_path / "in", tmp_path / "without")
    assert [clip.text for clip in read_manifest(tmp_path / "without")] == ["what was told"] and not asked
    assert "skipped: 2 sound files without a transcript (--transcribe" in capsys.readouterr().err
    assert cli.main(["data", "add", str(tmp_path / "in"), "-o", str(tmp_path / "with"), "--transcribe"]) == 0
    clips = read_manifest(tmp_path / "with")
    assert {clip.text for clip in clips} == {"what was told", "A sure thing."} and {c.speaker for c in clips} == {"ann"}
    assert "unsure.wav: Whisper is 20 % sure of 'mumble'" in capsys.readouterr().err
    assert sorted(asked) == [16_000, 24_000]


def test_a_folder_without_any_transcript_says_what_would_help(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.ones(100), 16_000)
    with pytest.raises(DataError, match="--transcribe the 1 sound files"):
        ingest.add_folder(tmp_path, tmp_path / "out")
