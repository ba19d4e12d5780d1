"""Our vocoder's speed beside two others of as many parameters, for the same mel: HiFi-GAN's architecture and Vocos'.

Both are written here after their papers, for 24 kHz and 480 samples a mel frame, without weight norm (which is folded
in for inference). Their weights are random, and their speed is the same.
"""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.table import Table
from torch import Tensor, nn

from mossrepro.bench.timing import SpeedReport, race
from mossrepro.utils.audio import MELS, VOICE_FFT, VOICE_HOP
from mossrepro.utils.devices import best_device
from mossrepro.utils.packed_linear import pack_linear_layers
from mossrepro.vocoder.generator import ConvNeXtBlock, SpectrumHead, Vocoder

RATES = (8, 5, 4, 3)  # of HiFi-GAN's upsampling; their product is the samples of a mel frame
KERNELS, DILATIONS = (3, 7, 11), (1, 3, 5)
SLOPE = 0.1  # of its leaky ReLU
LAYERS = 8  # of Vocos
FRAMES = 250  # of the mel that is spoken: 5 s
HALVINGS = 2 ** len(RATES)


class ResidualBlock(nn.Module):
    """HiFi-GAN's residual block: pairs of convolutions with growing dilation. (B, C, T) -> the same."""

    def __init__(self, channels: int, kernel: int):
        super().__init__()
        spread = [(kernel - 1) * dilation // 2 for dilation in DILATIONS]
        self.wide = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel, dilation=dilation, padding=pad)
            for dilation, pad in zip(DILATIONS, spread, strict=True)
        )
        self.narrow = nn.ModuleList(nn.Conv1d(channels, channels, kernel, padding=kernel // 2) for _ in DILATIONS)

    def forward(self, x: Tensor) -> Tensor:
        for wide, narrow in zip(self.wide, self.narrow, strict=True):
            x = x + narrow(F.leaky_relu(wide(F.leaky_relu(x, SLOPE)), SLOPE))
        return x


class HiFiGAN(nn.Module):
    """mel (B, 80, F) -> wave (B, 480 F): transposed convolutions, and blocks of three kernels after each.

    arXiv 2010.05646, section 2.2, generator V1.

    Args:
        channels: before the upsampling, which halves them four times; 512 in the paper.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.first = nn.Conv1d(MELS, channels, 7, padding=3)
        sizes = [channels // 2**i for i in range(len(RATES) + 1)]
        self.ups = nn.ModuleList(
            nn.ConvTranspose1d(sizes[i], sizes[i + 1], 2 * rate, rate, (rate + 1) // 2, rate % 2)
            for i, rate in enumerate(RATES)
        )
        self.blocks = nn.ModuleList(
            nn.ModuleList(ResidualBlock(size, kernel) for kernel in KERNELS) for size in sizes[1:]
        )
        self.last = nn.Conv1d(sizes[-1], 1, 7, padding=3)

    def forward(self, mel: Tensor) -> Tensor:
        x = self.first(mel)
        for up, blocks in zip(self.ups, self.blocks, strict=True):
            x = up(F.leaky_relu(x, SLOPE))
            x = sum(block(x) for block in blocks) / len(blocks)
        return torch.tanh(self.last(F.leaky_relu(x)))[:, 0]


class Vocos(nn.Module):
    """mel (B, 80, F) -> wave (B, 480 F): ConvNeXt blocks at the mel's frame rate, then an inverse STFT.

    arXiv 2306.00814.

    Args:
        dim: channels; 512 in the paper.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.first = nn.Conv1d(MELS, dim, 7, padding=3)
        self.norm = nn.LayerNorm(dim)
        self.blocks = nn.Sequential(*[ConvNeXtBlock(dim, look_ahead=3) for _ in range(LAYERS)])
        self.norm_out = nn.LayerNorm(dim)
        self.out = nn.Linear(dim, VOICE_FFT + 2)
        self.spectrum = SpectrumHead(VOICE_FFT, VOICE_HOP)

    def forward(self, mel: Tensor) -> Tensor:
        x = self.norm_out(self.blocks(self.norm(self.first(mel).transpose(1, 2))))
        size, phase = self.out(x).transpose(1, 2).chunk(2, 1)  # (B, 961, F) each
        return self.spectrum.synthesise(torch.polar(size.exp().clamp_max(1e2), phase))


def parameters(model: nn.Module) -> int:
    """How many numbers a model has."""
    return sum(parameter.numel() for parameter in model.parameters())


def as_large(kind: Callable[[int], nn.Module], step: int, wanted: int) -> nn.Module:
    """The network `kind(n * step)` whose parameters are nearest in number to `wanted`."""
    with torch.device("meta"):
        counts = [parameters(kind(step))]
        while counts[-1] < wanted:
            counts.append(parameters(kind(step * (len(counts) + 1))))
    nearest = min(range(len(counts)), key=lambda i: abs(counts[i] - wanted))
    return kind(step * (nearest + 1)).eval()


@torch.inference_mode()
def race_vocoders(vocoder: Vocoder, out: Path, rounds: int) -> Table:
    """Speak one mel with all three in turns. `vocoder`: ours, with packed weights or without; facts go into `out`."""
    wanted = parameters(Vocoder(**vocoder.config))
    others = {
        "hifigan": ("HiFi-GAN", as_large(HiFiGAN, HALVINGS, wanted)),
        "vocos": ("Vocos", as_large(Vocos, 8, wanted)),
    }
    device = best_device()
    mel = torch.full((1, MELS, FRAMES), -5.0, device=device)
    counts = {name: parameters(model) for name, (_, model) in others.items()}
    runners = {name: pack_linear_layers(model.to(device)) for name, (_, model) in others.items()}
    times = race({name: lambda m=m: m(mel) for name, m in (runners | {"ours": vocoder}).items()}, rounds)
    table = Table("mel to sound", "ours, x real time", "theirs", "times as fast")
    report, seconds = SpeedReport(out, table, "x real time"), FRAMES * VOICE_HOP / vocoder.rate
    for name, (title, _) in others.items():
        what = f"mel to sound, {wanted / 1e6:.2f} M parameters: {title}'s architecture of {counts[name] / 1e6:.2f} M"
        report.note(f"bench_voice_{name}", what, {"mine": times["ours"], "theirs": times[name]}, seconds)
    return table
