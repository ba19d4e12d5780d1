"""The probe finds what lies open, and nothing where there is nothing."""

import numpy as np
import pytest

from mossrepro.evaluation import prosody

RANDOM = np.random.default_rng(0)


def clips(count: int, known: bool) -> tuple[list, list]:
    frames = [RANDOM.standard_normal((30, 6)) for _ in range(count)]
    return frames, [f[:, 0] * 2 + 5 if known else RANDOM.standard_normal(30) for f in frames]


@pytest.mark.parametrize(("known", "low", "high"), [(True, 0.95, 1.0), (False, -0.5, 0.1)])
def test_a_probe_reads_what_is_linear_and_invents_nothing(known, low, high) -> None:
    frames, targets = clips(40, known)
    targets[0][3] = np.nan  # an unvoiced code
    assert low < prosody.explained(frames, targets, [i >= 30 for i in range(40)]) < high


def test_the_scale_of_the_vectors_does_not_matter() -> None:
    frames, targets = clips(12, True)
    held_out = [i >= 8 for i in range(12)]
    small = prosody.explained([0.01 * f for f in frames], targets, held_out)
    assert small == pytest.approx(prosody.explained(frames, targets, held_out)) and small > 0.9


def test_nothing_is_learnt_from_the_test_clips() -> None:
    wide = [RANDOM.standard_normal((30, 40)) for _ in range(4)]  # 200 features, 60 rows to be fitted on
    noise = [RANDOM.standard_normal(30) for _ in wide]
    assert prosody.explained(wide, noise, [False, False, True, True]) < 0.0


def test_what_a_neighbour_knows_counts_too() -> None:
    frames, _ = clips(40, True)
    later = [np.roll(f[:, 1], 2) for f in frames]
    assert prosody.explained(frames, later, [i >= 30 for i in range(40)]) > 0.8
    assert prosody.beside(frames[0]).shape == (30, 30)
    assert np.array_equal(prosody.beside(frames[0])[:, 12:18], frames[0])


def test_pitch_and_energy_of_a_tone() -> None:
    time = np.arange(16_000) / 16_000
    wave = np.concatenate([0.2 * np.sin(2 * np.pi * 200 * time), 0.4 * np.sin(2 * np.pi * 300 * time)])
    wave = np.concatenate([wave, np.zeros(8_000)]).astype(np.float32)
    found = prosody.measure(wave, 32)
    assert np.exp(found.pitch[3]) == pytest.approx(200, rel=0.02)
    assert np.exp(found.pitch[20]) == pytest.approx(300, rel=0.02)
    assert found.energy[20] - found.energy[3] == pytest.approx(2 * np.log(2), abs=0.1)
    assert np.isnan(found.pitch[-2]) and np.isnan(found.energy[-2])


def test_speakers_are_centred_on_themselves() -> None:
    rows = [np.array([1.0, 3.0]), np.array([10.0, np.nan]), np.array([2.0])]
    one, two, three = prosody.centred(rows, ["a", "b", "a"])
    assert one.tolist() == [-1, 1] and two[0] == 0 and three.tolist() == [0]
