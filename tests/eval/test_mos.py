"""Predicted opinion scores tell speech from what is none."""

import numpy as np

from mossrepro import audio, voices
from mossrepro.eval.mos import predicted_mos


def test_speech_sounds_better_than_the_same_speech_in_noise() -> None:
    wave = audio.resample(*voices.say("the weather will be cold and windy tomorrow"), 16_000)
    noisy = wave + 0.1 * np.random.default_rng(0).standard_normal(len(wave)).astype(np.float32)
    clean, spoilt = predicted_mos([wave, noisy])
    assert 3.5 < clean <= 5.0 and 1.0 <= spoilt < clean - 1.0


def test_no_recordings_no_scores() -> None:
    assert predicted_mos([]) == []
