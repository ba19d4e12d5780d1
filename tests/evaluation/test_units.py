"""Purity and mutual information on tables whose answer is known."""

import numpy as np
import pytest

from mossrepro.evaluation.units import contingency, describe, spread


def test_a_code_meets_the_four_phones_of_its_80_milliseconds() -> None:
    phones = np.array([1, 1, 2, 2, 0, 0, 0, -100, 3, 3])  # the last code is cut short
    counts = contingency([(np.array([5, 5, 7]), phones), (np.array([7]), np.array([1, 1, 1, 1]))], 8, 4)
    assert counts[5].tolist() == [3, 2, 2, 0] and counts[7].tolist() == [0, 4, 0, 2] and counts.sum() == 13


def test_codes_that_are_phones_tell_everything() -> None:
    perfect = describe(np.diag([4, 2, 2]))
    assert (perfect.phone_purity, perfect.pnmi, perfect.used) == (1, pytest.approx(1), 1)
    assert perfect.perplexity == pytest.approx(np.exp(-(0.5 * np.log(0.5) + 0.5 * np.log(0.25))))


def test_codes_that_do_not_know_the_phone_tell_nothing() -> None:
    blind = describe(np.array([[6, 2], [3, 1], [0, 0], [0, 0]]))
    assert blind.pnmi == pytest.approx(0) and blind.phone_purity == 0.75 and blind.used == 0.5


def test_twice_as_many_codes_keep_the_information() -> None:
    one, two = describe(np.diag([4, 4])), describe(np.array([[2, 0], [2, 0], [0, 2], [0, 2]]))
    assert one.pnmi == pytest.approx(two.pnmi) and two.phone_purity == 1
    assert describe(np.array([[3], [1]])).pnmi == 1.0  # one phone has nothing to tell


def test_voices_spread_by_what_differs_and_not_by_how_long_a_sound_lasts() -> None:
    slow, fast, other = np.array([4, 4, 4, 7, 7, 9, 9]), np.array([4, 7, 9]), np.array([1, 2, 3])
    assert spread(["a", "a", "b"], [slow, fast, other]) == (0.0, 1.0)
    assert spread(["a", "a", "b"], [slow, np.array([4, 7, 8]), other])[0] == pytest.approx(1 / 3)
