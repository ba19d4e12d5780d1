"""Every noise has unit power and the spectrum or rhythm that its name says; silence breaks nothing."""

import numpy as np
import pytest

from mossrepro.data.noise import NOISES, babble, unit
from mossrepro.utils.random import rng

RATE = 16_000


def spectrum(noise: np.ndarray) -> np.ndarray:
    return np.abs(np.fft.rfft(noise)) ** 2  # a bin is 1 Hz for a second of noise


@pytest.mark.parametrize("name", NOISES)
def test_unit_power_and_reproducible(name):
    one, again, other = (NOISES[name](RATE, rng(seed)) for seed in (0, 0, 1))
    assert np.mean(one**2) == pytest.approx(1) and np.array_equal(one, again) and not np.array_equal(one, other)
    assert len(NOISES[name](7, rng(0))) == 7


def test_colours():
    white, pink = (spectrum(NOISES[name](RATE, rng(0))) for name in ("white", "pink"))
    assert white[100:1000].mean() == pytest.approx(white[5000:8000].mean(), rel=0.2)
    assert pink[100:200].mean() == pytest.approx(10 * pink[1000:2000].mean(), rel=0.3)  # falls as 1 / frequency


def test_hum_is_harmonics_of_the_mains():
    found = set()
    for seed in range(6):
        power = spectrum(NOISES["hum"](RATE, rng(seed)))
        base = 50 if power[50] > power[60] else 60
        assert power[[base * k for k in range(1, 9)]].sum() > 0.999 * power.sum()
        found.add(base)
    assert found == {50, 60}


def test_clicks_are_short():
    loud = np.abs(NOISES["clicks"](4 * RATE, rng(0)))
    assert (loud > 0.1 * loud.max()).mean() < 0.1 and loud.max() > 5


def test_babble_adds_voices_with_equal_power():
    time = np.arange(RATE) / RATE
    quiet, loud = 0.01 * np.sin(2 * np.pi * 300 * time), np.sin(2 * np.pi * 700 * time)
    power = spectrum(babble(RATE, rng(0), [quiet, loud]))
    assert power[300] == pytest.approx(power[700], rel=0.01)
    assert len(babble(3 * RATE, rng(0), [quiet[:100]])) == 3 * RATE and not unit(np.zeros(4)).any()
