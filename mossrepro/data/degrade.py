"""Reproducible degradations of a recording, (wave, generator) -> wave, and `degrade`, which composes them.

A microphone hears a voice in a room, with other sounds, and passes it on: `degrade` keeps this order.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import soundfile
import soxr
from scipy.signal import butter, fftconvolve, sosfilt

from mossrepro.data.noise import NOISES, Noise, babble, pink
from mossrepro.data.rooms import room_response
from mossrepro.utils.audio import SAMPLE_RATE, resample

FORMATS = {"mp3": ("MP3", "MPEG_LAYER_III"), "ogg": ("OGG", "VORBIS"), "opus": ("OGG", "OPUS")}
Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]
_TELEPHONE = 8_000  # Hz


def add_noise(wave: np.ndarray, random: np.random.Generator, decibels: float, noise: Noise = pink) -> np.ndarray:
    """Add noise (n,), by default pink, `decibels` below the wave's mean power."""
    level = np.sqrt(np.mean(np.square(wave))) * 10.0 ** (-decibels / 20.0)
    return _fit(wave + level * noise(len(wave), random))


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


def room(wave: np.ndarray, random: np.random.Generator, seconds: float, distance: float = 1.0) -> np.ndarray:
    """A random shoebox room (`rooms.room_response`), at the level of the dry wave."""
    wet = fftconvolve(wave, room_response(random, seconds, distance))[: len(wave)]
    return _fit(wet * np.sqrt(np.mean(np.square(wave)) / max(float(np.mean(np.square(wet))), 1e-12)))


def mobile(wave: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """GSM 06.10 full rate at 8 kHz, as libsndfile has it. `random` is not used."""
    narrow = resample(wave, SAMPLE_RATE, _TELEPHONE)
    return _fit(resample(_coded(narrow, _TELEPHONE, "WAV", "GSM610"), _TELEPHONE, SAMPLE_RATE), len(wave))


def lossy(wave: np.ndarray, random: np.random.Generator, kind: str) -> np.ndarray:
    """An mp3, ogg or opus file of low quality, written and read by libsndfile. `random` is not used."""
    return _fit(_coded(wave, SAMPLE_RATE, *FORMATS[kind], compression_level=0.99), len(wave))


def _coded(wave: np.ndarray, rate: int, container: str, subtype: str, **settings: float) -> np.ndarray:
    """A wave (n,) through a file in memory, at its own length."""
    file, peak = io.BytesIO(), max(1.0, float(np.abs(wave).max(initial=0.0)))
    soundfile.write(file, np.asarray(wave / peak, np.float32), rate, subtype, format=container, **settings)
    file.seek(0)
    back = soundfile.read(file, dtype="float32")[0] * peak
    return np.pad(back, (0, max(0, len(wave) - len(back))))[: len(wave)]


def overload(wave: np.ndarray, factor: float) -> np.ndarray:
    """A microphone that clips: amplified to a peak of `factor` times full scale, cut off, and turned down again."""
    peak = max(float(np.abs(wave).max(initial=0.0)), 1e-9)
    return (np.clip(wave * factor / peak, -1.0, 1.0) * peak).astype(np.float32)


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


@dataclass(frozen=True)
class Roughness:
    """How often each kind of loss occurs in a degraded clip (shares), and how strong it may be.

    At least one always occurs. noise_db: signal-to-noise ratio, lowest and highest. room_seconds: reverberation time.
    distance: from mouth to microphone, m.
    """

    noise: float = 0.6
    room: float = 0.4
    telephone: float = 0.25
    lossy: float = 0.1
    clipping: float = 0.1
    noise_db: tuple[float, float] = (0.0, 30.0)
    room_seconds: tuple[float, float] = (0.2, 0.9)
    distance: tuple[float, float] = (0.3, 4.0)


def degrade(
    wave: np.ndarray,
    random: np.random.Generator,
    roughness: Roughness = Roughness(),  # noqa: B008
    others: Sequence[np.ndarray] = (),
) -> np.ndarray:
    """What a microphone makes of a clip: a room, other sounds, overload, a telephone or a lossy file: (n,) -> (n,).

    `others`: other people's clips, to be heard in the background; without them there is no babble.
    """
    r, done = roughness, 0
    chances = random.random(5)
    if chances[0] < r.room:
        wave, done = room(wave, random, random.uniform(*r.room_seconds), random.uniform(*r.distance)), 1
    if chances[1] < r.clipping:
        wave, done = overload(wave, random.uniform(1.5, 6.0)), 1
    if chances[2] < r.telephone:
        wave, done = (telephone if random.random() < 0.5 else mobile)(wave, random), 1
    elif chances[3] < r.lossy:
        wave, done = lossy(wave, random, sorted(FORMATS)[int(random.integers(len(FORMATS)))]), 1
    if chances[4] < r.noise or not done:
        wave = add_noise(wave, random, random.uniform(*r.noise_db), _any_noise(random, others))
    return wave


def _any_noise(random: np.random.Generator, others: Sequence[np.ndarray]) -> Noise:
    """One of NOISES, pink twice as often as the others, or babble."""
    kinds = [*NOISES.values(), pink, *([partial(babble, voices=others)] * 2 if others else [])]
    return kinds[int(random.integers(len(kinds)))]
