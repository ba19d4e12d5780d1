"""Exercises say what they are: open, right or not yet; none stops the notebook."""

import pytest

from mossrepro.utils import exercises


@pytest.mark.parametrize("value", [0.0, 1.75, -3.0, 1e-4, 131_018_211_328, 1 / 3])
def test_an_encoded_answer_is_the_number(value):
    assert exercises.decode(exercises.encode(value)) == value
    assert f"{value:g}" not in exercises.encode(value)


@pytest.mark.parametrize(
    ("mine", "said"), [(None, "open"), (200, "right"), (200.9, "right"), (201.1, "not yet"), (-200, "not yet")]
)
def test_a_number_counts_within_half_a_percent(mine, said, capsys):
    exercises.compute(3, mine, exercises.encode(200.0))
    assert capsys.readouterr().out == f"exercise 3: {said}\n"


def test_an_outcome_is_shown_to_those_who_predicted(capsys):
    for mine in (None, "rise", "fall"):
        exercises.predict(1, mine, "fall")
    unsaid, wrong, right = capsys.readouterr().out.splitlines()
    assert unsaid.startswith("exercise 1: open") and "fall" not in unsaid
    assert wrong.startswith("exercise 1: it is fall, you said rise")
    assert right == "exercise 1: right, fall"


def test_a_function_is_open_right_or_not_yet(capsys):
    def open_still() -> bool:
        raise NotImplementedError

    for holds in (open_still, lambda: True, lambda: False, lambda: 1 / 0):
        exercises.implement(2, holds)
    said = [line.removeprefix("exercise 2: ") for line in capsys.readouterr().out.splitlines()]
    assert said[:2] == ["open", "right"] and all(line.startswith("not yet") for line in said[2:])
    assert "ZeroDivisionError" in said[3]
