import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from mossrepro.data import codec_corpus, synthesis
from mossrepro.data.corpus import MANIFEST, load_clip, read_manifest
from mossrepro.data.sentences import vocabulary
from mossrepro.data.synthesis import Utterance, _chunks, synthesise
from mossrepro.speech import roster
from mossrepro.utils import assets
from mossrepro.utils.errors import ConfigError, MossError

JOBS = [Utterance(f"u{i:03d}", f"{word} and the {word}", f"hibari+p{1 + i % 5}", "train")
        for i, word in enumerate("river mountain window garden silver winter".split() * 6)]  # fmt: skip


def _bytes(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return _bytes(synthesise(JOBS, tmp_path_factory.mktemp("alone"), workers=1, rate=16_000))


def test_two_processes_write_the_same_bytes(alone, tmp_path):
    assert len(alone) == len(JOBS) + 1
    assert _bytes(synthesise(JOBS, tmp_path, workers=2, rate=16_000)) == alone


def test_a_killed_synthesis_goes_on_where_it_stopped(alone, tmp_path):
    code = (
        "from mossrepro.data.synthesis import *\n"
        f"synthesise([{', '.join(map(repr, JOBS))}], {str(tmp_path)!r}, 1, 16_000)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    deadline = time.time() + 60
    while len(list(tmp_path.glob("audio/*.flac"))) < 3 and process.poll() is None and time.time() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("audio/*.flac")}
    listed = {clip.audio.split("/")[1] for clip in read_manifest(tmp_path)}
    synthesise(JOBS, tmp_path, workers=1, rate=16_000)
    for name in listed & set(done):
        assert (tmp_path / "audio" / name).stat().st_mtime_ns == done[name]  # not spoken twice
    assert {name: data for name, data in _bytes(tmp_path).items() if not name.startswith("audio/.")} == alone


def test_a_process_that_dies_is_said_and_not_waited_for():
    with pytest.raises(MossError, match="a process died"):
        list(synthesis.in_processes(os._exit, [3, 3], 2))


def test_voices_that_share_a_kokoro_wave_stay_in_one_task():
    jobs = [Utterance(f"{text}{voice}", text, voice, "train")
            for text in ("one", "two") for voice in ("kokoro-alpha", "kokoro-alpha+p1", "kokoro-alpha+p2")]  # fmt: skip
    assert [len(chunk) for chunk in _chunks([*jobs, *JOBS])] == [3, 3, 16, 16, 4]


@pytest.mark.parametrize(
    ("voices", "size", "recipe"),
    [
        *(("five", *pair) for pair in codec_corpus.CODEC_RECIPES.items()),
        *(("all", *pair) for pair in codec_corpus.CODEC_RECIPES_ALL.items()),
    ],
)
def test_codec_splits_share_no_sentence_and_held_out_voices_are_only_tested(voices, size, recipe):
    recipe = replace(recipe, natural=min(recipe.natural, 40), test_natural=min(recipe.test_natural, 4))  # 40 ms each
    jobs = list(codec_corpus._codec_jobs(recipe, voices))
    assert len({job.id for job in jobs}) == len(jobs)
    texts = {split: {job.text for job in jobs if job.split == split} for split in ("train", "valid", "test")}
    assert not (texts["train"] & texts["test"] or texts["train"] & texts["valid"] or texts["valid"] & texts["test"])
    held_out = set(roster.names(role="held-out", roster=voices))
    assert all(job.split == "test" for job in jobs if job.voice in held_out)
    assert {job.voice for job in jobs if job.split == "test"} == {*held_out, "assistant"}
    if size == "small":
        for voice in [*roster.names(role="held-out"), "assistant"]:
            assert sum(job.split == "test" and job.voice == voice for job in jobs) >= 50
        words = {word for text in texts["train"] if text[0].islower() for word in text.split()}
        drawn_from = set(vocabulary(homophones=False))  # a few of them are never drawn
        share = 0.98 if voices == "five" else 0.95  # of fewer sentences
        assert len(words) >= share * len(drawn_from) >= 0.95 * 5_000 and words <= drawn_from
    if voices == "all":
        for voice in held_out - set(roster.names(role="held-out")):
            assert sum(job.voice == voice for job in jobs) == recipe.test_new + recipe.test_natural
        natural = [job for job in jobs if codec_corpus.is_natural(job)]
        assert len({job.text for job in natural}) == recipe.natural + recipe.test_natural
        assert len(natural) == recipe.natural * (recipe.variants + 2) + recipe.test_natural * 7
        assert all(job.text[-1] in ".?" for job in natural) and {job.split for job in natural} == {"train", "test"}
        heard = {job.voice for job in jobs if job.split == "train"}
        assert set(roster.names("kokoro", "train", roster="all")) - heard <= set(roster.names("kokoro", "train", True))
        assert sum(job.split == "valid" and roster.VOICES[job.voice].engine == "kokoro" for job in jobs) == 40


def test_smoke_corpus_is_made_once(monkeypatch, tmp_path):
    recipe = codec_corpus.CodecRecipe(assistant=1, pseudo=2, kokoro=0, variants=0, valid=1, test=0)
    monkeypatch.setitem(codec_corpus.CODEC_RECIPES, "smoke", recipe)
    monkeypatch.setattr(assets, "home", lambda: tmp_path)
    monkeypatch.setattr(codec_corpus, "vocabulary", lambda homophones: "river mountain window garden".split())
    folder = codec_corpus.codec_corpus("smoke")
    clips = read_manifest(folder)
    assert len(clips) == 4 and all(load_clip(folder, clip, 16_000).size > 4_000 for clip in clips)
    before = (folder / MANIFEST).stat().st_mtime_ns
    assert codec_corpus.codec_corpus("smoke") == folder and (folder / MANIFEST).stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match="no codec recipe for size 'huge'"):
        codec_corpus.codec_corpus("huge")
