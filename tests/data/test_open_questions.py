"""Open questions: as many as are asked for, the same everywhere; those of the tests share nothing with the others."""

import re

import pytest

from mossrepro.data.open_questions import open_questions


def test_questions_are_different_and_the_same_every_time():
    found = open_questions(600)
    assert len(set(found)) == 600 and found == open_questions(600) and found[:50] == open_questions(50)
    assert found != open_questions(600, seed=1)
    assert all(re.fullmatch(r"[A-Z][A-Za-z ,.']*[.?]", text) for text in found)
    assert not any(re.search(r"\ba [aeio]", text) for text in found)


def test_those_of_the_tests_have_other_words_and_templates():
    train, test = open_questions(900), open_questions(100, "any")
    assert not set(train) & set(test)
    assert not any(re.search(r"\b(guitar|robot|Norway)\b", text) for text in train)
    with pytest.raises(ValueError, match="make"):
        open_questions(3_000, "any")
