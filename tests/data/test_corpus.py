import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from mossrepro.data.corpus import MANIFEST, Clip, CorpusWriter, left_out, load_clip, read_manifest
from mossrepro.utils.errors import DataError

WAVE = (0.3 * np.sin(np.arange(8_000) / 10)).astype(np.float32)


def test_what_is_written_is_read_back(tmp_path):
    with CorpusWriter(tmp_path) as writer:
        writer.add("a", WAVE, 16_000, "naïve words", "me", "train")
        writer.append(Clip("b", "audio/a.flac", 16_000, 0.5, "hi", "you", "test", [["hi", 0.0, 0.5]]))
    a, b = read_manifest(tmp_path)
    assert (a.id, a.text, a.speaker, a.split, a.seconds, a.words) == ("a", "naïve words", "me", "train", 0.5, None)
    assert b.words == [["hi", 0.0, 0.5]]
    assert np.abs(load_clip(tmp_path, a, 16_000) - WAVE).max() < 1e-4
    assert load_clip(tmp_path, a, 24_000).shape == (12_000,)


def test_a_torn_last_line_is_cut_off_and_writing_goes_on(tmp_path):
    with CorpusWriter(tmp_path) as writer:
        writer.add("a", WAVE, 16_000, "one", "me", "train")
        writer.add("b", WAVE, 16_000, "two", "me", "train")
    whole = (tmp_path / MANIFEST).read_bytes()
    (tmp_path / MANIFEST).write_bytes(whole[:-9])  # as a killed writer leaves it
    with CorpusWriter(tmp_path) as writer:
        assert writer.ids == {"a"}
        writer.add("a", WAVE, 16_000, "one", "me", "train")
        writer.add("b", WAVE, 16_000, "two", "me", "train")
    assert (tmp_path / MANIFEST).read_bytes() == whole


def test_bad_manifests_name_the_line(tmp_path):
    with pytest.raises(DataError, match="no such manifest"):
        read_manifest(tmp_path)
    good = Clip("a", "a.flac", 16_000, 1.0, "x", "me", "train").line()
    for bad, reason in (("{", "not JSON"), ("[]", "not a JSON object"), ('{"id": "a"}', "missing"),
                        (good.replace('"train"', '"dev"'), "split is 'dev'")):  # fmt: skip
        (tmp_path / MANIFEST).write_text(good + "\n" + bad + "\n")
        with pytest.raises(DataError, match=f"{MANIFEST}:2: {reason}"):
            read_manifest(tmp_path)


STRANGE = "one\u2028two\u0085three\u2029four"  # separators that JSON leaves as they are


def test_a_manifest_survives_unicode_line_separators(tmp_path):
    with CorpusWriter(tmp_path) as writer:
        writer.append(Clip(STRANGE, f"audio/{STRANGE}.flac", 16_000, 0.5, STRANGE, STRANGE, "train"))
        writer.add("b", WAVE, 16_000, "two", "me", "train")
    clip, _ = read_manifest(tmp_path)
    assert clip.id == clip.text == clip.speaker == STRANGE and STRANGE in clip.audio
    with CorpusWriter(tmp_path) as writer:
        assert writer.ids == {STRANGE, "b"}


def test_a_clip_can_be_corrected_and_keeps_its_place(tmp_path):
    with CorpusWriter(tmp_path) as writer:
        writer.add("a", WAVE, 16_000, "won", "me", "train")
        writer.add("b", WAVE, 16_000, "two", "me", "train")
    with CorpusWriter(tmp_path) as writer:
        writer.update(replace(writer.clips["a"], text="one"))
        writer.add("c", WAVE, 16_000, "three", "me", "train")
    assert [(clip.id, clip.text) for clip in read_manifest(tmp_path)] == [("a", "one"), ("b", "two"), ("c", "three")]


def test_two_writers_of_one_corpus_do_not_mix(tmp_path):
    with CorpusWriter(tmp_path), pytest.raises(DataError, match="another process is writing this corpus"):
        CorpusWriter(tmp_path, wait=0.0)
    with CorpusWriter(tmp_path, wait=0.0) as writer:
        writer.add("a", WAVE, 16_000, "one", "me", "train")
    with CorpusWriter(tmp_path) as writer:
        writer.update(replace(writer.clips["a"], text="two"))
        late = threading.Thread(target=_append, args=(tmp_path,))
        late.start()
        time.sleep(0.3)  # it waits for a manifest that is about to be replaced
    late.join()
    assert [clip.text for clip in read_manifest(tmp_path)] == ["two", "late"]


def _append(folder):
    with CorpusWriter(folder) as writer:
        writer.add("b", WAVE, 16_000, "late", "me", "train")


def test_what_is_left_out_is_one_line():
    clips = [Clip(str(i), "", 16_000, 36.0 * i, "x", "me", "train") for i in range(4)]
    line = left_out(clips, {"too loud": clips[1:3], "too green": []})
    assert line == "2 of 4 clips are left out: 2 too loud (0.03 h)"
    assert left_out(clips, {"too green": []}) == ""
