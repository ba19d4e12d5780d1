import numpy as np
import pytest
import torch

from mossrepro.speech import sphinx, voices, whisper
from mossrepro.speech.normalise import PHONES, normalise, word_error_rate
from mossrepro.utils import audio

TEXTS = ("the capital of france is paris", "the weather will be cold tomorrow", "which day comes after monday")


@pytest.fixture(scope="module")
def waves():
    return [audio.resample(*voices.say(text, "assistant"), 16_000) for text in TEXTS]


@pytest.fixture(scope="module")
def judge():
    return whisper.WhisperJudge()


def test_whisper_hears_the_assistant_and_neighbours_do_not_matter(judge, waves):
    together = judge.transcribe(waves)
    assert word_error_rate(TEXTS, together) <= 0.1
    assert judge.transcribe(waves[:1]) == together[:1]
    assert judge.transcribe([]) == []


def test_whisper_hears_more_than_thirty_seconds(judge, waves):
    long = np.concatenate([waves[0], np.zeros(30 * 16_000, np.float32), waves[1]])
    text = normalise(judge.transcribe([long])[0])
    assert "paris" in text and "tomorrow" in text


def test_whisper_encoder_state_has_the_documented_shapes():
    state = whisper.whisper_encoder_state()
    assert state["conv1.weight"].shape == (512, 80, 3) and state["positional"].shape == (1500, 512)
    assert state["layers.5.mlp_in.weight"].shape == (2048, 512)
    assert all(tensor.dtype == torch.float32 for tensor in state.values())
    assert not state["layers.0.attention.k.bias"].any() and state["layers.0.attention.v.bias"].any()
    assert sum(tensor.numel() for tensor in state.values()) == 20_593_664


def test_sphinx_chooses_from_a_list_and_rejects_noise(waves):
    judge = sphinx.SphinxJudge()
    sentences = ["The capital of France is Paris.", "The weather will be cold tomorrow!", "Seven and 4 is eleven."]
    assert judge.closed(waves[0], sentences) == sentences[0]
    assert judge.closed(waves[1], sentences) == sentences[1]
    noise = np.random.default_rng(0).normal(0, 0.05, 32_000).astype(np.float32)
    assert judge.closed(noise, sentences) is None


def test_sphinx_transcribes_freely(waves):
    assert "day comes after monday" in sphinx.SphinxJudge().free(waves[2])


def test_alignment_finds_every_word_in_order(waves):
    spans = sphinx.align(waves[0], TEXTS[0])
    assert [word for word, _, _ in spans] == TEXTS[0].split()
    assert all(start < end for _, start, end in spans)
    assert all(a[2] <= b[1] + 0.011 for a, b in zip(spans, spans[1:], strict=False))
    assert spans[-1][2] <= len(waves[0]) / 16_000 + 0.02
    # The silence in front moves all words by its length.
    later = sphinx.align(np.concatenate([np.zeros(8_000, np.float32), waves[0]]), TEXTS[0])
    assert later[3][1] - spans[3][1] == pytest.approx(0.5, abs=0.1)


def test_words_missing_from_the_dictionary_are_aligned():
    wave = audio.resample(*voices.say("the zorblax is green", "assistant"), 16_000)
    assert [word for word, _, _ in sphinx.align(wave, "The zorblax is green.")] == ["the", "zorblax", "is", "green"]
    assert sphinx.align(wave, "") == []


def test_words_are_pronounced_as_the_synthesisers_do_and_by_the_dictionary():
    ways = sphinx.pronunciations(["read", "zorblax", "qatar", "bird", "water"])
    assert sorted(ways["read"]) == [["R", "EH", "D"], ["R", "IY", "D"]]  # they say it in one of these ways
    assert ways["zorblax"][0][:3] == ["Z", "AO", "R"] and set(ways["zorblax"][0]) <= set(PHONES)
    assert ways["qatar"] == [["K", "AA", "T", "AA", "R"], ["K", "AH", "T", "AA", "R"]]
    assert ways["bird"] == [["B", "ER", "D"]] and ways["water"] == [["W", "AO", "T", "ER"]]


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("3+4 is 7", "three plus four is seven"),
        ("It’s 10 - 3 = 7!", "it is ten minus three equals seven"),
        ("In 1969, isn't it?", "in nineteen sixty nine is not it"),
        ("one hundred and five", "one hundred five"),
        ("bread and butter", "bread and butter"),
        ("12,345.6", "twelve thousand three hundred forty five point six"),
        ("the 21st, 30th and 2nd", "the twenty first thirtieth and second"),
        ("Café colour", "cafe color"),
        ("2005", "two thousand five"),
        ("007", "zero zero seven"),
        ("It was 1980s…", "it was nineteen eighties"),
        ("6s and the 80s", "sixes and the eighties"),
        ("5kg or 3.5kg", "five kg or three point five kg"),
        ("2:45pm, CO2 in 3D", "two forty five pm co two in three d"),
        ("1,2345", "one two thousand three hundred forty five"),
        ("9" * 5_000, "nine " * 4_999 + "nine"),
        ("", ""),
    ],
)
def test_normalise(written, spoken):
    assert normalise(written) == spoken
    assert normalise(spoken) == spoken


def test_word_error_rate_counts_words_after_normalising():
    assert word_error_rate(["Seven."], ["7"]) == 0.0
    assert word_error_rate(["one two three four"], ["one two four"]) == 0.25
