"""A vocoder without weights: what any other one has to be better than."""

import torch
from torch import Tensor

from mossrepro.utils.audio import MELS, VOICE_FFT, VOICE_HOP, VOICE_SAMPLE_RATE, mel_filters
from mossrepro.utils.random import rng
from mossrepro.utils.spectral import hann
from mossrepro.vocoder.generator import overlap_add


def griffin_lim(mel: Tensor, rounds: int = 60) -> Tensor:
    """Log-mel of `mel24` (B, 80, F) -> wave (B, 480 F) at 24 kHz, by the algorithm of Griffin and Lim (1984).

    Magnitudes are the least-squares ones of the mel (0-8 kHz). Phases start at random, the same every time, and are
    in each round those of the wave that fits best so far.
    """
    filters = mel_filters(VOICE_SAMPLE_RATE, VOICE_FFT, MELS, mel.device)
    magnitude = (torch.linalg.pinv(filters) @ mel.exp()).clamp_min(0)  # (B, 961, F)
    angles = torch.from_numpy(rng(0, "griffin-lim").random(tuple(magnitude.shape), dtype="float32")).to(mel.device)
    window = hann(VOICE_FFT, mel.device)
    weight = overlap_add(window.square().expand(1, mel.shape[-1], -1), VOICE_HOP).clamp_min(1e-2)
    spectrum = torch.polar(magnitude, 2 * torch.pi * angles)
    for i in range(rounds + 1):
        frames = torch.fft.irfft(spectrum.transpose(1, 2), VOICE_FFT) * window  # (B, F, 1920)
        wave = overlap_add(frames, VOICE_HOP) / weight
        if i < rounds:
            again = torch.stft(wave, VOICE_FFT, VOICE_HOP, window=window, center=False, return_complex=True)
            spectrum = torch.polar(magnitude, again.angle())
    edge = (VOICE_FFT - VOICE_HOP) // 2  # `mel24` mirrors as much at both ends
    return wave[:, edge : edge + VOICE_HOP * mel.shape[-1]]
