import numpy as np
import pytest
import soundfile

from mossrepro.data import human
from mossrepro.data.corpus import load_clip, read_manifest
from mossrepro.data.ingest import add_folder, summary
from mossrepro.utils.errors import DataError


def _sound(path, seconds=0.2):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.3 * np.sin(np.arange(int(16_000 * seconds)) / 9), 16_000)


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
    assert f"{len(clips)} clips" in summary(target)
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
