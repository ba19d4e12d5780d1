"""Mel spectrogram to waveform: a neural source filter with an inverse-STFT head.

The role of HiFT in arXiv 2510.00499, made small enough for two CPU cores. A voiced sound is a train of pulses (pitch)
shaped by the vocal tract; an unvoiced one is shaped noise. So the network predicts *filters*, not samples:

    mel (B, 80, F) --+--> pitch head --> f0 (B, F) --> pulse train --> STFT --.
                     |                                                        x  exp(gain + i turn)  --+--> inverse STFT
                     `--> ConvNeXt blocks --> gain, turn, noise gain          noise  x  exp(noise gain) --'     -> wave

Sources: neural source filter (arXiv 1904.12088), differentiable harmonics plus noise (arXiv 2001.04643),
ConvNeXt backbone with an inverse-STFT head (Vocos, arXiv 2306.00814).
"""

import math
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mossrepro.utils.devices import capable, send
from mossrepro.utils.random import rng
from mossrepro.vocoder.checkpoint import load_module

HIGHEST_HARMONIC = 11000.0  # Hz; below half the rate, so that the pulse train has no aliases
LOWEST_PITCH = 60.0  # Hz; a frame whose pitch is lower counts as unvoiced


class Pitch(NamedTuple):
    """Pitch of every mel frame: octaves above 100 Hz and the logit of "voiced", both (B, F)."""

    octaves: Tensor
    voiced: Tensor

    def hertz(self) -> Tensor:
        """-> (B, F) in Hz, 0 where unvoiced."""
        return 100.0 * torch.exp2(self.octaves) * (self.voiced > 0)


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution over time, then a pointwise MLP, added to the input (arXiv 2201.03545).

    Shapes: (B, T, dim) -> (B, T, dim).
    """

    def __init__(self, dim: int, expansion: int = 3, kernel: int = 7, scale: float = 0.3):
        super().__init__()
        self.depthwise = nn.Conv1d(dim, dim, kernel, groups=dim, padding=kernel // 2)
        self.norm = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, expansion * dim)
        self.down = nn.Linear(expansion * dim, dim)
        self.scale = nn.Parameter(torch.full((dim,), scale))

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(x.transpose(1, 2)).transpose(1, 2)
        return x + self.scale * self.down(F.gelu(self.up(self.norm(y)), approximate="tanh"))


def pulse_train(f0: Tensor, rate: int, turns: Tensor | None = None) -> Tensor:
    """Every harmonic of f0 below 11 kHz at amplitude 1; silence where f0 < 60 Hz.

    Shapes: f0 (B, N) in Hz per sample, turns (B, N) phase of the first harmonic (by default the sum of f0) -> (B, N).
    The sum of cosines has the closed form sum_{h=1..H} cos(h p) = sin((H + 1/2) p) / (2 sin(p / 2)) - 1/2.
    """
    voiced = f0 > LOWEST_PITCH
    f0 = f0.clamp_min(LOWEST_PITCH)
    if turns is None:
        turns = torch.cumsum(capable(f0).double() / rate, -1)
    phase = (2 * math.pi * torch.remainder(turns, 1.0)).float().to(f0.device)
    count = torch.floor(HIGHEST_HARMONIC / f0)
    below = 2 * torch.sin(phase / 2)
    peak = below.abs() < 2e-3  # at the pulse itself the quotient tends to H + 1/2
    safe = torch.where(peak, torch.ones_like(below), below)
    pulses = torch.where(peak, count + 0.5, torch.sin((count + 0.5) * phase) / safe) - 0.5
    return pulses * voiced


class SpectrumHead(nn.Module):
    """STFT of the source and inverse STFT of the result, at one resolution.

    Frame k is centred on sample k * hop; K = N / hop frames stand for N samples.
    """

    window: Tensor

    def __init__(self, n_fft: int, hop: int):
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def analyse(self, wave: Tensor) -> Tensor:
        """(B, K * hop) -> complex (B, n_fft // 2 + 1, K)."""
        spectrum = torch.stft(
            wave, self.n_fft, self.hop, window=self.window, center=True, pad_mode="constant", return_complex=True
        )
        return spectrum[..., : wave.shape[-1] // self.hop]

    def synthesise(self, spectrum: Tensor) -> Tensor:
        """complex (B, n_fft // 2 + 1, K) -> (B, K * hop), the least-squares inverse of `analyse`.

        The same as `torch.istft`, which reads a number back from the device at every call.
        """
        spectrum = F.pad(spectrum, (0, 1))  # the frame centred on the end, which `analyse` drops
        # Through real numbers, as there, so that the gradient has the same memory layout and the same rounding.
        columns = torch.view_as_complex(torch.view_as_real(spectrum).transpose(1, 2))
        frames = torch.fft.irfft(columns, self.n_fft) * self.window  # (B, K + 1, n_fft)
        weights = self.window.square().expand(1, frames.shape[1], -1)
        kept = slice(self.n_fft // 2, self.n_fft // 2 + (spectrum.shape[-1] - 1) * self.hop)
        return overlap_add(frames, self.hop)[:, kept] / overlap_add(weights, self.hop)[:, kept]


def overlap_add(frames: Tensor, hop: int) -> Tensor:
    """The sum of frames that begin `hop` samples after one another: (B, K, n) -> (B, (K - 1) hop + n), n = m hop."""
    parts = frames.unflatten(-1, (-1, hop)).unbind(2)  # m parts of a frame, (B, K, hop) each
    behind = len(parts) - 1
    moved = [F.pad(part, (0, 0, i, behind - i)) for i, part in enumerate(parts)]
    return sum(moved[-2::-1], moved[-1]).flatten(1)  # at every sample the earliest frame first


class Vocoder(nn.Module):
    """mel (B, bands, F) -> wave (B, F * hop).

    Args:
        bands: mel bands.
        hop: samples per mel frame.
        rate: sampling rate in Hz.
        dim: channels at the mel's frame rate.
        blocks: ConvNeXt blocks at the mel's frame rate.
        fine_dim: channels after upsampling.
        fine_blocks: ConvNeXt blocks after upsampling.
        upsample: factor of the upsampling; the inverse STFT runs at hop / upsample.
        pitch_dim: channels of the pitch head.
    """

    def __init__(
        self,
        bands: int = 80,
        hop: int = 480,
        rate: int = 24000,
        dim: int = 256,
        blocks: int = 5,
        fine_dim: int = 256,
        fine_blocks: int = 2,
        upsample: int = 2,
        pitch_dim: int = 96,
    ):
        super().__init__()
        self.config = dict(
            bands=bands,
            hop=hop,
            rate=rate,
            dim=dim,
            blocks=blocks,
            fine_dim=fine_dim,
            fine_blocks=fine_blocks,
            upsample=upsample,
            pitch_dim=pitch_dim,
        )
        self.hop, self.rate, self.upsample = hop, rate, upsample
        self.spectrum = SpectrumHead(4 * hop // upsample, hop // upsample)
        self.bins = 2 * hop // upsample + 1
        self.pitch_in = nn.Conv1d(bands, pitch_dim, 5, padding=2)
        self.pitch_blocks = nn.Sequential(*[ConvNeXtBlock(pitch_dim) for _ in range(3)])
        self.pitch_out = nn.Linear(pitch_dim, 2)
        self.mel_in = nn.Conv1d(bands, dim, 7, padding=3)
        self.norm_in = nn.LayerNorm(dim)
        self.blocks = nn.Sequential(*[ConvNeXtBlock(dim) for _ in range(blocks)])
        self.to_fine = nn.Linear(dim, upsample * fine_dim)
        self.fine_blocks = nn.Sequential(*[ConvNeXtBlock(fine_dim) for _ in range(fine_blocks)])
        self.norm_out = nn.LayerNorm(fine_dim)
        self.filters = nn.Linear(fine_dim, 3 * self.bins)
        nn.init.normal_(self.filters.weight, std=0.02)
        with torch.no_grad():  # start as a soft buzz with a little hiss
            gain, turn, hiss = self.filters.bias.split(self.bins)
            gain.fill_(-2.0), turn.zero_(), hiss.fill_(-4.0)

    def pitch(self, mel: Tensor) -> Pitch:
        """mel (B, bands, F) -> octaves and voicing (B, F)."""
        x = self.pitch_blocks(self.pitch_in(_scaled(mel)).transpose(1, 2))
        octaves, voiced = self.pitch_out(x).float().unbind(-1)
        return Pitch(octaves + 1.0, voiced)

    def filter(self, mel: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """mel (B, bands, F) -> log gain of the pulses, their phase turn, log gain of the noise: (B, bins, F * up)."""
        x = self.blocks(self.norm_in(self.mel_in(_scaled(mel)).transpose(1, 2)))
        batch, frames, _ = x.shape
        x = self.to_fine(x).view(batch, frames * self.upsample, -1)
        x = self.filters(self.norm_out(self.fine_blocks(x))).float().transpose(1, 2)
        gain, turn, hiss = x.split(self.bins, 1)
        return gain.clamp_max(6.0), math.pi * torch.tanh(turn), hiss.clamp_max(6.0)

    def parts(self, mel: Tensor, f0: Tensor, noise: Tensor, turns: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The voiced and the noisy part of the spectrum, complex (B, bins, F * upsample) each.

        f0 (B, F) in Hz; noise complex (B, bins, F * upsample); turns (B, F * hop) as in `pulse_train`.
        """
        source = pulse_train(per_sample(f0, self.hop), self.rate, turns)
        carrier = self.spectrum.analyse(source) * (2 / self.spectrum.window.sum())
        gain, turn, hiss = self.filter(mel)
        return carrier * torch.polar(gain.exp(), turn), noise * hiss.exp()

    def forward(self, mel: Tensor, f0: Tensor | None = None) -> Tensor:
        """mel (B, bands, F) -> wave (B, F * hop); f0 (B, F) in Hz replaces the predicted pitch.

        The noise is always made of the same numbers, so that the same mel gives the same wave.
        """
        if f0 is None:
            f0 = self.pitch(mel).hertz()
        noise = send(fixed_noise(self.bins, mel.shape[-1] * self.upsample), mel.device)
        voiced, noisy = self.parts(mel, f0, noise)
        return self.spectrum.synthesise(voiced + noisy)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "Vocoder":
        """Load `config.json` and `model.safetensors` from a folder; CheckpointError when they do not fit."""
        return load_module(cls, folder)


def _scaled(mel: Tensor) -> Tensor:
    """Natural-log mel (-11.5 ... 2) to about -1 ... 1."""
    return (mel + 5.0) / 4.0


def per_sample(f0: Tensor, hop: int) -> Tensor:
    """(B, F) -> (B, F * hop): linear between frame centres, a step where a voiced frame meets an unvoiced one."""
    voiced = (f0 > 0).repeat_interleave(hop, -1)
    # an unvoiced neighbour would pull the line to 0 Hz: let it take the frame's own pitch instead
    before = torch.cat([f0[:, :1], f0[:, :-1]], -1)
    after = torch.cat([f0[:, 1:], f0[:, -1:]], -1)
    before, after = torch.where(before > 0, before, f0), torch.where(after > 0, after, f0)
    place = (torch.arange(hop, device=f0.device) + 0.5) / hop - 0.5  # -1/2 ... 1/2 of a frame around its centre
    left, right = (-place).clamp_min(0), place.clamp_min(0)
    line = f0[..., None] * (1 - left - right) + before[..., None] * left + after[..., None] * right
    return line.flatten(1) * voiced


def fixed_noise(bins: int, frames: int) -> Tensor:
    """Complex noise (bins, frames) of unit power: the same first columns for every length and on every machine."""
    numbers = rng(0, "vocoder noise").standard_normal((frames, bins, 2), dtype="float32")
    return torch.view_as_complex(torch.from_numpy(numbers)).T / math.sqrt(2)
