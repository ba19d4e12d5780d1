"""Rooms decay by 60 dB in the time that they are asked for, and leave less direct sound at a distance."""

import numpy as np
import pytest

from mossrepro.data.rooms import room_response
from mossrepro.utils.random import rng

RATE = 16_000


def decay(response: np.ndarray) -> float:
    """Seconds to -60 dB, extrapolated from -5 to -25 dB of the energy that is left (Schroeder)."""
    left = np.cumsum(response[::-1] ** 2)[::-1]
    level = 10 * np.log10(left / left[0] + 1e-12)
    return 3 * (np.argmax(level < -25) - np.argmax(level < -5)) / RATE


@pytest.mark.parametrize("seconds", [0.3, 0.5, 0.9])
def test_reverberation_time(seconds):
    measured = [decay(room_response(rng(0, seed), seconds, 2.0)) for seed in range(6)]
    assert np.mean(measured) == pytest.approx(seconds, rel=0.15)


def test_the_direct_sound_comes_first_and_is_less_at_a_distance():
    def direct(distance: float) -> float:
        responses = [room_response(rng(1, seed), 0.5, distance) for seed in range(8)]
        assert all(one[0] >= 1 for one in responses)
        return float(np.mean([10 * np.log10(one[0] ** 2 / np.sum(one[1:] ** 2)) for one in responses]))

    near, middle, far = map(direct, (0.3, 1.0, 3.0))
    assert near > middle + 3 > far + 6


def test_reproducible_and_finite_in_the_smallest_room():
    one, again = (room_response(rng(2), 0.2, 10.0) for _ in range(2))
    assert np.array_equal(one, again) and np.isfinite(one).all() and len(one) == round(0.2 * RATE)
    assert len(room_response(rng(2), 0.01, 0.3)) == 160  # shorter than the early reflections
