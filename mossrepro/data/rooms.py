"""Impulse responses of rooms: image sources in a shoebox (Allen and Berkley, JASA 65, 1979) and a diffuse tail."""

import numpy as np

from mossrepro.utils.audio import SAMPLE_RATE

SOUND = 343.0  # m/s
_ORDER = 3  # reflections along each axis that are computed one by one
_MIXING = 0.05  # seconds; later reflections are so dense that noise is the same to an ear


def room_response(random: np.random.Generator, seconds: float, distance: float) -> np.ndarray:
    """Impulse response (n,) at 16 kHz of a random room, the direct sound first and with weight 1.

    seconds: reverberation time, in which the energy falls by 60 dB. distance: from mouth to microphone, m.
    A longer distance leaves less direct sound beside the same reflections.
    """
    size = random.uniform((2.5, 2.5, 2.2), (8.0, 6.0, 3.5))  # m
    distance = min(distance, 0.8 * float(size.min()))
    ear = random.uniform(0.3 * size, 0.7 * size)
    mouth = np.clip(ear + _direction(random) * distance, 0.05 * size, 0.95 * size)
    delays, gains = _images(size, mouth, ear, _reflection(size, seconds))
    direct = delays.min()
    at = np.round((delays - direct) * SAMPLE_RATE).astype(int)
    gains = gains / gains[delays.argmin()]
    length = max(int(seconds * SAMPLE_RATE), 1)
    response = np.zeros(length)
    early = at < min(length, int(_MIXING * SAMPLE_RATE))
    np.add.at(response, at[early], gains[early])
    return response + _tail(random, response, seconds)


def _tail(random: np.random.Generator, early: np.ndarray, seconds: float) -> np.ndarray:
    """Noise after the early reflections that falls by 60 dB in `seconds`, as loud at its start as their last part."""
    start = int(_MIXING * SAMPLE_RATE)
    if len(early) <= start:
        return np.zeros_like(early)
    decay = 10.0 ** (-3.0 * np.arange(len(early)) / (seconds * SAMPLE_RATE))
    level = np.sqrt(np.mean(np.square(early[start // 2 : start] / decay[start // 2 : start])))
    return np.where(np.arange(len(early)) >= start, level * decay * random.standard_normal(len(early)), 0.0)


def _images(size: np.ndarray, mouth: np.ndarray, ear: np.ndarray, beta: float) -> tuple[np.ndarray, np.ndarray]:
    """Delay in seconds and gain of the source and its mirror images in the six walls."""
    n = np.arange(-_ORDER, _ORDER + 1)
    # Along one axis the images lie at 2 n L + s and 2 n L - s, after |2 n| and |2 n - 1| reflections.
    axes = [np.concatenate([2 * n * a + s, 2 * n * a - s]) - e for a, s, e in zip(size, mouth, ear, strict=True)]
    bounces = np.concatenate([np.abs(2 * n), np.abs(2 * n - 1)])
    x, y, z = np.meshgrid(*axes, indexing="ij")
    path = np.maximum(np.sqrt(x**2 + y**2 + z**2), 0.05).ravel()
    count = (bounces[:, None, None] + bounces[None, :, None] + bounces[None, None, :]).ravel()
    return path / SOUND, beta**count / path


def _reflection(size: np.ndarray, seconds: float) -> float:
    """The walls' reflection coefficient by Sabine's formula: seconds = 0.161 volume / absorbing surface."""
    a, b, c = size
    absorbed = 0.161 * a * b * c / (2 * (a * b + b * c + a * c) * seconds)
    return float(np.sqrt(1 - min(absorbed, 0.95)))


def _direction(random: np.random.Generator) -> np.ndarray:
    """A random unit vector."""
    way = random.standard_normal(3)
    return way / np.linalg.norm(way)
