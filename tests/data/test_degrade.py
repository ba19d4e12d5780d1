"""Every change does what its name says, and twice the same."""

import numpy as np
import pytest

from mossrepro.data.degrade import CONDITIONS, add_noise, change_speed, reverberate, roughen, telephone
from mossrepro.utils.random import rng

RATE = 16_000
TIME = np.arange(RATE) / RATE


def tone(hertz: float) -> np.ndarray:
    return (0.3 * np.sin(2 * np.pi * hertz * TIME)).astype(np.float32)


@pytest.mark.parametrize("name", CONDITIONS)
def test_it_changes_the_sound_reproducibly_and_never_clips(name) -> None:
    wave = 3.0 * tone(440)
    one, other = (CONDITIONS[name](wave, rng(0, name)) for _ in range(2))
    assert np.array_equal(one, other) and one.dtype == np.float32 and np.abs(one).max() <= 1
    if "speed" not in name:
        assert len(one) == len(wave) and not np.allclose(one, wave, atol=1e-3)
    CONDITIONS[name](np.zeros(RATE, np.float32), rng(0, name))  # silence breaks nothing


@pytest.mark.parametrize("decibels", [20, 5])
def test_noise_has_the_power_it_says(decibels) -> None:
    wave = tone(440)
    noise = add_noise(wave, rng(1), decibels) - wave
    assert 10 * np.log10(np.mean(wave**2) / np.mean(noise**2)) == pytest.approx(decibels, abs=0.1)
    power = np.abs(np.fft.rfft(noise)) ** 2
    assert power[50:100].mean() > 5 * power[4000:].mean()  # pink
    assert power[:49].sum() < 1e-6 * power.sum()  # nothing that nobody hears


def test_a_telephone_passes_voices_and_neither_hum_nor_hiss() -> None:
    kept = [np.std(telephone(tone(hertz), rng(0))[2000:]) / np.std(tone(hertz)) for hertz in (60, 1000, 3900, 6000)]
    for gain in (1.0, 0.1):  # eight bits after a law that keeps the noise in proportion: about 38 dB below
        loud = telephone(np.concatenate([tone(1013), gain * tone(1013)]), rng(0))[RATE:]
        power = np.abs(np.fft.rfft(loud * np.hanning(RATE))) ** 2
        beside = (power[300:1000].sum() + power[1030:3400].sum()) / power[1000:1030].sum()
        assert 25 < -10 * np.log10(beside) < 45
    assert kept[0] < 0.1 and kept[1] > 0.9 and kept[2] < 0.5 and kept[3] < 0.01


def test_a_room_goes_on_after_the_sound() -> None:
    click = np.zeros(RATE, np.float32)
    click[0] = 0.5
    heard = reverberate(click, rng(0))
    early, late, end = (np.mean(heard[a:b] ** 2) for a, b in ((100, 1000), (4000, 5000), (9000, RATE)))
    assert heard[0] > 0.3 and early > 10 * late > 0 and end < 1e-4 * early


def test_speed_moves_length_and_pitch() -> None:
    fast = change_speed(tone(500), rng(0), 1.1)
    assert len(fast) == pytest.approx(RATE / 1.1, abs=2)
    assert np.argmax(np.abs(np.fft.rfft(fast))) * RATE / len(fast) == pytest.approx(550, abs=2)


def test_a_rough_recording_is_one_of_three_kinds_and_keeps_its_length() -> None:
    wave = tone(440)
    rough = [roughen(wave, rng(2, i)) for i in range(12)]
    assert all(len(one) == len(wave) and np.abs(one).max() <= 1 for one in rough)
    assert len({one.tobytes() for one in rough}) > 8
    kinds = set()
    for one in rough:
        power = np.abs(np.fft.rfft(one)) ** 2
        kinds.add("telephone" if power[4200:].sum() < 1e-6 * power.sum() else "noise" if abs(one[0]) > 1e-4 else "room")
    assert kinds == {"telephone", "noise", "room"}
    assert np.array_equal(roughen(wave, rng(2, 0)), rough[0])
