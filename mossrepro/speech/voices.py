"""The synthesisers: the assistant's voice is hibari (24 kHz, fast), users are Kokoro-82M (int8, better and slow).

MOSS-Speech (arXiv 2510.00499, SFT data) answers in one fixed voice and is asked in many; `roster.py` says who they are.
Every wave is a function of (text, voice).
"""

from __future__ import annotations

import functools
import json
import tarfile
import zlib
from dataclasses import replace

import numpy as np

from mossrepro.speech.roster import FIVE, VOICES, Voice, names
from mossrepro.utils import assets
from mossrepro.utils.audio import VOICE_SAMPLE_RATE, resample, trim
from mossrepro.utils.errors import AssetError, ConfigError

VERSION = 2  # raised when the same (text, voice) begins to sound different, so that no old corpus is reused
_PEAK = 0.95  # loudest sample let through
_PAUSE = 0.2  # seconds between the sentences of one text
_MAX_PHONEMES = 500  # Kokoro's context
_TABLE = (510, 1, 256)  # shape of a style table


def say(text: str, voice: str = "assistant") -> tuple[np.ndarray, int]:
    """Speak a text: float32 samples (n,) in [-1, 1] and their rate, 24,000 Hz.

    The same (text, voice) gives the same samples. Raises ConfigError for an unknown voice or a text without words.
    """
    if voice not in VOICES:
        raise ConfigError(f"unknown voice {voice!r}; known: {', '.join(names(perturbed=False))}, hibari+p1, ...")
    speaker = VOICES[voice]
    if speaker.engine == "hibari":
        wave = _hibari(text, speaker)
    else:
        wave = _perturb(_kokoro(text, replace(speaker, name=speaker.base or speaker.name, speed=1.0, pitch=1.0,
                                              tract=1.0, base="")), speaker)  # fmt: skip
    wave = trim(wave, VOICE_SAMPLE_RATE)  # hibari leaves 0.3 seconds at both ends
    peak = float(np.abs(wave).max(initial=0.0))
    return (wave * min(1.0, _PEAK / max(peak, 1e-9))).astype(np.float32), VOICE_SAMPLE_RATE


@functools.lru_cache(maxsize=1)
def _engine():
    """hibari with its model and its grapheme-to-phoneme rules, which serve Kokoro too."""
    from hibari import Hibari

    return Hibari(model=str(assets.get("hibari")), threads=1)


def _phonemes(text: str) -> list[str]:
    sentences = _engine().phonemize(text)
    if not any(character.isalpha() for sentence in sentences for character in sentence):
        raise ConfigError(f"nothing to say in {text!r}")
    return sentences


def pronounced(text: str) -> list[str]:
    """The words of a text as phonemes without stress: homophones give the same list."""
    plain = "".join(sign for sign in text.lower() if sign.isalnum() or sign in " '")
    words = " ".join(_engine().phonemize(plain)).split()
    return ["".join(sign for sign in word if sign.isalpha() and sign not in "ˈˌ") for word in words]


def _hibari(text: str, speaker: Voice) -> np.ndarray:
    """hibari's network gives a spectrum and a pitch curve, so pitch is changed at the source.

    A vocal tract shorter by `tract` multiplies all frequencies: speech is synthesised slower and its pitch divided by
    that factor, then the wave is resampled.
    """
    from hibari import dsp

    engine = _engine()
    random = np.random.default_rng(zlib.crc32(f"{speaker.name}|{text}".encode()))
    pieces = []
    for sentence in _phonemes(text):
        ids = np.asarray([engine.ids(sentence)], np.int64)
        speed = np.asarray([speaker.speed / speaker.tract], np.float32)
        *spectrum, curve = (part[0] for part in engine.sess.run(None, {"ids": ids, "speed": speed}))
        pieces.append(dsp.synth(*spectrum, curve * np.float32(speaker.pitch / speaker.tract), random))
    wave = np.concatenate(pieces)
    return wave if speaker.tract == 1.0 else resample(wave, round(VOICE_SAMPLE_RATE * speaker.tract), VOICE_SAMPLE_RATE)


@functools.lru_cache(maxsize=1)
def _kokoro_session():
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(assets.get("kokoro")), options, providers=["CPUExecutionProvider"])


@functools.lru_cache(maxsize=1)
def _kokoro_ids() -> dict[str, int]:
    """Phoneme -> id."""
    return json.loads(assets.get("kokoro-vocab").read_text("utf-8"))["vocab"]


@functools.lru_cache(maxsize=64)
def style_table(name: str) -> np.ndarray:
    """The style table (510, 1, 256) of a Kokoro voice: one style for each length in phonemes.

    Raises:
        AssetError: the package that holds it is absent, or its table has another shape.
    """
    if name in FIVE:
        with np.load(assets.get("kokoro-voices")) as file:
            table = file[name]
    else:
        path = assets.get("kokoro-styles")
        with tarfile.open(path) as package:
            try:
                table = np.frombuffer(package.extractfile(f"package/voices/{name}.bin").read(), "<f4")
            except KeyError:
                raise AssetError(f"{path}: holds no style {name!r}") from None
        if table.size == np.prod(_TABLE):
            table = table.reshape(_TABLE)
    if table.shape != _TABLE:
        raise AssetError(f"style {name!r} has shape {table.shape}, expected {_TABLE}; install the package again")
    return table


@functools.lru_cache(maxsize=4)
def _kokoro(text: str, speaker: Voice) -> np.ndarray:
    """Unperturbed Kokoro speech; cached, because several pseudo-speakers in a row share it."""
    ids = _kokoro_ids()
    pieces: list[np.ndarray] = []
    for sentence in _phonemes(text):
        tokens = [ids[symbol] for symbol in sentence if symbol in ids][:_MAX_PHONEMES]
        style = sum(weight * style_table(name)[len(tokens) - 1] for name, weight in speaker.styles)
        feed = {
            "tokens": np.array([[0, *tokens, 0]], np.int64),
            "style": np.asarray(style, np.float32).reshape(1, 256),
            "speed": np.ones(1, np.float32),
        }
        wave = trim(_kokoro_session().run(None, feed)[0].reshape(-1), VOICE_SAMPLE_RATE)
        pieces += [wave, np.zeros(round(_PAUSE * VOICE_SAMPLE_RATE), np.float32)]
    return np.concatenate(pieces[:-1])


def _perturb(wave: np.ndarray, speaker: Voice) -> np.ndarray:
    """Turn a wave into another speaker's: resampling changes pitch and tract, then the speed is corrected."""
    if not speaker.base:
        return wave
    return stretch(
        resample(wave, round(VOICE_SAMPLE_RATE * speaker.tract), VOICE_SAMPLE_RATE), speaker.speed / speaker.tract
    )


def stretch(wave: np.ndarray, speed: float) -> np.ndarray:
    """Change the speed and keep the pitch: (n,) -> about (n / speed,) at 24 kHz.

    Overlap-add of 40 ms frames, each shifted by up to 10 ms to where it continues the previous one best (WSOLA).
    """
    hop, reach = VOICE_SAMPLE_RATE // 50, VOICE_SAMPLE_RATE // 100
    window = np.hanning(2 * hop + 1)[:-1].astype(np.float32)
    count = max(1, int(len(wave) / speed) // hop)
    padded = np.pad(wave, (reach, 4 * hop + 2 * reach)).astype(np.float32)
    out = np.zeros((count + 1) * hop, np.float32)
    place = reach
    for frame in range(count):
        if frame:
            natural = padded[place + hop : place + 3 * hop]  # what would follow if the speed were 1
            centre = reach + min(int(frame * hop * speed), len(wave))
            nearby = padded[centre - reach : centre + reach + 2 * hop]
            place = centre - reach + int(np.correlate(nearby, natural, "valid").argmax())
        out[frame * hop : (frame + 2) * hop] += window * padded[place : place + 2 * hop]
    return out
