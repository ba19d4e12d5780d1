import numpy as np
import pytest

from mossrepro.data.sentences import _ASKING, _language_model, natural_sentence, random_sentence, vocabulary
from mossrepro.utils import random


def test_vocabulary_is_large_real_and_ranked():
    words = vocabulary()
    assert len(words) >= 5_000 and len(set(words)) == len(words)
    assert {"the", "to", "of", "and"} <= set(words[:20])
    assert words.index("water") < words.index("vegan")
    assert {"paris", "zorblax", "cant"}.isdisjoint(words)
    assert all(word.isalpha() and word.islower() for word in words)


def test_without_homophones_one_spelling_of_a_sound_is_left():
    words = set(vocabulary(homophones=False))
    assert 5_000 <= len(words) < len(vocabulary())
    for sounds_alike in (("to", "too", "two"), ("see", "sea"), ("red", "read")):
        assert sum(word in words for word in sounds_alike) <= 1
    assert "to" in words


@pytest.mark.parametrize("must", [(), ("lisbon", "four")])
def test_random_sentences_are_reproducible_and_obey(must):
    words = vocabulary()
    sentences = [random_sentence(random.rng(0, i), words, 3, 7, must) for i in range(200)]
    assert sentences == [random_sentence(random.rng(0, i), words, 3, 7, must) for i in range(200)]
    lengths = {len(sentence.split()) for sentence in sentences}
    assert lengths == {3, 4, 5, 6, 7}
    assert all(word in sentence.split() for sentence in sentences for word in must)
    drawn = {word for sentence in sentences for word in sentence.split()}
    assert len(drawn) > 300 and drawn <= {*words, *must}


def test_more_required_words_than_the_range_allows_are_all_kept():
    must = [f"word{i}" for i in range(9)]
    assert sorted(random_sentence(random.rng(0), ["a"], 2, 4, must).split()) == sorted(must)


def test_natural_sentences_are_reproducible_and_follow_the_trigrams():
    words = vocabulary(homophones=False)[:600]
    made = [natural_sentence(random.rng(0, i), words, 3, 7) for i in range(40)]
    assert made == [natural_sentence(random.rng(0, i), words, 3, 7) for i in range(40)]
    said = [text[:-1].lower().split() for text in made]
    assert {len(one) for one in said} <= set(range(3, 8)) and {word for one in said for word in one} <= set(words)
    assert all(text[0].isupper() for text in made)
    assert [text[-1] for text in made] == ["?" if one[0] in _ASKING else "." for one in said]
    table, base = _language_model()
    gain = []  # of a word given the two before it, beside a word given none
    for one in (["<s>", *words] for words in said):
        for i, word in enumerate(one[1:], 1):
            given = table.prob([word, *reversed(one[max(0, i - 2) : i])])
            gain.append(base.log_to_ln(given) - base.log_to_ln(table.prob([word])))
    assert np.mean(gain) > 1  # nats; in random order it is below 0
