"""Every change does what its name says, and twice the same."""

from functools import partial

import numpy as np
import pytest

from mossrepro.data.degrade import (
    CONDITIONS,
    FORMATS,
    Roughness,
    add_noise,
    change_speed,
    degrade,
    lossy,
    mobile,
    overload,
    reverberate,
    room,
    telephone,
)
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


def test_a_room_is_as_loud_as_the_dry_voice_and_goes_on() -> None:
    wave = tone(440) * (TIME < 0.5)
    wet = room(wave, rng(0), 0.5, 1.0)
    assert np.std(wet) == pytest.approx(np.std(wave), rel=0.01)
    after = np.mean(wet[8200:9000] ** 2)
    assert after > 20 * np.mean(wet[-800:] ** 2) > 0 and np.mean(wave[8200:] ** 2) == 0


@pytest.mark.parametrize("change", [mobile, *(partial(lossy, kind=kind) for kind in FORMATS)])
def test_coded_speech_keeps_its_place_level_and_band(change) -> None:
    """A click train through a codec: no shift, about the same level, and not the same samples."""
    wave = sum(tone(hertz) for hertz in (300, 700, 1500)) / 3 * np.where(TIME % 0.25 < 0.1, 1, 0).astype(np.float32)
    coded = change(wave, rng(0))
    assert len(coded) == len(wave) and not np.array_equal(coded, wave)
    assert np.std(coded) == pytest.approx(np.std(wave), rel=0.15)
    shifts = [np.dot(wave[4000:12000], np.roll(coded, -k)[4000:12000]) for k in range(-40, 41)]
    assert abs(int(np.argmax(shifts)) - 40) <= 2
    if change is mobile:
        power = np.abs(np.fft.rfft(coded)) ** 2
        assert power[4100:].sum() < 1e-3 * power.sum()


def test_an_overloaded_microphone_is_flat_at_the_peak() -> None:
    loud = overload(tone(440), 3.0)
    assert np.abs(loud).max() == pytest.approx(0.3, rel=1e-3) and (np.abs(loud) > 0.2999).mean() > 0.5


ONLY = {"noise": 0.0, "room": 0.0, "telephone": 0.0, "lossy": 0.0, "clipping": 0.0}


@pytest.mark.parametrize("kind", ONLY)
def test_each_kind_of_loss_can_be_turned_on_alone(kind) -> None:
    wave = tone(440) * np.where(TIME < 0.6, 1, 0).astype(np.float32)
    alone = Roughness(**{**ONLY, kind: 1.0})
    rough = [degrade(wave, rng(2, i), alone) for i in range(4)]
    assert all(len(one) == len(wave) and np.abs(one).max() <= 1 and not np.array_equal(one, wave) for one in rough)
    quiet = [np.mean(one[11000:] ** 2) for one in rough]
    assert all(level > 1e-9 for level in quiet) if kind in ("noise", "room") else all(level < 3e-3 for level in quiet)


def test_a_degraded_clip_is_a_function_of_clip_and_seed_and_never_unchanged() -> None:
    wave, nothing = tone(440), Roughness(**ONLY)
    rough = [degrade(wave, rng(2, i)) for i in range(20)]
    assert all(np.array_equal(one, degrade(wave, rng(2, i))) for i, one in enumerate(rough))
    assert len({one.tobytes() for one in rough}) >= 15  # two telephone calls may be equal
    assert not np.array_equal(degrade(wave, rng(1), nothing), wave)  # at least noise


def test_babble_comes_from_other_clips() -> None:
    """Another voice, here a tone, is heard behind some of the clips, and never where there is none."""
    only = Roughness(**{**ONLY, "noise": 1.0}, noise_db=(0.0, 0.0))

    def peaks(others: list) -> int:
        found = [np.abs(np.fft.rfft(degrade(tone(440), rng(5, i), only, others))) for i in range(20)]
        return sum(power[2500] ** 2 > 0.1 * np.sum(power**2) for power in found)

    assert peaks([]) == 0 < peaks([tone(2500)]) < 20


def test_silence_stays_finite() -> None:
    for i in range(12):
        assert np.isfinite(degrade(np.zeros(RATE, np.float32), rng(3, i), others=[np.zeros(100, np.float32)])).all()
