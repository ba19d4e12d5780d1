"""Codes to mel spectrogram by conditional flow matching (the decoder's front half in arXiv 2510.00499).

    codes (B, T), 12.5 a second -> embedding -> look-ahead -> blocks -> x4 -> blocks -> condition (B, 4T, D) -.
                                                                                                              v
    noise (B, 80, 4T) = x at time 0  --- Euler steps along the learnt velocity  v(x, time, condition)  ---> mel, time 1

A code says what is said, not how: the velocity field (arXiv 2210.02747, with the optimal-transport path) chooses one
pronunciation out of many, where a regression would return their blurred mean.

Every layer may look back without limit, but ahead only to the end of its own chunk plus the look-ahead, so that mel
frames can be emitted while codes still arrive.
"""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from mossrepro.utils.devices import send
from mossrepro.utils.errors import ConfigError, DataError
from mossrepro.utils.layers import RMSNorm, TransformerBlock, rotary_table
from mossrepro.utils.random import rng
from mossrepro.vocoder.checkpoint import load_module

FRAMES = 4  # mel frames of one code
SIGMA = 1e-6  # width of the path's end around the data, sigma_min
HEAD = 64  # width of an attention head
THETA = 10000.0
SPREAD = 0.5  # standard deviation of the code embedding's initial values


def chunk_mask(length: int, chunk: int, device: torch.device) -> Tensor:
    """(length, length) bool: row i may look at column j when j's chunk is not later than i's; chunk 0 = no limit."""
    place = torch.arange(length, device=device) // (chunk if chunk > 0 else max(length, 1))
    return place[:, None] >= place[None, :]


def cosine_time(t: Tensor) -> Tensor:
    """Time schedule 1 - cos(t pi / 2): small steps near the noise, where the direction is decided; 0 -> 0, 1 -> 1."""
    return 1 - torch.cos(t * math.pi / 2)


class CausalConvolution(nn.Module):
    """Depthwise convolution over the last `kernel` rows, added to the input: (B, L, D) -> (B, L, D)."""

    def __init__(self, dim: int, kernel: int = 5):
        super().__init__()
        self.weight = nn.Conv1d(dim, dim, kernel, groups=dim)
        self.reach = kernel - 1

    def forward(self, x: Tensor) -> Tensor:
        return x + F.silu(self.weight(F.pad(x.transpose(1, 2), (self.reach, 0)))).transpose(1, 2)


class Block(nn.Module):
    """Causal convolution, shift and scale by the flow's time (estimator only), then a transformer layer.

    Shapes: x (B, L, D), time (B, D) or None, mask (B, 1, L, L) -> (B, L, D).
    """

    def __init__(self, dim: int, timed: bool):
        super().__init__()
        self.convolution = CausalConvolution(dim)
        self.layer = TransformerBlock(dim, dim // HEAD, dim // HEAD, HEAD, 8 * dim // 3 // 32 * 32, True, 1e-6)
        self.modulate = nn.Linear(dim, 2 * dim) if timed else None
        if self.modulate is not None:
            nn.init.zeros_(self.modulate.weight), nn.init.zeros_(self.modulate.bias)

    def forward(self, x: Tensor, table: tuple[Tensor, Tensor], mask: Tensor, time: Tensor | None = None) -> Tensor:
        x = self.convolution(x)
        if self.modulate is not None and time is not None:
            scale, shift = self.modulate(time)[:, None].chunk(2, -1)
            x = x * (1 + scale) + shift
        return self.layer(x, table, mask)


class Stack(nn.Module):
    """Blocks over rows whose chunks hold `chunk` rows: (B, L, D) -> (B, L, D)."""

    def __init__(self, dim: int, blocks: int, chunk: int, timed: bool = False):
        super().__init__()
        self.chunk = chunk
        self.blocks = nn.ModuleList(Block(dim, timed) for _ in range(blocks))

    def forward(self, x: Tensor, valid: Tensor, time: Tensor | None = None) -> Tensor:
        """valid (B, L) is False on padding, which is masked out (but every row may attend to itself)."""
        length = x.shape[1]
        mask = chunk_mask(length, self.chunk, x.device) & valid[:, None, :]
        mask = (mask | torch.eye(length, dtype=torch.bool, device=x.device))[:, None]  # (B, 1, L, L)
        table = rotary_table(torch.arange(length, device=x.device)[None], HEAD, THETA)
        for block in self.blocks:
            x = block(x, table, mask, time)
        return x


class CodeEncoder(nn.Module):
    """codes (B, T) -> condition (B, 4T, dim). Row i sees codes up to the end of its chunk + `look_ahead`."""

    def __init__(self, codes: int, dim: int, blocks: int, fine_blocks: int, chunk: int, look_ahead: int):
        super().__init__()
        self.look_ahead = look_ahead
        self.embedding = nn.Embedding(codes, dim)
        nn.init.normal_(self.embedding.weight, std=SPREAD)
        self.ahead = nn.Conv1d(dim, dim, look_ahead + 1)
        self.coarse = Stack(dim, blocks, chunk)
        self.upsample = nn.Linear(dim, FRAMES * dim)
        self.fine = Stack(dim, fine_blocks, FRAMES * chunk)
        self.norm = RMSNorm(dim)

    @torch.no_grad()
    def start_from(self, codebook: Tensor) -> None:
        """Initialise the embedding from codebook (codes, C): a random projection nearly keeps its distances."""
        dim = self.embedding.embedding_dim
        turned = (codebook - codebook.mean(0)) @ torch.randn(codebook.shape[1], dim).to(codebook)
        self.embedding.weight.copy_(SPREAD * turned / turned.std())

    def forward(self, codes: Tensor, valid: Tensor) -> Tensor:
        x = self.embedding(codes) * valid[..., None]
        x = x + F.silu(self.ahead(F.pad(x.transpose(1, 2), (0, self.look_ahead)))).transpose(1, 2)
        x = self.coarse(x, valid)
        x = rearrange(self.upsample(x), "b t (frames d) -> b (t frames) d", frames=FRAMES)
        return self.norm(self.fine(x, repeat(valid, "b t -> b (t frames)", frames=FRAMES)))


class Estimator(nn.Module):
    """Velocity of the flow: x (B, bands, L), time (B,), condition (B, L, dim) -> (B, bands, L)."""

    def __init__(self, bands: int, dim: int, blocks: int, chunk: int):
        super().__init__()
        self.time = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim), nn.SiLU())
        self.dim = dim
        self.x_in = nn.Linear(bands, dim)
        self.condition_in = nn.Linear(dim, dim)
        self.stack = Stack(dim, blocks, FRAMES * chunk, timed=True)
        self.norm = RMSNorm(dim)
        self.out = nn.Linear(dim, bands)
        nn.init.zeros_(self.out.weight), nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, time: Tensor, condition: Tensor, valid: Tensor) -> Tensor:
        rates = torch.exp(-math.log(10000.0) * torch.arange(self.dim // 2, device=x.device) / (self.dim // 2))
        angles = 1000 * time[:, None] * rates
        clock = self.time(torch.cat([angles.cos(), angles.sin()], -1))
        y = self.x_in(x.transpose(1, 2)) + self.condition_in(condition)
        return self.out(self.norm(self.stack(y, valid, clock))).transpose(1, 2)


class FlowDecoder(nn.Module):
    """codes (B, T) int64 -> log-mel (B, bands, 4T) of `mossrepro.utils.audio.mel24`.

    Args:
        codes: size of the codebook.
        bands: mel bands.
        dim: width of all blocks, a multiple of 64.
        blocks: transformer layers at 12.5 Hz.
        fine_blocks: transformer layers at 50 Hz.
        flow_blocks: transformer layers of the velocity estimator, at 50 Hz.
        chunk: codes that are decoded together; 0: the whole utterance.
        look_ahead: codes that are seen beyond a chunk.
        mel_mean: mean of the training mels; the flow runs on (mel - mean) / std.
        mel_std: their standard deviation.
        steps: Euler steps.
        guidance: strength of classifier-free guidance.
        temperature: scale of the starting noise.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        codes: int,
        bands: int = 80,
        dim: int = 256,
        blocks: int = 6,
        fine_blocks: int = 1,
        flow_blocks: int = 4,
        chunk: int = 5,
        look_ahead: int = 3,
        mel_mean: float = -5.7,
        mel_std: float = 3.2,
        steps: int = 10,
        guidance: float = 0.7,
        temperature: float = 1.0,
    ):
        super().__init__()
        if dim % HEAD:
            raise ConfigError(f"dim: {dim} is not a multiple of {HEAD}")
        self._config = dict(
            codes=codes,
            bands=bands,
            dim=dim,
            blocks=blocks,
            fine_blocks=fine_blocks,
            flow_blocks=flow_blocks,
            chunk=chunk,
            look_ahead=look_ahead,
            steps=steps,
            guidance=guidance,
            temperature=temperature,
        )
        self.codes, self.bands, self.steps = codes, bands, steps
        self.guidance, self.temperature = guidance, temperature
        self.encoder = CodeEncoder(codes, dim, blocks, fine_blocks, chunk, look_ahead)
        self.estimator = Estimator(bands, dim, flow_blocks, chunk)
        self.coarse_mel = nn.Linear(dim, bands)
        self.register_buffer("mean", torch.tensor(mel_mean))
        self.register_buffer("std", torch.tensor(mel_std))

    @property
    def config(self) -> dict[str, int | float]:
        """Arguments that rebuild this model, the statistics of its mels included."""
        return {**self._config, "mel_mean": self.mean.item(), "mel_std": self.std.item()}

    def set_statistics(self, mean: float, std: float) -> None:
        """Set the mean and standard deviation of the training mels."""
        self.mean.fill_(mean), self.std.fill_(std)

    def losses(
        self, codes: Tensor, mel: Tensor, valid: Tensor, time: Tensor, noise: Tensor, keep: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Flow-matching loss and the regression loss that gives the encoder a head start (Grad-TTS, arXiv 2105.06337).

        Shapes: codes (B, T), mel (B, bands, 4T), valid (B, T) bool, time (B,) uniform in [0, 1), noise as mel,
        keep (B,) bool: False hides the condition (classifier-free guidance) -> two scalars.
        On the path x_t = (1 - (1 - sigma) t) noise + t mel the velocity is mel - (1 - sigma) noise.
        """
        target = (mel - self.mean) / self.std
        condition = self.encoder(codes, valid)
        frames = repeat(valid, "b t -> b (t frames)", frames=FRAMES)
        weight = frames[:, None].float() / (frames.sum() * self.bands).clamp_min(1)
        coarse_mel = self.coarse_mel(condition).float().transpose(1, 2)
        t = cosine_time(time)[:, None, None]
        x = (1 - (1 - SIGMA) * t) * noise + t * target
        velocity = self.estimator(x, t[:, 0, 0], condition * keep[:, None, None], frames).float()
        wanted = target - (1 - SIGMA) * noise
        flow = ((velocity - wanted).square() * weight).sum()
        return flow, ((coarse_mel - target).abs() * weight).sum()

    @torch.no_grad()
    def forward(self, codes: Tensor, lengths: Tensor | None = None, noise: Tensor | None = None) -> Tensor:
        """Decode: codes (B, T), lengths (B,) in codes -> mel (B, bands, 4T).

        The starting noise (B, bands, 4T) is the same every time unless given, so decoding is deterministic.
        Codes may be in main memory, and are then checked: DataError for one outside the codebook. On another device
        that would wait for it.
        """
        if codes.device.type == "cpu" and codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.codes:
            raise DataError(f"codes {int(codes.min())}...{int(codes.max())} do not fit a codebook of {self.codes}")
        codes = send(codes, self.mean.device)
        batch, length = codes.shape
        places = torch.arange(length, device=codes.device)
        valid = places[None] < (lengths[:, None] if lengths is not None else length)
        valid = valid.expand(batch, length)
        condition = self.encoder(codes, valid)
        both = torch.cat([condition, torch.zeros_like(condition)])
        frames = repeat(valid, "b t -> (two b) (t frames)", two=2, frames=FRAMES)
        x = send(fixed_noise(self.bands, FRAMES * length), codes.device) if noise is None else noise
        x = self.temperature * x.expand(batch, -1, -1)
        clock = cosine_time(torch.linspace(0, 1, self.steps + 1, device=codes.device))
        for now, then in zip(clock[:-1], clock[1:], strict=True):
            velocity = self.estimator(x.repeat(2, 1, 1), now.expand(2 * batch), both, frames).float()
            guided, free = velocity.chunk(2)
            x = x + (then - now) * ((1 + self.guidance) * guided - self.guidance * free)
        return x * self.std + self.mean

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "FlowDecoder":
        """Load `config.json` and `model.safetensors` from a folder; CheckpointError when they do not fit."""
        return load_module(cls, folder)


def fixed_noise(bands: int, frames: int) -> Tensor:
    """Standard normal (bands, frames): the same first columns for every length and on every machine."""
    return torch.from_numpy(rng(0, "flow noise").standard_normal((frames, bands), dtype="float32")).T
