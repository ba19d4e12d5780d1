"""Sound files, resampling, and the two mel spectrograms: 16 kHz for the codec, 24 kHz for the vocoder."""

from __future__ import annotations

import functools
import io
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor
from torch.nn import functional as F

from mossrepro.utils.devices import CPU, send
from mossrepro.utils.errors import AudioError
from mossrepro.utils.io import write_atomic
from mossrepro.utils.sound_file import read_mono
from mossrepro.utils.spectral import hann

SILENCE = 1e-4  # peak amplitude below which a file counts as silent: -80 dB of full scale
OFFSET = 0.02  # mean of all samples above which it is taken away; that of good recordings is a tenth of this
QUIET = 0.01  # amplitude below which ends are trimmed, relative to the peak: -40 dB, such as a breath
SAMPLE_RATE, WHISPER_FFT, WHISPER_HOP = 16_000, 400, 160
VOICE_SAMPLE_RATE, VOICE_FFT, VOICE_HOP = 24_000, 1_920, 480
MELS = 80
SAVED = {  # suffix: format and coding of libsndfile
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}


def load(path: str | Path, rate: int = SAMPLE_RATE) -> np.ndarray:
    """Read any sound file (`sound_file`) as mono float32 (n,) in [-1, 1] at `rate` Hz.

    Channels are averaged, unless they cancel each other, and a constant offset is taken away. Raises AudioError naming
    the file and the reason: missing, empty, not audio, too long, too short, NaN, silent.
    """
    wave, source = read_mono(path, rate)
    if len(wave) == 0:
        raise AudioError(f"{path}: the file holds no samples")
    wave = resample(centred(wave, path), source, rate)
    if len(wave) == 0:
        raise AudioError(f"{path}: too short, {1000 / source:.2g} ms a sample")
    return wave


def centred(wave: np.ndarray, name: str | Path) -> np.ndarray:
    """Samples (n,) float32 without a constant offset, scaled to [-1, 1] where they are louder.

    Raises:
        AudioError: names the recording; a sample is no finite number, or all are silent.
    """
    if not np.isfinite(wave).all():
        raise AudioError(f"{name}: holds samples that are not finite numbers (NaN or infinity)")
    offset = float(wave.mean(dtype=np.float64))
    if abs(offset) > OFFSET:
        wave = wave - np.float32(offset)
    peak = float(np.abs(wave).max())
    if peak < SILENCE:
        raise AudioError(f"{name}: silent (no sample above {SILENCE} of full scale)")
    return wave / max(peak, 1.0)


def check_format(path: str | Path) -> None:
    """Refuse a file's suffix that `save` does not write. AudioError names it."""
    if Path(path).suffix.lower() not in SAVED:
        raise AudioError(f"{path}: unknown sound format {Path(path).suffix!r}; use {', '.join(SAVED)}")


def save(path: str | Path, wave: np.ndarray, rate: int) -> None:
    """Write mono float samples (n,); the suffix chooses the format of SAVED. Atomic.

    AudioError for another suffix, DiskError where the file cannot be written.
    """
    path = Path(path)
    check_format(path)
    kind, subtype = SAVED[path.suffix.lower()]
    samples, encoded = np.clip(np.asarray(wave, dtype=np.float32).reshape(-1), -1.0, 1.0), io.BytesIO()
    with soundfile.SoundFile(encoded, "w", rate, 1, subtype, format=kind) as sound:  # in memory: it hides full disks
        for start in range(0, len(samples), rate):  # libvorbis takes a long sound in parts only
            sound.write(samples[start : start + rate])
    write_atomic(path, lambda file: file.write(encoded.getbuffer()), many=True)


def resample(wave: np.ndarray, source: int, target: int) -> np.ndarray:
    """Change the rate of mono samples (n,) -> (round(n * target / source),) float32, clipped to [-1, 1]."""
    wave = np.asarray(wave, dtype=np.float32)
    if source == target:
        return wave
    return np.clip(soxr.resample(wave, source, target), -1.0, 1.0).astype(np.float32)


def trim(wave: np.ndarray, rate: int, margin: float = 0.08) -> np.ndarray:
    """Cut off the ends of mono samples (n,) that stay below -40 dB of the peak, except for `margin` seconds.

    A second of silence would be 12 codes that models are trained on for nothing.
    """
    loud = np.flatnonzero(np.abs(wave) > QUIET * np.abs(wave).max(initial=0.0))
    kept = round(margin * rate)
    return wave[max(0, loud[0] - kept) : loud[-1] + kept] if len(loud) else wave


def whisper_mel(wave: Tensor, causal: bool = True, bands: int = MELS) -> Tensor:
    """Whisper's log-mel features at 100 frames a second: (B, N) at 16 kHz -> (B, bands, N // 160).

    log10 of slaney bands (80; large-v3 has 128), clamped to (maximum - 8), then (x + 4) / 4.
    causal: frame t sees the 400 samples that end at (t + 1) * 160 and the maximum is a running one, so that a stream
    gives the same numbers (MOSS-Speech makes its codec encoder causal, arXiv 2510.00499, speech tokenizer).
    causal=False: centred frames and the maximum of the whole recording, Whisper's own features.
    """
    if causal:
        return streaming_mel(wave, bands=bands)[0]
    log = _log_bands(_reflect(wave, WHISPER_FFT // 2), bands)[..., : wave.shape[-1] // WHISPER_HOP]
    return _levelled(log, log.amax(dim=(1, 2), keepdim=True))


class MelState(NamedTuple):
    """State of a stream of causal features: the last 240 samples (B, 240), the loudest band so far (B, 1, 1)."""

    tail: Tensor
    loudest: Tensor


def streaming_mel(wave: Tensor, state: MelState | None = None, bands: int = MELS) -> tuple[Tensor, MelState]:
    """The causal `whisper_mel` of the next samples of a stream, and the state after them.

    A chunk holds at least one hop of 160 samples, and whole hops unless it is the last.
    """
    tail = wave.new_zeros(len(wave), WHISPER_FFT - WHISPER_HOP) if state is None else state.tail
    padded = torch.cat([tail, wave], dim=1)
    log = _log_bands(padded, bands)
    top = log.amax(dim=1, keepdim=True).cummax(dim=-1).values  # (B, 1, T)
    if state is not None:
        top = torch.maximum(top, state.loudest)
    return _levelled(log, top), MelState(padded[:, padded.shape[1] - tail.shape[1] :], top[..., -1:])


def _log_bands(padded: Tensor, bands: int) -> Tensor:
    """Samples (B, N) -> log10 of slaney bands of power (B, bands, frames)."""
    power = _spectrum(padded, WHISPER_FFT, WHISPER_HOP).square()
    mel = (
        mel_filters(SAMPLE_RATE, WHISPER_FFT, bands, power.device, power.dtype) @ power
    )  # (80, 201) @ (B, 201, T) -> (B, 80, T)
    return mel.clamp(min=1e-10).log10()


def _levelled(log: Tensor, top: Tensor) -> Tensor:
    """Clamp to at most 80 dB below the loudest band, `top`, and scale as Whisper does."""
    return (torch.maximum(log, top - 8.0) + 4.0) / 4.0


def mel24(wave: Tensor) -> Tensor:
    """Log-mel for the vocoder: (B, N) at 24 kHz -> (B, 80, N // 480), natural logarithm, floor 1e-5.

    n_fft = window = 1920, hop 480 (50 frames a second, 4 per code), bands 0-8 kHz as in MOSS-Speech's decoder;
    reflected (n_fft - hop) / 2 samples at both ends, so that frame t is centred on its own 480 samples.
    """
    padded = _reflect(wave, (VOICE_FFT - VOICE_HOP) // 2)
    magnitude = _spectrum(padded, VOICE_FFT, VOICE_HOP)
    bands = mel_filters(VOICE_SAMPLE_RATE, VOICE_FFT, MELS, magnitude.device, magnitude.dtype) @ magnitude
    return bands.clamp(min=1e-5).log()


def _reflect(wave: Tensor, pad: int) -> Tensor:
    """Mirror `pad` samples at both ends; a wave too short to be mirrored gets zeros."""
    mode = "reflect" if wave.shape[-1] > pad else "constant"
    return F.pad(wave[:, None], (pad, pad), mode=mode)[:, 0]


def _spectrum(padded: Tensor, size: int, hop: int) -> Tensor:
    """Magnitudes of Hann-windowed frames: (B, N) -> (B, size // 2 + 1, 1 + (N - size) // hop); none if N < size."""
    if padded.shape[-1] < size:
        return padded.new_zeros(padded.shape[0], size // 2 + 1, 0)
    window = hann(size, padded.device, padded.dtype)
    return torch.stft(padded, size, hop, window=window, center=False, return_complex=True).abs()


@functools.lru_cache(maxsize=16)
@torch.inference_mode(False)  # made inside it they could not be used in training later
def mel_filters(
    rate: int,
    size: int,
    count: int = MELS,
    device: torch.device = CPU,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Triangular mel filters with unit area (slaney's scale), 0-8 kHz: (count, size // 2 + 1).

    They are made once for each device and must not be changed.
    """
    edges = _mel_to_hertz(np.linspace(0.0, _hertz_to_mel(8_000.0), count + 2))
    bins = np.linspace(0.0, rate / 2, size // 2 + 1)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    area = 2.0 / (edges[2:] - edges[:-2])
    filters = (np.maximum(0.0, np.minimum(rising, falling)) * area[:, None]).astype(np.float32)
    return send(torch.from_numpy(filters).to(dtype), device)


# Slaney's mel scale: linear up to 1 kHz (mel 15), then logarithmic, 27 mels for a factor of 6.4.
_LOG_STEP = np.log(6.4) / 27.0


def _hertz_to_mel(hertz: float) -> float:
    return hertz * 3.0 / 200.0 if hertz < 1_000.0 else 15.0 + float(np.log(hertz / 1_000.0)) / _LOG_STEP


def _mel_to_hertz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15.0, mel * 200.0 / 3.0, 1_000.0 * np.exp(_LOG_STEP * (np.maximum(mel, 15.0) - 15.0)))
