"""The judge's floor: how often a judge that knows English hears the right answer though a wrong one was said."""

from types import SimpleNamespace

import numpy as np
import pytest

from mossrepro.data.facts import Fact
from mossrepro.evaluation import measure
from mossrepro.utils.audio import SAMPLE_RATE

FACTS = [Fact("capital", "Japan", "Tokyo", "A"), Fact("capital", "Peru", "Lima", "A"),
         Fact("plural", "cat", "cats", "C"), Fact("capital", "Cuba", "Havana", "V"),
         Fact("capital", "Italy", "Rome", "C")]  # fmt: skip


@pytest.fixture
def spoken(monkeypatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(measure.voices, "say", lambda text, voice: (said.append(text) or np.zeros(1600), SAMPLE_RATE))
    return said


def bench(transcribe) -> SimpleNamespace:
    codec = SimpleNamespace(codes_of=lambda wave: np.zeros(3, np.int64))
    speak = lambda many: [np.zeros(100) for _ in many]  # noqa: E731
    return SimpleNamespace(codec=codec, speak=speak, judge=SimpleNamespace(transcribe=transcribe))


def test_a_judge_that_expects_the_right_answer_is_found_out(spoken) -> None:
    known = {"Japan": "Tokyo", "Italy": "Rome"}  # every second fact; the only plural has no other answer to take
    expects = lambda waves: [known[text.split()[3]] for text in spoken]  # noqa: E731
    assert measure._judge_deceived(bench(expects), FACTS) == [True, True]
    assert all(text.startswith("The capital of ") and known[text.split()[3]] not in text for text in spoken)


def test_a_judge_that_listens_is_not_deceived(spoken) -> None:
    assert measure._judge_deceived(bench(lambda waves: list(spoken)), FACTS) == [False, False]
