"""Pitch of a clean recording, and the phase of its pulses, from which the vocoder's source is trained."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mossrepro.utils.devices import capable
from mossrepro.utils.spectral import hann


def measure_pitch(
    wave: Tensor,
    rate: int = 24000,
    hop: int = 480,
    lowest: float = 70.0,
    highest: float = 500.0,
    threshold: float = 0.5,
) -> Tensor:
    """Fundamental frequency of every frame, in Hz, 0 where unvoiced.

    Shapes: wave (B, N) -> (B, N // hop); frame t is centred on sample (t + 1/2) * hop, like the mel's.
    Two neighbouring pieces of the wave, one lag apart, are correlated; the smallest lag whose correlation comes within
    10 % of the best is the period (multiples of a period correlate as well), refined by a parabola. The wave is first
    smoothed over a millisecond: sharp pulses do not correlate when the period is not a whole number of samples.
    """
    longest, shortest = int(rate / lowest), int(rate / highest)
    size = 2 * longest
    span = size + longest + 2
    frames = wave.shape[-1] // hop
    left = (span - hop) // 2
    kernel = hann(rate // 1000 + 1, wave.device)
    smooth = F.conv1d(wave[:, None], (kernel / kernel.sum())[None, None], padding=rate // 2000)[:, 0]
    padded = F.pad(smooth, (left, span - left))
    pieces = padded.unfold(-1, span, hop)[:, :frames]  # (B, F, span)
    pieces = pieces - pieces.mean(-1, keepdim=True)
    score = _correlation(pieces, size, longest + 2)  # (B, F, lags), lag 0 ... longest + 1
    inner = score[..., shortest : longest + 1]
    best = inner.amax(-1, keepdim=True)
    peak = (inner >= score[..., shortest - 1 : longest]) & (inner >= score[..., shortest + 1 : longest + 2])
    lag = (peak & (inner > 0.9 * best)).to(torch.int8).argmax(-1) + shortest  # (B, F)
    before, here, after = (score.gather(-1, (lag + k)[..., None])[..., 0] for k in (-1, 0, 1))
    shift = 0.5 * (before - after) / (before - 2 * here + after).clamp_max(-1e-9)
    f0 = rate / (lag + shift.clamp(-0.5, 0.5))
    loud = pieces.square().mean(-1) > 1e-6  # -60 dB
    return _despeckle(f0 * ((here > threshold) & loud))


def _correlation(pieces: Tensor, size: int, lags: int) -> Tensor:
    """Normalised correlation of the first `size` samples with those a lag later: (B, F, span) -> (B, F, lags)."""
    length = 1 << (pieces.shape[-1] + size).bit_length()
    head = torch.fft.rfft(pieces[..., :size], length)
    product = torch.fft.irfft(head.conj() * torch.fft.rfft(pieces, length), length)[..., :lags]
    energy = F.pad(capable(pieces).double().square().cumsum(-1), (1, 0))
    energy = (energy[..., size : size + lags] - energy[..., :lags]).float().to(product.device)
    return product / (energy * energy[..., :1]).clamp_min(1e-12).sqrt()


def _despeckle(f0: Tensor) -> Tensor:
    """Median of five frames, so that one frame an octave off, or voiced alone, disappears: (B, F) -> (B, F)."""
    return F.pad(f0, (2, 2)).unfold(-1, 5, 1).median(-1).values


def follow_pulses(wave: Tensor, f0: Tensor, rate: int = 24000) -> Tensor:
    """Phase of the first harmonic at every sample, in turns: the running sum of f0, corrected by the wave itself.

    Shapes: wave (B, N), f0 (B, N) in Hz per sample -> (B, N) float64, in main memory where the device has none.
    The wave is shifted down by f0, which moves its first harmonic to 0 Hz; the phase that is left is the error that
    small errors of f0 add up to. A source with the corrected phase is aligned with the recording, so that a generator
    can learn the recording's phases by plain regression.
    """
    turns = torch.cumsum(capable(f0).double() / rate, -1)
    angle = (2 * math.pi * torch.remainder(turns, 1.0)).float().to(wave.device)
    hop, size = rate // 100, rate // 25
    kernel = hann(size, wave.device)[None, None]
    still = torch.stack([wave * angle.cos(), -wave * angle.sin()], 1).flatten(0, 1)[:, None]  # (2B, 1, N)
    still = F.conv1d(F.pad(still, ((size - hop) // 2,) * 2), kernel, stride=hop)
    left, right = still.view(len(wave), 2, -1).unbind(1)
    missed = torch.atan2(right, left) / (2 * math.pi)  # (B, N / hop) in turns, -1/2 ... 1/2
    jumps = missed.diff(dim=-1)
    missed = torch.cat([missed[:, :1], missed[:, :1] + (jumps - jumps.round()).cumsum(-1)], -1)
    return turns + capable(F.interpolate(missed[:, None], size=wave.shape[-1], mode="linear")[:, 0]).double()
