"""The speaker encoder tells voices apart, whatever they say."""

import numpy as np
import pytest

from mossrepro.speech import voices
from mossrepro.speech.speaker import SpeakerEncoder, similarity
from mossrepro.utils import audio

TEXTS = ("The garden is full of green birds and old trees.", "Nobody had seen the captain since the second winter.")


@pytest.fixture(scope="module")
def encoder() -> SpeakerEncoder:
    return SpeakerEncoder.pretrained()


def said(text: str, voice: str) -> np.ndarray:
    return audio.resample(*voices.say(text, voice), 16_000)


def test_the_same_voice_is_alike_and_another_is_not(encoder) -> None:
    mine = [said(text, "assistant") for text in TEXTS]
    other = said(TEXTS[1], "kokoro-kumo")
    same, different = similarity(encoder, [mine[0], mine[0]], [mine[1], other])
    assert same > 0.8 > 0.75 > different


def test_loudness_and_length_do_not_matter(encoder) -> None:
    wave = said(TEXTS[0], "assistant")
    voice = encoder.embed(wave)
    assert np.linalg.norm(voice) == pytest.approx(1, abs=1e-5)
    assert encoder.embed(0.01 * wave) @ voice > 0.99
    assert np.isfinite(encoder.embed(wave[:3000])).all() and np.isfinite(encoder.embed(np.zeros(10, np.float32))).all()
