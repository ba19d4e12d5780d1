"""Predicted opinion scores tell speech from what is none."""

import numpy as np

from mossrepro.evaluation import artifacts
from mossrepro.speech import voices
from mossrepro.speech.mos import predicted_mos
from mossrepro.training import metrics
from mossrepro.utils import audio


def test_speech_sounds_better_than_the_same_speech_in_noise() -> None:
    wave = audio.resample(*voices.say("the weather will be cold and windy tomorrow"), 16_000)
    noisy = wave + 0.1 * np.random.default_rng(0).standard_normal(len(wave)).astype(np.float32)
    clean, spoilt = predicted_mos([wave, noisy])
    assert 3.5 < clean <= 5.0 and 1.0 <= spoilt < clean - 1.0


def test_no_recordings_no_scores() -> None:
    assert predicted_mos([]) == []


def test_one_recording_has_no_interval(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(artifacts, "predicted_mos", lambda waves, device: [2.0, 4.0][: len(waves)])
    bench = artifacts.RunArtifacts({"backbone": "smollm2"}, tmp_path)
    for n in (0, 1, 2):
        bench.mos(f"mos{n}", "a title", [np.zeros(9)] * n)
    found = metrics.read_metrics(tmp_path)
    assert set(found) == {"mos1", "mos2"} and found["mos1"].low is None
    assert found["mos2"].value == 3.0 and found["mos2"].low < 2.0 < 4.0 < found["mos2"].high
