"""Comparing two waves by their magnitude spectrograms."""

import functools

import torch
import torch.nn.functional as F
from torch import Tensor

from mossrepro.utils.distributed import mean_over_ranks, norm_over_ranks

FLOOR = 1e-4  # amplitude of a spectrogram cell (-80 dB) below which nothing is compared


@functools.lru_cache(maxsize=64)
@torch.inference_mode(False)  # one made inside it could not be used in training later
def hann(size: int, device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """The Hann window (size,), made once for each device. It must not be changed."""
    return torch.hann_window(size, device=device, dtype=dtype)


def magnitude(wave: Tensor, size: int) -> Tensor:
    """STFT magnitude, hop size / 4, scaled so that white noise keeps its deviation: (B, N) -> (B, size // 2 + 1, T)."""
    window = hann(size, wave.device)
    spectrum = torch.stft(wave, size, size // 4, window=window, pad_mode="constant", return_complex=True)
    power = spectrum.real.square() + spectrum.imag.square()
    return (power / window.square().sum()).clamp_min(FLOOR**2).sqrt()


def spectral_loss(
    wave: Tensor, target: Tensor, sizes: tuple[int, ...] = (256, 512, 1024, 2048), rows: Tensor | int | None = None
) -> Tensor:
    """Multi-resolution STFT loss (Parallel WaveGAN, arXiv 1910.11480): spectral convergence + L1 of log magnitudes.

    Shapes: wave, target (B, N) -> scalar, the mean over `sizes`. In a training on several ranks it is the loss of all
    ranks' rows, which have one length N; `rows` is 0 on a rank whose wave counts for nothing, by default B.
    """
    rows = len(wave) if rows is None else rows
    total = wave.new_zeros(())
    for size in sizes:
        ours, theirs = magnitude(wave, size), magnitude(target, size)
        size_of_theirs = norm_over_ranks(theirs.norm(), rows).clamp_min(1e-3)
        convergence = norm_over_ranks((theirs - ours).norm(), rows) / size_of_theirs
        total = total + convergence + mean_over_ranks(F.l1_loss(ours.log(), theirs.log()), rows)
    return total / len(sizes)
