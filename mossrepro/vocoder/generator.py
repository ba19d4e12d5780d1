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

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mossrepro.utils.devices import capable, send
from mossrepro.utils.errors import ConfigError
from mossrepro.utils.random import rng
from mossrepro.vocoder.checkpoint import load_module
from mossrepro.vocoder.streaming import StreamingConv1d, StreamMemory, spread_look_ahead

HIGHEST_HARMONIC = 11000.0  # Hz; below half the rate, so that the pulse train has no aliases
KERNEL = 7  # frames of a convolution
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

    Shapes: (B, T, dim) -> (B, T, dim); with a memory, what a `StreamingConv1d` gives.
    """

    def __init__(self, dim: int, look_ahead: int, expansion: int = 3, scale: float = 0.3):
        super().__init__()
        self.depthwise = StreamingConv1d(dim, dim, KERNEL, look_ahead, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, expansion * dim)
        self.down = nn.Linear(expansion * dim, dim)
        self.scale = nn.Parameter(torch.full((dim,), scale))

    def forward(self, x: Tensor, memory: StreamMemory | None = None) -> Tensor:
        y, x = (rows.transpose(1, 2) for rows in self.depthwise(x.transpose(1, 2), memory))
        return x + self.scale * self.down(F.gelu(self.up(self.norm(y)), approximate="tanh"))


def count_turns(f0: Tensor, rate: int) -> Tensor:
    """Phase of the first harmonic in turns: the sum of f0 (B, N), in Hz per sample -> (B, N) float64."""
    return torch.cumsum(capable(f0.clamp_min(LOWEST_PITCH)).double() / rate, -1)


def pulse_train(f0: Tensor, rate: int, turns: Tensor | None = None) -> Tensor:
    """Every harmonic of f0 below 11 kHz at amplitude 1; silence where f0 < 60 Hz.

    Shapes: f0 (B, N) in Hz per sample, turns (B, N) phase of the first harmonic (by default the sum of f0) -> (B, N).
    The sum of cosines has the closed form sum_{h=1..H} cos(h p) = sin((H + 1/2) p) / (2 sin(p / 2)) - 1/2.
    """
    voiced = f0 > LOWEST_PITCH
    turns = count_turns(f0, rate) if turns is None else turns
    f0 = f0.clamp_min(LOWEST_PITCH)
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

    def analyse(self, wave: Tensor, memory: StreamMemory | None = None) -> Tensor:
        """(B, K * hop) -> complex (B, n_fft // 2 + 1, K).

        In a stream a frame comes with its last sample, at the end also the one that is centred on the end.
        """
        if memory is not None:
            half = self.n_fft // 2
            wave = memory.join("analyse", wave, half, half, self.n_fft, self.hop)
            if wave.shape[-1] < self.n_fft:
                return wave.new_zeros(len(wave), half + 1, 0, dtype=torch.complex64)
        spectrum = torch.stft(
            wave,
            self.n_fft,
            self.hop,
            window=self.window,
            center=memory is None,
            pad_mode="constant",
            return_complex=True,
        )
        return spectrum[..., : wave.shape[-1] // self.hop]

    def synthesise(self, spectrum: Tensor, memory: StreamMemory | None = None) -> Tensor:
        """complex (B, n_fft // 2 + 1, K) -> (B, K * hop), the least-squares inverse of `analyse`.

        The same as `torch.istft`, which reads a number back from the device at every call. In a stream a sample comes
        with the last frame that reaches it.
        """
        half = self.n_fft // 2
        if memory is None or memory.last:
            spectrum = F.pad(spectrum, (0, 1))  # the frame centred on the end, which `analyse` drops
        elif spectrum.shape[-1] == 0:
            return self.window.new_zeros(len(spectrum), 0)
        # Through real numbers, as there, so that the gradient has the same memory layout and the same rounding.
        columns = torch.view_as_complex(torch.view_as_real(spectrum).transpose(1, 2))
        frames = torch.fft.irfft(columns, self.n_fft) * self.window  # (B, K, n_fft)
        weights = self.window.square().expand(1, frames.shape[1], -1)
        wave, weight = overlap_add(frames, self.hop), overlap_add(weights, self.hop)
        first, done = half, half + (frames.shape[1] - 1) * self.hop
        if memory is not None:
            wave, weight = (memory.add(*pair, self.n_fft - self.hop) for pair in (("wave", wave), ("weight", weight)))
            before = memory.advance("synthesise", frames.shape[1]) * self.hop
            first, done = max(0, half - before), done if memory.last else frames.shape[1] * self.hop
        return wave[:, first:done] / weight[:, first:done]


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
        look_ahead: mel frames that the sound of a frame depends on beyond it, apart from a frame for the inverse STFT
            (and two more for the pitch where it is below 2); the convolutions further back are causal. None: all
            convolutions see as far ahead as back, 21 frames at the sizes above.
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
        look_ahead: int | None = None,
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
            look_ahead=look_ahead,
        )
        most = KERNEL // 2 * (1 + blocks)
        if look_ahead is not None and not 0 <= look_ahead <= most:
            raise ConfigError(f"look_ahead={look_ahead}: these convolutions see 0 to {most} frames ahead (or null)")
        self.hop, self.rate, self.upsample = hop, rate, upsample
        self.spectrum = SpectrumHead(4 * hop // upsample, hop // upsample)
        self.bins = 2 * hop // upsample + 1
        rest = None if look_ahead is None else max(0, look_ahead - 2)  # the source takes two frames of its own
        first, *others = spread_look_ahead(rest, [5, KERNEL, KERNEL, KERNEL])
        self.pitch_in = StreamingConv1d(bands, pitch_dim, 5, first)
        self.pitch_blocks = nn.Sequential(*[ConvNeXtBlock(pitch_dim, ahead) for ahead in others])
        self.pitch_out = nn.Linear(pitch_dim, 2)
        first, *others = spread_look_ahead(look_ahead, [KERNEL] * (1 + blocks))
        self.mel_in = StreamingConv1d(bands, dim, KERNEL, first)
        self.norm_in = nn.LayerNorm(dim)
        self.blocks = nn.Sequential(*[ConvNeXtBlock(dim, ahead) for ahead in others])
        self.to_fine = nn.Linear(dim, upsample * fine_dim)
        fine = KERNEL // 2 if look_ahead is None else 0
        self.fine_blocks = nn.Sequential(*[ConvNeXtBlock(fine_dim, fine) for _ in range(fine_blocks)])
        self.norm_out = nn.LayerNorm(fine_dim)
        self.filters = nn.Linear(fine_dim, 3 * self.bins)
        nn.init.normal_(self.filters.weight, std=0.02)
        with torch.no_grad():  # start as a soft buzz with a little hiss
            gain, turn, hiss = self.filters.bias.split(self.bins)
            gain.fill_(-2.0), turn.zero_(), hiss.fill_(-4.0)

    def pitch(self, mel: Tensor, memory: StreamMemory | None = None) -> Pitch:
        """mel (B, bands, F) -> octaves and voicing (B, F); in a stream, of the frames whose look-ahead is complete."""
        x = self.pitch_in(_scaled(mel), memory)[0].transpose(1, 2)
        for block in self.pitch_blocks:
            x = block(x, memory)
        octaves, voiced = _at_least_float(self.pitch_out(x)).unbind(-1)
        return Pitch(octaves + 1.0, voiced)

    def filter(self, mel: Tensor, memory: StreamMemory | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """mel (B, bands, F) -> log gain of the pulses, their phase turn, log gain of the noise: (B, bins, F * up)."""
        x = self.norm_in(self.mel_in(_scaled(mel), memory)[0].transpose(1, 2))
        for block in self.blocks:
            x = block(x, memory)
        x = self.to_fine(x).unflatten(-1, (self.upsample, -1)).flatten(1, 2)
        for block in self.fine_blocks:
            x = block(x, memory)
        gain, turn, hiss = _at_least_float(self.filters(self.norm_out(x))).transpose(1, 2).split(self.bins, 1)
        return gain.clamp_max(6.0), math.pi * torch.tanh(turn), hiss.clamp_max(6.0)

    def parts(self, mel: Tensor, f0: Tensor, noise: Tensor, turns: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The voiced and the noisy part of the spectrum, complex (B, bins, F * upsample) each.

        f0 (B, F) in Hz; noise complex (B, bins, F * upsample); turns (B, F * hop) as in `pulse_train`.
        """
        source = pulse_train(per_sample(f0, self.hop), self.rate, turns)
        return self.shaped(self.spectrum.analyse(source), noise, *self.filter(mel))

    def shaped(self, carrier: Tensor, noise: Tensor, gain: Tensor, turn: Tensor, hiss: Tensor) -> tuple[Tensor, Tensor]:
        """The spectra of the pulses and of the noise, complex (B, bins, K) each, after the filters of `filter`."""
        carrier = carrier * (2 / self.spectrum.window.sum())
        return carrier * torch.polar(gain.exp(), turn), noise * hiss.exp()

    def forward(self, mel: Tensor, f0: Tensor | None = None) -> Tensor:
        """mel (B, bands, F) -> wave (B, F * hop); f0 (B, F) in Hz replaces the predicted pitch.

        The noise is always made of the same numbers, so that the same mel gives the same wave.
        """
        if f0 is None:
            f0 = self.pitch(mel).hertz()
        noise = send(fixed_noise(self.bins, mel.shape[-1] * self.upsample, vocoder_noise()), mel.device)
        voiced, noisy = self.parts(mel, f0, noise)
        return self.spectrum.synthesise(voiced + noisy)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "Vocoder":
        """Load `config.json` and `model.safetensors` from a folder; CheckpointError when they do not fit."""
        return load_module(cls, folder, "vocoder")


def _scaled(mel: Tensor) -> Tensor:
    """Natural-log mel (-11.5 ... 2) to about -1 ... 1."""
    return (mel + 5.0) / 4.0


def _at_least_float(x: Tensor) -> Tensor:
    """In float32, unless x is more precise."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def per_sample(f0: Tensor, hop: int) -> Tensor:
    """(B, F) -> (B, F * hop): linear between frame centres, a step where a voiced frame meets an unvoiced one."""
    return between_frames(F.pad(f0, (1, 1)), hop)


def between_frames(f0: Tensor, hop: int) -> Tensor:
    """`per_sample` of all frames but the first and the last, which are neighbours only: (B, 2 + F) -> (B, F * hop)."""
    before, f0, after = f0[:, :-2], f0[:, 1:-1], f0[:, 2:]
    voiced = (f0 > 0).repeat_interleave(hop, -1)
    # an unvoiced neighbour would pull the line to 0 Hz: let it take the frame's own pitch instead
    before, after = torch.where(before > 0, before, f0), torch.where(after > 0, after, f0)
    place = (torch.arange(hop, device=f0.device) + 0.5) / hop - 0.5  # -1/2 ... 1/2 of a frame around its centre
    left, right = (-place).clamp_min(0), place.clamp_min(0)
    line = f0[..., None] * (1 - left - right) + before[..., None] * left + after[..., None] * right
    return line.flatten(1) * voiced


def vocoder_noise() -> np.random.Generator:
    """The numbers that every waveform's noise is made of, from frame 0 on."""
    return rng(0, "vocoder noise")


def fixed_noise(bins: int, frames: int, random: np.random.Generator) -> Tensor:
    """The next frames of `random`, complex (bins, frames) of unit power: a frame's depend on its place alone."""
    numbers = random.standard_normal((frames, bins, 2), dtype="float32")
    return torch.complex(*torch.from_numpy(numbers).unbind(-1)).T / math.sqrt(2)
