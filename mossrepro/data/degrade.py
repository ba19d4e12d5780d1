"""Reproducible degradations of a recording: noise, telephone, reverberation, speed."""

from collections.abc import Callable
from functools import partial

import numpy as np
import soxr
from scipy.signal import butter, fftconvolve, sosfilt

from mossrepro.utils.audio import SAMPLE_RATE, resample

Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]
_TELEPHONE = 8_000  # Hz
_RUMBLE = 50.0  # Hz; below it pink noise would have half of its power, inaudible to people and codecs


def add_noise(wave: np.ndarray, random: np.random.Generator, decibels: float) -> np.ndarray:
    """Add pink noise (power falls with frequency) from 50 Hz on, `decibels` below the wave's mean power."""
    spectrum, hertz = np.fft.rfft(random.standard_normal(len(wave))), np.fft.rfftfreq(len(wave), 1 / SAMPLE_RATE)
    spectrum *= np.where(hertz < _RUMBLE, 0.0, 1 / np.sqrt(np.maximum(hertz, _RUMBLE)))
    noise = np.fft.irfft(spectrum, len(wave))
    gain = np.sqrt(np.mean(np.square(wave)) / max(np.mean(np.square(noise)), 1e-12)) * 10.0 ** (-decibels / 20.0)
    return _fit(wave + gain * noise)


def telephone(wave: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """300 to 3,400 Hz at 8 kHz, 8 bits by the mu-law of G.711 (mu = 255). `random` is not used."""
    narrow = resample(wave, SAMPLE_RATE, _TELEPHONE)
    narrow = sosfilt(butter(4, (300.0, 3_400.0), "bandpass", fs=_TELEPHONE, output="sos"), narrow)
    peak = max(float(np.abs(narrow).max(initial=0.0)), 1e-9)
    bent = np.sign(narrow) * np.log1p(255 * np.abs(narrow) / peak) / np.log(256)
    bent = np.round(bent * 127) / 127
    flat = peak * np.sign(bent) * np.expm1(np.abs(bent) * np.log(256)) / 255
    return _fit(resample(flat, _TELEPHONE, SAMPLE_RATE), len(wave))


def reverberate(wave: np.ndarray, random: np.random.Generator, seconds: float = 0.5) -> np.ndarray:
    """A room: a tail of noise that decays by 60 dB in `seconds` and has as much power as the direct sound."""
    time = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    tail = random.standard_normal(len(time)) * 10.0 ** (-3.0 * time / seconds)
    tail[: SAMPLE_RATE // 200] = 0.0  # no reflection in the first 5 ms
    response = tail / np.sqrt(np.sum(np.square(tail)))
    response[0] = 1.0
    return _fit(fftconvolve(wave, response)[: len(wave)])


def change_speed(wave: np.ndarray, random: np.random.Generator, factor: float) -> np.ndarray:
    """Play `factor` times as fast, with higher pitch. `random` is not used."""
    return _fit(soxr.resample(np.asarray(wave, np.float32), factor, 1.0))


def _fit(wave: np.ndarray, length: int | None = None) -> np.ndarray:
    """As float32, scaled down if it would clip, cut or padded to `length`."""
    wave = wave / max(1.0, float(np.abs(wave).max(initial=0.0)))
    if length is not None:
        wave = np.pad(wave, (0, max(0, length - len(wave))))[:length]
    return wave.astype(np.float32)


CONDITIONS: dict[str, Change] = {
    "noise at 20 dB": partial(add_noise, decibels=20.0),
    "noise at 10 dB": partial(add_noise, decibels=10.0),
    "noise at 5 dB": partial(add_noise, decibels=5.0),
    "telephone band": telephone,
    "reverberation, 0.5 s": reverberate,
    "speed 0.9": partial(change_speed, factor=0.9),
    "speed 1.1": partial(change_speed, factor=1.1),
}


def roughen(wave: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """One of noise at 5 to 25 dB, a room of 0.2 to 0.7 s, or a telephone, for training: (n,) -> (n,)."""
    kind = int(random.integers(3))
    if kind == 0:
        return add_noise(wave, random, float(random.uniform(5.0, 25.0)))
    if kind == 1:
        return reverberate(wave, random, float(random.uniform(0.2, 0.7)))
    return telephone(wave, random)
