"""Noises to be added to speech: every function gives `length` samples at 16 kHz, of unit power, from a generator."""

from collections.abc import Callable, Sequence

import numpy as np

from mossrepro.utils.audio import SAMPLE_RATE

RUMBLE = 50.0  # Hz; below it pink noise would have half of its power, inaudible to people and codecs
Noise = Callable[[int, np.random.Generator], np.ndarray]


def white(length: int, random: np.random.Generator) -> np.ndarray:
    """Equal power at all frequencies."""
    return unit(random.standard_normal(length))


def pink(length: int, random: np.random.Generator) -> np.ndarray:
    """Power falls as 1 / frequency, from RUMBLE on."""
    spectrum, hertz = np.fft.rfft(random.standard_normal(length)), np.fft.rfftfreq(length, 1 / SAMPLE_RATE)
    return unit(np.fft.irfft(spectrum * np.where(hertz < RUMBLE, 0.0, np.maximum(hertz, RUMBLE) ** -0.5), length))


def hum(length: int, random: np.random.Generator) -> np.ndarray:
    """The mains, 50 or 60 Hz, with eight harmonics of random strength and phase."""
    base, time = (50.0, 60.0)[int(random.integers(2))], np.arange(length) / SAMPLE_RATE
    strength, phase = random.uniform(0.1, 1.0, 8), random.uniform(0.0, 2 * np.pi, 8)
    parts = [
        s * np.sin(2 * np.pi * base * k * time + p) for k, (s, p) in enumerate(zip(strength, phase, strict=True), 1)
    ]
    return unit(np.sum(parts, axis=0))


def clicks(length: int, random: np.random.Generator) -> np.ndarray:
    """Keys and knocks: about six a second, each a noise burst that decays within 1 to 20 ms."""
    out = np.zeros(length)
    for start in random.integers(max(length, 1), size=1 + random.poisson(6.0 * length / SAMPLE_RATE)):
        decay = random.uniform(0.001, 0.02) * SAMPLE_RATE
        burst = random.standard_normal(int(5 * decay)) * np.exp(-np.arange(int(5 * decay)) / decay)
        out[start : start + len(burst)] += random.uniform(0.2, 1.0) * burst[: length - start]
    return unit(out)


def babble(length: int, random: np.random.Generator, voices: Sequence[np.ndarray]) -> np.ndarray:
    """Several people at once: `voices` (n,) each, repeated from a random place and added with equal power."""
    parts = [np.resize(np.roll(voice, int(random.integers(max(len(voice), 1)))), length) for voice in voices]
    return unit(np.sum([unit(part) for part in parts], axis=0))


def unit(wave: np.ndarray) -> np.ndarray:
    """A wave scaled to unit mean power; silence stays."""
    return wave / max(float(np.sqrt(np.mean(np.square(wave)))) if len(wave) else 0.0, 1e-9)


NOISES: dict[str, Noise] = {"white": white, "pink": pink, "hum": hum, "clicks": clicks}
