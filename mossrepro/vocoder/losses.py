"""Losses of the vocoder: distances between spectrograms, and the error of the pitch head.

In a training on several ranks each is the loss of all ranks' rows, which have one length.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mossrepro.utils.audio import mel24
from mossrepro.utils.distributed import mean_over_ranks, sum_over_ranks
from mossrepro.utils.spectral import FLOOR


def compressed(spectrum: Tensor, power: float = 0.3) -> Tensor:
    """Complex spectrum with its magnitudes raised to `power`, so that quiet partials count beside loud ones."""
    energy = spectrum.real.square() + spectrum.imag.square() + FLOOR**2
    return spectrum * energy ** ((power - 1) / 2)


def phase_loss(voiced: Tensor, target: Tensor) -> Tensor:
    """Distance of the voiced part from the recording, phases included: complex (B, K, T) each -> scalar.

    Where the recording is noise, the best prediction is silence: that is what separates the two parts.
    """
    ours, theirs = compressed(voiced), compressed(target)
    size = mean_over_ranks(theirs.abs().mean(), len(theirs))
    return mean_over_ranks((ours - theirs).abs().mean(), len(theirs)) / size.clamp_min(1e-3)


def mel_loss(wave: Tensor, target: Tensor) -> Tensor:
    """L1 distance of the 24 kHz log-mels: (B, N), (B, N) -> scalar."""
    return mean_over_ranks(F.l1_loss(mel24(wave), mel24(target)), len(wave))


def pitch_loss(octaves: Tensor, voiced: Tensor, f0: Tensor) -> Tensor:
    """Error of the pitch head, all arguments (B, F) -> scalar.

    octaves above 100 Hz count where measured f0 (Hz) is voiced, i.e. above 0; voiced is a logit.
    """
    is_voiced = (f0 > 0).float()
    wanted = torch.log2(f0.clamp_min(1.0) / 100.0)
    error = sum_over_ranks(((octaves - wanted).abs() * is_voiced).sum())
    error = error / sum_over_ranks(is_voiced.sum()).clamp_min(1.0)
    return 10.0 * error + mean_over_ranks(F.binary_cross_entropy_with_logits(voiced, is_voiced), len(f0))
