"""Shares of what is written, the floor of the recogniser, and how much of an open question is heard."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from mossrepro.data.facts import Fact
from mossrepro.data.script import Line
from mossrepro.evaluation import one_word, open_answers
from mossrepro.evaluation.artifacts import RunArtifacts
from mossrepro.evaluation.measure import _keep_sound
from mossrepro.evaluation.one_word import bare_words, kept
from mossrepro.evaluation.spoken_qa import Asked
from mossrepro.lm.decode import Reply
from mossrepro.training.metrics import Metric, read_metrics

FACTS = {
    fact.key: fact
    for fact in (
        Fact("capital", "France", "Paris", "C"),
        Fact("capital", "Japan", "Tokyo", "C"),
        Fact("opposite", "hot", "cold", "C"),
        Fact("opposite", "cold", "hot", "V"),
    )
}


def asked(rights):
    pairs = zip(FACTS.values(), rights, strict=False)
    return [
        Asked(Line(f"t-{fact.key}", "test", "?", "v", "test", fact.key, "C"), fact, Reply(), "", right)
        for fact, right in pairs
    ]


def test_a_share_of_what_is_written_is_of_the_same_questions():
    voice, written = asked([True, False, False, True]), asked([True, True, True, True])
    fact = kept("C", "T2S", voice, written)
    assert (fact.id, fact.value, fact.n) == ("t2s_c_kept", 50.0, 4) and fact.low < 50 < fact.high
    assert kept("C", "T2S", written, written).low == 100.0  # nothing between them, so nothing is uncertain
    assert kept("C", "T2S", written, asked([False] * 4)).value > 0  # nothing is written: no division by zero


def test_the_recogniser_has_a_ceiling_and_a_floor(tmp_path):
    """A reader that hears every word, and one that always hears Paris."""
    lines = [Line(f"w-{fact.answer}", "assistant_speech", fact.answer, "assistant", "train") for fact in FACTS.values()]
    words = {line.id: line.text for line in lines}
    for deaf, ceiling, floor in ((False, 100.0, 0.0), (True, 25.0, 25.0)):
        artifacts = RunArtifacts({"backbone": "smollm2"}, tmp_path / str(deaf))
        artifacts.recorded = not deaf
        artifacts.known, artifacts.lines, artifacts.codes = FACTS, lines, {name: [name] for name in words}
        artifacts.read = lambda many, deaf=deaf: ["paris" if deaf else words[codes[0]].lower() for codes in many]
        artifacts.hear, artifacts.wave = artifacts.read, lambda name: np.zeros(3)
        artifacts.judge = SimpleNamespace(transcribe=lambda waves: ["paris"] * len(waves))
        bare_words(artifacts)
        found = read_metrics(artifacts.out)
        assert (found["word_ceiling"].value, found["word_floor"].value) == (ceiling, floor)
        assert ("word_judge_ceiling" in found) == (not deaf) and found["word_judge_resynthesis"].n == 4
        assert deaf or found["word_judge_ceiling"].value == 25.0
        assert found["word_judge_floor"].value == floor  # `hear` is `read` here
        parts = {name: found[f"word_judge_resynthesis_{name}"] for name in "cv"}  # no fact here is of A or B
        assert {name: (fact.value, fact.n) for name, fact in parts.items()} == (
            {"c": (100 / 3, 3), "v": (0.0, 1)} if deaf else {"c": (100.0, 3), "v": (100.0, 1)}
        )
        assert "word_judge_resynthesis_a" not in found
        keys = one_word.understood(artifacts)
        assert keys == ({"capital-france"} if deaf else {*FACTS})
        voice, written = asked([True, False, False, True]), asked([True, True, True, True])
        (fact,) = one_word.of_understood("C", "T2S", voice, written, keys)
        assert (fact.id, fact.value, fact.n) == ("t2s_c_understood_kept", *((100.0, 1) if deaf else (50.0, 4)))
        assert one_word.of_understood("C", "T2S", voice, written, set()) == []


def test_an_answer_that_is_written_first_is_then_repeated(tmp_path, monkeypatch):
    written, given = [replace(one, heard=one.fact.answer) for one in asked([True] * 4)], []

    def answering(artifacts, model, grid, lines, pairing):
        given.extend((line.text, line.fact, pairing) for line in lines)
        return asked([True, True, True, False])

    monkeypatch.setattr(one_word, "ask_questions", answering)
    artifacts = RunArtifacts({"backbone": "smollm2"}, tmp_path)
    for pairing, id in (("T2T", "t2s_c_guided"), ("S2T", "s2s_c_guided")):
        one_word.guided(artifacts, None, None, "C", pairing, written)
        assert read_metrics(tmp_path)[id].value == 75.0
    assert given[:4] == [(f"Repeat: {fact.answer}", key, "T2S") for key, fact in FACTS.items()]


@pytest.mark.parametrize(("ceiling", "share"), [(80.0, 62.5), (0.0, None), (None, None)])
def test_what_whisper_hears_is_a_share_of_what_it_can(tmp_path, ceiling, share):
    artifacts = RunArtifacts({"backbone": "smollm2"}, tmp_path)
    artifacts.known, artifacts.hear = FACTS, lambda many: ["paris", "tokyo", "?", "?"]
    if ceiling is not None:
        artifacts.record(Metric("word_judge_resynthesis_c", "", ceiling, "%"))
    artifacts.record(Metric("word_judge_resynthesis", "", 10.0, "%"))  # of all sets
    spoken = [replace(one, reply=Reply(codes=[1])) for one in asked([False] * 4)]
    one_word.by_sound(
        artifacts, "C", "T2S", [replace(one, line=replace(one.line, fact=one.fact.key)) for one in spoken]
    )
    found = read_metrics(tmp_path)
    assert found["t2s_c_sound"].value == 50.0
    kept = found.get("t2s_c_sound_kept")
    assert share is None and kept is None or (kept.value == share and kept.low < share < kept.high)


@pytest.mark.parametrize(("spoken", "closed"), [(1.0, 100.0), (3.0, 0.0), (2.5, 25.0)])
def test_the_share_closed_is_between_another_question_and_the_written_one(tmp_path, spoken, closed):
    lines = [Line(f"o{i}", "open_test", "What?", "v", "test", set="heard") for i in range(5)]
    nats = {name: np.tile([10 * value, 10.0], (5, 1)) for name, value in
            (("written", 1.0), ("spoken", spoken), ("another", 3.0))}  # fmt: skip
    open_answers._record(RunArtifacts({"backbone": "smollm2"}, tmp_path), "heard", nats, lines)
    found = read_metrics(tmp_path)
    assert found["open_heard_closed"].value == pytest.approx(closed) and found["open_heard_spoken"].value == spoken


def test_a_table_counts_every_question_once(tmp_path):
    artifacts = RunArtifacts({"backbone": "smollm2"}, tmp_path)
    one_word._table(artifacts, asked([True, True, False, False]), asked([True, False, True, False]))
    assert {name: fact.value for name, fact in read_metrics(tmp_path).items()} == dict.fromkeys(
        [f"stage1_table_{cell}" for cell in ("both", "voice", "writing", "neither")], 1.0
    )


@pytest.mark.parametrize(("form", "right"), [(True, "Paris"), (False, "The capital of France is Paris.")])
def test_the_report_expects_an_answer_in_the_form_of_the_run(form, right, tmp_path):
    fact, silence = Fact("capital", "France", "Paris", "A"), np.zeros(2400, np.float32)
    line = Line("test-1", "test", "Tell me the capital of France.", "someone", "test", fact.key, "A")
    speaker = SimpleNamespace(speak=lambda codes: (silence, 24_000))
    artifacts = SimpleNamespace(out=tmp_path, wave=lambda name: silence, speaker=speaker)
    (tmp_path / "wav").mkdir()
    kept = _keep_sound(artifacts, Asked(line, fact, Reply(codes=[1]), "bear", False), form)
    assert kept["reference"] == right
    assert all((tmp_path / "wav" / kept[name]).is_file() for name in ("question", "answer"))
