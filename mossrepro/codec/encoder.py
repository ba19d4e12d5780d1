"""Causal speech encoder: log-mel at 100 Hz -> one vector every 80 ms, initialised from Whisper's first layers.

The paper's tokenizer (arXiv 2510.00499, section on the speech tokenizer) takes the lower half of a Whisper encoder,
makes every attention and convolution causal and pools 50 Hz down to 12.5 Hz. Ours does the same with Whisper-base:

    mel 100 Hz -> conv, conv (stride 2) -> 50 Hz -> n Whisper layers, causal, windowed
               -> 4 frames side by side, one linear map (starts as their average) -> 12.5 Hz -> m causal layers

Every part can carry a state from one chunk to the next, so a stream of any length costs constant memory.
"""

import math
from dataclasses import dataclass, field

import torch
from einops import rearrange, reduce
from torch import Tensor, nn
from torch.nn import functional as F

from mossrepro.utils.errors import ConfigError

WHISPER_NAMES = {  # our names: Whisper's; q, k and v share one matrix
    "attention_norm": ["attention_norm"],
    "qkv": ["attention.q", "attention.k", "attention.v"],
    "out": ["attention.out"],
    "feedforward_norm": ["mlp_norm"],
    "up": ["mlp_in"],
    "down": ["mlp_out"],
}
POOL = 4  # 50 Hz frames per code
MELS_PER_CODE = 8  # 100 Hz frames per code


def sinusoids(length: int, dim: int) -> Tensor:
    """Whisper's position table (length, dim): sines then cosines, wavelengths 2 pi ... 20000 pi."""
    rates = torch.exp(-math.log(10000) / (dim // 2 - 1) * torch.arange(dim // 2))
    angles = torch.arange(length)[:, None] * rates[None]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def windowed_mask(queries: int, keys: int, window: int, device: torch.device) -> Tensor:
    """(queries, keys) bool, True = visible; the last key is the last query's own frame.

    A query sees itself and the window - 1 frames before it, nothing later. window = 0: no limit, future included.
    """
    if window == 0:
        return torch.ones(queries, keys, dtype=torch.bool, device=device)
    at = torch.arange(keys - queries, keys, device=device)[:, None] - torch.arange(keys, device=device)[None]
    return (at >= 0) & (at < window)


class CausalBlock(nn.Module):
    """A Whisper encoder layer (pre-norm attention, GELU feed-forward) that looks back `window` frames at most.

    window = 0: as in Whisper, every frame sees the whole recording. ConfigError where `heads` does not divide `dim`.
    """

    def __init__(self, dim: int, heads: int, window: int, ffn_dim: int) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise ConfigError(f"heads={heads} does not divide dim={dim}")
        self.heads, self.window = heads, window
        self.attention_norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.feedforward_norm = nn.LayerNorm(dim)
        self.up = nn.Linear(dim, ffn_dim)
        self.down = nn.Linear(ffn_dim, dim)

    def forward(self, x: Tensor, past: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """x (B, T, D), past (2, B, H, P, D/H) keys and values of earlier frames -> (B, T, D), the new past."""
        frames = x.shape[1]
        qkv = self.qkv(self.attention_norm(x))
        q, k, v = rearrange(qkv, "b t (three h e) -> three b h t e", three=3, h=self.heads)
        if past is not None:
            k, v = torch.cat([past[0].to(k), k], dim=2), torch.cat([past[1].to(v), v], dim=2)
        mask = windowed_mask(frames, k.shape[2], self.window, x.device)
        # Written out: the fused kernel takes twice as long on a CPU in bfloat16 at these short lengths.
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])  # (B, H, T, P + T)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        seen = scores.masked_fill(~mask, -torch.inf).softmax(-1).to(v) @ v
        x = x + self.out(rearrange(seen, "b h t e -> b t (h e)"))
        x = x + self.down(F.gelu(self.up(self.feedforward_norm(x))))
        return x, torch.stack([kept[:, :, max(0, kept.shape[2] - self.window + 1) :] for kept in (k, v)])


@dataclass
class EncoderState:
    """What a stream remembers between chunks: the tails of both convolutions, each layer's past, the position."""

    mel_tail: Tensor  # (B, 80, 2)
    conv_tail: Tensor  # (B, D, 1)
    past: list[Tensor | None] = field(default_factory=list)
    position: int = 0  # 50 Hz frames seen so far


class _Average(nn.Module):
    """Four frames side by side (B, T, 4 D) -> their mean (B, T, D)."""

    def forward(self, x: Tensor) -> Tensor:
        return reduce(x, "b t (frames d) -> b t d", "mean", frames=POOL)


@torch.no_grad()
def _first_average(pool: nn.Linear) -> nn.Linear:
    """A linear map of four frames side by side that starts as their mean."""
    pool.weight.copy_(torch.eye(pool.out_features).repeat(1, POOL) / POOL)
    pool.bias.zero_()
    return pool


class CausalEncoder(nn.Module):
    """Log-mel (B, mels, 8 T) -> one vector per code (B, T, D), each from frames up to its own end only.

    causal=False: every frame sees all others, as in Whisper; for comparison. plain=True: as in the released tokenizer,
    four frames are averaged, without norms and without layers at 12.5 Hz.
    """

    def __init__(
        self,
        dim: int = 512,
        heads: int = 8,
        layers: int = 3,
        slow_layers: int = 2,
        window: int = 100,
        slow_window: int = 50,
        ffn_dim: int = 2048,
        positions: int = 1500,
        mels: int = 80,
        causal: bool = True,
        plain: bool = False,
    ) -> None:
        super().__init__()
        if plain and slow_layers:
            raise ConfigError(f"plain=true has no layers at 12.5 Hz, but slow_layers is {slow_layers}")
        self.causal, self.plain = causal, plain
        window, slow_window = (window, slow_window) if causal else (0, 0)
        self.conv1 = nn.Conv1d(mels, dim, 3)
        self.conv2 = nn.Conv1d(dim, dim, 3, stride=2)
        self.layers = nn.ModuleList(CausalBlock(dim, heads, window, ffn_dim) for _ in range(layers))
        self.pool_norm = nn.Identity() if plain else nn.LayerNorm(dim)
        self.pool = _Average() if plain else _first_average(nn.Linear(POOL * dim, dim))
        self.slow_layers = nn.ModuleList(CausalBlock(dim, heads, slow_window, ffn_dim) for _ in range(slow_layers))
        self.norm = nn.Identity() if plain else nn.LayerNorm(dim)
        self.register_buffer("positions", sinusoids(positions, dim), persistent=False)

    @torch.no_grad()
    def load_whisper(self, state: dict[str, Tensor]) -> None:
        """Take over Whisper's convolutions and first layers, named as by `speech.whisper.whisper_encoder_state`.

        The 12.5 Hz layers take the layers that follow, a better start than random weights.
        Raises ConfigError when the sizes differ.
        """
        own = dict(self.named_parameters())
        depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("layers."))
        blocks = [f"layers.{i}" for i in range(len(self.layers))]
        blocks += [f"slow_layers.{i}" for i in range(len(self.slow_layers))]
        pairs = {f"{conv}.{end}": state[f"{conv}.{end}"] for conv in ("conv1", "conv2") for end in ("weight", "bias")}
        for i, block in enumerate(blocks[:depth]):
            for end in ("weight", "bias"):
                for ours, theirs in WHISPER_NAMES.items():
                    parts = [state[f"layers.{i}.{name}.{end}"] for name in theirs]
                    pairs[f"{block}.{ours}.{end}"] = torch.cat(parts)
        for name, value in pairs.items():
            if own[name].shape != value.shape:
                raise ConfigError(
                    f"codec {name} is {tuple(own[name].shape)}, the pretrained encoder's is {tuple(value.shape)}: "
                    "use its dim, heads and ffn_dim, or start without it"
                )
            own[name].copy_(value)

    def start(self, batch: int, device: torch.device | None = None) -> EncoderState:
        """The state of a stream before its first frame."""
        mels, dim = self.conv1.in_channels, self.conv1.out_channels
        past: list[Tensor | None] = [None] * (len(self.layers) + len(self.slow_layers))
        return EncoderState(torch.zeros(batch, mels, 2, device=device), torch.zeros(batch, dim, 1, device=device), past)

    def _convolve(self, mel: Tensor, state: EncoderState) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """mel (B, mels, 8 T) -> 50 Hz frames (B, 4 T, D), and the tails that the next chunk needs."""
        # Whisper pads both convolutions by one frame on either side; for the first, that is a future frame.
        padded = torch.cat([state.mel_tail.to(mel), mel], dim=2) if self.causal else F.pad(mel, (1, 1))
        hidden = F.gelu(self.conv1(padded))  # (B, D, 8 T)
        joined = torch.cat([state.conv_tail.to(hidden), hidden], dim=2)
        return F.gelu(self.conv2(joined)).transpose(1, 2), (padded[:, :, -2:], hidden[:, :, -1:])

    def forward(
        self, mel: Tensor, state: EncoderState | None = None, offsets: Tensor | None = None
    ) -> tuple[Tensor, EncoderState]:
        """Encode a chunk of whole codes.

        Shapes: mel (B, 80, 8 T), offsets (B,) int64 or None -> (B, T, D) and the state after it.
        `offsets` shifts the positions of each clip; training draws them at random, because positions wrap around
        after 30 s and a long stream must not suffer from it.
        """
        if state is not None and not self.causal:
            raise ConfigError("an encoder with causal=false encodes whole recordings only; it cannot stream")
        state = state or self.start(mel.shape[0], mel.device)
        x, tails = self._convolve(mel, state)
        at = torch.arange(state.position, state.position + x.shape[1], device=mel.device)[None]
        at = at if offsets is None else at + offsets[:, None]
        x = x + self.positions[at % len(self.positions)]
        past: list[Tensor | None] = []
        for layer, before in zip(self.layers, state.past, strict=False):
            x, after = layer(x, before)
            past.append(after)
        x = self.pool_norm(x)
        x = self.pool(rearrange(x, "b (t frames) d -> b t (frames d)", frames=POOL))  # (B, T, D)
        for layer, before in zip(self.slow_layers, state.past[len(self.layers) :], strict=True):
            x, after = layer(x, before)
            past.append(after)
        return self.norm(x), EncoderState(*tails, past, state.position + POOL * x.shape[1])


class MelStack(nn.Module):
    """No encoder at all: the 8 mel frames of a code side by side. mel (B, mels, 8 T) -> (B, T, 8 mels)."""

    def forward(self, mel: Tensor, state: EncoderState | None = None, offsets: Tensor | None = None):
        """As `CausalEncoder.forward`, but without state and positions."""
        return rearrange(mel, "b mels (t frames) -> b t (frames mels)", frames=MELS_PER_CODE), state
