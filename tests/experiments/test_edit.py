"""The control "same mouth, other knowledge" and the questions of a word-form ablation, with toys in place of models."""

from types import SimpleNamespace

import numpy as np
import pytest

from mossrepro.data.facts import Fact
from mossrepro.data.script import Line
from mossrepro.evaluation.artifacts import RunArtifacts
from mossrepro.evaluation.spoken_qa import Asked, judged
from mossrepro.experiments import ablate, controls
from mossrepro.experiments.controls import EditGraph, counterfactual, measure_controls
from mossrepro.experiments.graph import StageGraph
from mossrepro.lm.decode import Reply
from mossrepro.training.metrics import Metric, read_metrics, record

FACTS = [Fact("capital", land, city, "C") for land, city in (("France", "Paris"), ("Japan", "Tokyo"), ("Peru", "Lima"))]
KNOWN = {fact.key: fact for fact in FACTS}
PERMUTED = {fact.key: fact.answer for fact in counterfactual(FACTS)}


def answered(pairing: str, texts: list[str]) -> list[Asked]:
    lines = [Line(f"t-{fact.key}", "test", "?", "v", "test", fact.key, "C") for fact in FACTS]
    asked = [Asked(line, KNOWN[line.fact], Reply(), text, False) for line, text in zip(lines, texts, strict=True)]
    return judged(asked, pairing, KNOWN)


@pytest.mark.parametrize("kind", ["permuted", "true"])
def test_what_a_mouth_says_is_counted_as_taught_and_as_true(tmp_path, monkeypatch, kind) -> None:
    said = [PERMUTED[FACTS[0].key], PERMUTED[FACTS[1].key], FACTS[2].answer]  # two permuted answers, one true
    asked = [("T2T", answered("T2T", said)), ("T2S", answered("T2S", ["?", *said[1:]]))]
    monkeypatch.setattr(controls, "_asked", lambda model, artifacts, pairings: iter(asked))
    artifacts = RunArtifacts({"backbone": "smollm2"}, tmp_path)
    artifacts.known = KNOWN
    controls._ask_edit(kind, tmp_path, artifacts)
    found = {name: fact.value for name, fact in read_metrics(tmp_path).items()}
    third = 100 / 3
    assert found == pytest.approx(
        {
            f"control_edit_{kind}_says_permuted_t2t_c": 2 * third,
            f"control_edit_{kind}_says_true_t2t_c": third,
            f"control_edit_{kind}_more_own_t2t_c": third,
            f"control_edit_{kind}_says_permuted_t2s_c": third,
            f"control_edit_{kind}_says_true_t2s_c": third,
            f"control_edit_{kind}_more_own_t2s_c": 0.0,
        }
    )


def test_the_edits_are_controls_of_the_form_word_and_have_no_margin(tmp_path, monkeypatch) -> None:
    asked = []

    def measured(self, stage, kind, spec, build) -> None:
        asked.append((spec["control"], self.true))
        record(tmp_path / spec["control"], Metric(f"control_{spec['control']}_x", "x", 1.0))
        return tmp_path / spec["control"]

    monkeypatch.setattr(StageGraph, "cached", measured)
    monkeypatch.setattr(EditGraph, "edited", lambda self: tmp_path)
    (tmp_path / "parts.json").write_text("{}")
    measure_controls("small", tmp_path, only=["edit_true", "edit_permuted"])
    assert asked == [("edit_permuted", False), ("edit_true", True)]
    assert set(read_metrics(tmp_path)) == {"control_edit_permuted_x", "control_edit_true_x"}


@pytest.mark.parametrize(("form", "pairs"), [("word", ablate.ASKED_MOUTH), (None, ablate.ASKED)])
def test_a_variant_is_asked_the_questions_of_its_form(tmp_path, monkeypatch, form, pairs) -> None:
    grid, given = SimpleNamespace(system_turns=form), []
    model = SimpleNamespace(grid=lambda tokenizer: grid)
    monkeypatch.setattr("mossrepro.lm.checkpoint.from_pretrained", lambda folder: (model, None))
    monkeypatch.setattr("mossrepro.lm.inference.prepare_for_inference", lambda model, device: model)

    def answering(artifacts, model, grid, lines, pairing, text_guidance):
        given.append((pairing, {line.set for line in lines}))
        return answered(pairing, ["Paris", "Rome", "Rome"])

    monkeypatch.setattr("mossrepro.evaluation.artifacts.ask_questions", answering)
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "val/T2S": 0.5}\n{"step": 2, "val/T2S": 0.25}\n')
    artifacts = RunArtifacts({"backbone": "smollm2"}, tmp_path / "out")
    artifacts.lines = [Line(f"t{name}", "test", "?", "v", "test", "", name) for name in "ABVC"]
    ablate._ask("no_mouth", tmp_path, artifacts)
    assert given == [(pairing, {name}) for pairing, name in pairs]
    found = read_metrics(tmp_path / "out")
    assert found["ablation_no_mouth_loss_t2s"].value == 0.25
    for pairing, name in pairs:
        assert np.isclose(found[f"ablation_no_mouth_{pairing}_{name}".lower()].value, 100 / 3)
