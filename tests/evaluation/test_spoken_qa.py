"""Scores, chance and intervals of spoken question answering, on made-up answers."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from lm_toys import small_model

from mossrepro.data.facts import Fact, answered
from mossrepro.data.script import Line
from mossrepro.evaluation import measure
from mossrepro.evaluation.artifacts import RunArtifacts
from mossrepro.evaluation.measure import MEASURES
from mossrepro.evaluation.spoken_qa import (
    NO_STEMS,
    Asked,
    ask,
    by_family,
    chance,
    difference,
    gain,
    judged,
    said,
    score,
    without_stems,
)
from mossrepro.lm.decode import Reply
from mossrepro.lm.grid import Grid
from mossrepro.lm.tokenizer import mini_tokenizer
from mossrepro.training.metrics import read_metrics, wilson

FACTS = {
    fact.key: fact
    for fact in (
        Fact("capital", "France", "Paris", "C"),
        Fact("capital", "Peru", "Lima", "C"),
        Fact("opposite", "hot", "cold", "C"),
        Fact("opposite", "up", "down", "C"),
    )
}
LINES = [
    Line(f"test-{key}-{i}", "test", f.question(0), "v", "test", key, "C") for key, f in FACTS.items() for i in (0, 1)
]


def asked(right: list[bool]) -> list[Asked]:
    return [Asked(line, FACTS[line.fact], Reply([], [], True), "", r) for line, r in zip(LINES, right, strict=True)]


def test_score_has_a_wilson_interval_and_the_claims_id() -> None:
    fact = score("C", "S2T", asked([True] * 4 + [True, False] * 2))
    assert fact.id == "s2t_c" and fact.value == 75.0 and fact.n == 8
    low, high = wilson(6, 8)  # the answers about one fact are no more alike than those about different ones
    assert (fact.low, fact.high) == (pytest.approx(100 * low), pytest.approx(100 * high))


def test_chance_is_the_most_frequent_answer_of_each_family() -> None:
    assert chance(LINES, FACTS) == 0.5
    assert chance(LINES[:3], FACTS) == pytest.approx(2 / 3)  # Paris twice, Lima once
    assert chance(LINES[:2], FACTS) == 1.0 and chance([], FACTS) == 0.0


def test_questions_about_one_fact_go_together() -> None:
    fact = gain("C", "S2S", asked([True, True, False, False, True, True, False, False]), 0.25)
    assert fact.value == pytest.approx(25.0)
    low, high = wilson(4, 8)  # four facts, half of them right: wider than eight independent questions would give
    assert fact.low < 100 * (low - 0.25) - 5 and fact.high > 100 * (high - 0.25) + 5
    for right in (True, False):  # nothing seen of the spread is not the same as no spread
        fact = score("C", "S2S", asked([right] * 8))
        assert (fact.low, fact.high) == tuple(pytest.approx(100 * edge) for edge in wilson(4 * right, 4))


def test_the_same_replies_by_two_sets_of_facts() -> None:
    wrong = {key: f._replace(answer=FACTS[other].answer) for (key, f), other in
             zip(FACTS.items(), list(FACTS)[1:] + list(FACTS)[:1], strict=True)}  # fmt: skip
    replies = [replace(one, heard=wrong[one.line.fact].answer) for one in asked([True] * 8)]
    replies[7] = replace(replies[7], heard=FACTS[replies[7].line.fact].answer)
    own, true = judged(replies, "S2T", wrong), judged(replies, "S2T", FACTS)
    assert [one.right for one in own] == [True] * 7 + [False] and [one.right for one in true] == [False] * 7 + [True]
    found = difference("x", "S2T", own, true)
    assert found.value == 75 and 0 < found.low < 75 < found.high <= 100 and found.n == 8
    nothing = [replace(one, right=False) for one in own]
    assert difference("x", "S2T", nothing, nothing).high == 75  # 3 / 4 facts


def test_spoken_answers_go_through_the_judge() -> None:
    grid = Grid(mini_tokenizer([line.text for line in LINES], 320), 40)
    model = small_model(text_vocab=grid.tokenizer.get_vocab_size(), modality_pad=grid.ids.pad).eval()
    codes = {line.id: np.arange(5) for line in LINES}
    spoken: list[list[int]] = []

    def hear(many: list[list[int]]) -> list[str]:
        spoken.extend(many)
        return ["It is Paris." for _ in many]

    out = ask(model, grid, LINES, FACTS, codes, "S2S", hear)
    assert [one.line.id for one in out] == [line.id for line in LINES]
    assert len(spoken) == len(LINES) and all(one.reply.codes in spoken for one in out)
    assert [one.right for one in out] == [True, True] + [False] * 6
    written = ask(model, grid, LINES[:1], FACTS, codes, "S2T")
    assert not written[0].reply.codes


MODEL = SimpleNamespace(grid=lambda _: SimpleNamespace(system_turns="short"))


def test_replies_that_did_not_end_are_counted_by_pairing(monkeypatch, tmp_path) -> None:
    (tmp_path / "wav").mkdir()
    ended = {"T2T": [True] * 8, "S2T": [True] * 6 + [False] * 2, "T2S": [False] * 8, "S2S": [True] * 4 + [False] * 4}

    def ask_questions(artifacts, model, grid, lines, pairing, text_guidance) -> list[Asked]:
        pairs = zip(lines, ended[pairing], strict=False)
        return [Asked(line, FACTS[line.fact], Reply([], [], end), "", False) for line, end in pairs]

    monkeypatch.setattr(measure, "ask_questions", ask_questions)
    monkeypatch.setattr(measure, "has_text_guidance", lambda _: False)
    monkeypatch.setattr(measure, "prepare_for_inference", lambda model, *_: model)
    monkeypatch.setattr(measure.checkpoint, "from_pretrained", lambda *_: (MODEL, None))
    artifacts = RunArtifacts({"backbone": "smollm2", "sft": str(tmp_path)}, tmp_path)
    artifacts.lines, artifacts.known, artifacts.mos = LINES, FACTS, lambda *_: None
    measure.language_model(artifacts)
    found = read_metrics(tmp_path)
    assert {name: found[f"{name}_cut"].value for name in ("t2t", "s2t", "t2s", "s2s")} == {
        "t2t": 0.0, "s2t": 25.0, "t2s": 100.0, "s2s": 50.0
    }  # fmt: skip
    assert {"t2s_c", "t2s_c_gain", "t2s_c_no_stems", "t2s_c_no_stems_gain", "chance_c_no_stems"} <= set(found)
    rows = json.loads((tmp_path / "families.json").read_text())
    assert {row["family"] for row in rows if row["set"] == "C"} == {"capital", "opposite"}
    assert found["s2s_cut"].n == 8 and found["s2s_cut"].low < 50 < found["s2s_cut"].high


def test_results_are_given_without_stem_families_and_by_family() -> None:
    plural = Fact("plural", "cat", "cats", "C")
    line = Line("test-plural-0", "test", plural.question(0), "v", "test", plural.key, "C")
    replies = [*asked([True, True, False, False] + [False] * 4), Asked(line, plural, Reply([], [], True), "", True)]
    whole, part = score("C", "T2S", replies), score("C", "T2S", without_stems(replies), NO_STEMS)
    assert (whole.id, whole.n, part.id, part.n, part.value) == ("t2s_c", 9, "t2s_c_no_stems", 8, 25.0)
    assert (
        "stem families left out" in part.name and gain("C", "T2S", replies, 0.0, NO_STEMS).id == "t2s_c_no_stems_gain"
    )
    rows = {row["family"]: row for row in by_family("C", "T2S", replies)}
    assert set(rows) == {"capital", "opposite", "plural"} and [rows[n]["stem"] for n in sorted(rows)] == [
        False,
        False,
        True,
    ]
    assert (rows["capital"]["facts"], rows["capital"]["questions"], rows["capital"]["right"]) == (2, 4, 2)


def test_the_measures_are_the_verbs_of_eval() -> None:
    # text last: it compares with the answers of lm
    assert tuple(MEASURES) == ("codec", "vocoder", "words", "mouth", "lm", "open", "text")


def test_a_judge_of_sound_does_not_mind_spelling() -> None:
    sell, sofia = Fact("opposite", "buy", "sell", "C"), Fact("capital", "Bulgaria", "Sofia", "V")
    assert said(sell, "Cell is the answer.") and said(sofia, "SOPHIA!") and not answered(sell, "Cell is the answer.")
    delhi = Fact("capital", "India", "New Delhi", "A")
    assert said(delhi, "it is new Deli") and not said(delhi, "it is new")
    assert not said(sell, "selling") and not said(sell, "himself")  # whole words, as in writing
    assert not said(sell, "shell") and not said(sell, "") and not said(sofia, "so fear the answer")
