import numpy as np

from mossrepro.utils.random import rng, seed_for


def test_same_stream_same_numbers_and_other_streams_differ():
    a = rng(1, 2, "noise").random(8)
    assert np.array_equal(a, rng(1, 2, "noise").random(8))
    for other in (rng(2, 2, "noise"), rng(1, 3, "noise"), rng(1, 2, "choice"), rng(1, "2", "noise"), rng(1, 2)):
        assert not np.array_equal(a, other.random(8))


def test_counters_do_not_run_into_each_other():
    assert rng(1, 23).random() != rng(12, 3).random()


def test_numbers_are_fixed_for_ever():
    """A change here would silently change every data set and every run."""
    assert rng(0, 1, "noise").integers(0, 1000, 4).tolist() == GOLDEN
    assert seed_for(0, "step", 7) == GOLDEN_SEED


def test_numpy_counters_equal_python_ones():
    assert rng(0, np.int64(5)).random() == rng(0, 5).random()


def test_seed_fits_a_signed_64_bit_integer():
    assert all(0 <= seed_for(s, "x") < 2**63 for s in range(200))


GOLDEN = [993, 770, 100, 385]
GOLDEN_SEED = 5401461499160216907
