"""The layer-split language model (arXiv 2510.00499, section on the layer split; layout of the released checkpoint).

A pretrained text LLM is cut after its trunk. Its last layers become the text tail, a copy the speech tail:

                                  +-> text tail   -> text norm   -> text head    (next text id)
    grid -> select embed -> trunk-|
                                  +-> speech tail -> speech norm -> speech head  (next speech id)

Both tails see every row; which head's sample is kept is the decoding automaton's business (`decode.py`).
The paper's numbers: 36 layers of Qwen3-8B = 32 shared + 4, so 40 layer instances after the copy.
"""

from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mossrepro.errors import ConfigError
from mossrepro.layers import LayerCache, RMSNorm, TransformerBlock, rotary_table
from mossrepro.vocab import SPARE_SPEECH_ROWS


@dataclass
class LMConfig:
    """Shape of a layer-split LM. `layers` counts the backbone's layers, of which the last `tail_layers` are split."""

    dim: int = 576
    layers: int = 30
    tail_layers: int = 4
    heads: int = 9
    kv_heads: int = 3
    head_dim: int = 64
    hidden: int = 1536
    text_vocab: int = 49152
    codes: int = 1024
    theta: float = 100_000.0
    rope_scaling: dict[str, float] | None = None  # Llama 3's, see `layers.stretched`
    eps: float = 1e-5
    qk_norm: bool = False
    tied: bool = True
    modality_pad: int = 16

    def __post_init__(self) -> None:
        for name in ("dim", "layers", "tail_layers", "heads", "kv_heads", "head_dim", "hidden", "text_vocab", "codes"):
            if type(getattr(self, name)) is not int:
                raise ConfigError(f"{name}={getattr(self, name)!r} is not a whole number")
        if not 0 <= self.tail_layers < self.layers:
            raise ConfigError(
                f"tail_layers={self.tail_layers} must be at least 0 and below the backbone's {self.layers} layers"
            )

    @property
    def speech_vocab(self) -> int:
        """Rows of the speech embedding and head: codes, EOSP, unused rows (paper: 16,384 + 128 = 16,512)."""
        return self.codes + SPARE_SPEECH_ROWS

    def to_dict(self) -> dict:
        return asdict(self)


class Hidden(NamedTuple):
    """What the two tails say at every row, after their norms, and what they were given ("trunk"), after the text half's
    norm: (B, L, D) each; None for what was not asked for.
    """

    text: Tensor | None
    speech: Tensor | None
    trunk: Tensor | None = None


@dataclass
class Cache:
    """Keys and values of all layer instances, in the order trunk, text tail, speech tail."""

    trunk: list[LayerCache]
    text_tail: list[LayerCache]
    speech_tail: list[LayerCache]

    @property
    def used(self) -> int:
        return self.trunk[0].used


class LayerSplitLM(nn.Module):
    """A text LLM with a second pair of ears and a second mouth. Input grid (B, L, 2): text ids, speech ids."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.config = c = config
        self.checkpointed = False  # activation checkpointing of every layer while training
        self.text_embed = nn.Embedding(c.text_vocab, c.dim)
        self.speech_embed = nn.Embedding(c.speech_vocab, c.dim)
        self.trunk = nn.ModuleList([self._block() for _ in range(c.layers - c.tail_layers)])
        self.text_tail = nn.ModuleList([self._block() for _ in range(c.tail_layers)])
        self.speech_tail = nn.ModuleList([self._block() for _ in range(c.tail_layers)])
        self.text_norm = RMSNorm(c.dim, c.eps)
        self.speech_norm = RMSNorm(c.dim, c.eps)
        self.text_head = nn.Linear(c.dim, c.text_vocab, bias=False)
        self.speech_head = nn.Linear(c.dim, c.speech_vocab, bias=False)
        if c.tied:
            self.text_head.weight = self.text_embed.weight

    def _block(self) -> TransformerBlock:
        c = self.config
        return TransformerBlock(c.dim, c.heads, c.kv_heads, c.head_dim, c.hidden, c.qk_norm, c.eps)

    def embed(self, grid: Tensor) -> Tensor:
        """Select, never sum: (B, L, 2) -> (B, L, D). Text id == modality pad: the speech embedding."""
        text, speech = grid.unbind(-1)
        spoken = text == self.config.modality_pad
        heard = self.speech_embed(torch.where(spoken, speech, 0))
        return torch.where(spoken[..., None], heard, self.text_embed(text))

    def forward(
        self,
        grid: Tensor,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        cache: Cache | None = None,
        tails: tuple[str, ...] = ("text", "speech"),
    ) -> Hidden:
        """Run trunk and tails.

        Shapes: grid (B, L, 2) int64; positions (B, L), default those after the cache's; mask (B, 1, L, keys) bool,
        default causal. `tails` names those to run, and "trunk" where its end is wanted: training a batch without text
        targets can leave the text tail out.
        """
        if positions is None:
            first = cache.used if cache else 0
            positions = torch.arange(first, first + grid.shape[1], device=grid.device)[None].expand(grid.shape[:2])
        table = self.rotary(positions)
        x = self.run("trunk", self.embed(grid), table, mask, cache)
        text = speech = None
        if "text" in tails:
            text = self.text_norm(self.run("text_tail", x, table, mask, cache))
        if "speech" in tails:
            speech = self.speech_norm(self.run("speech_tail", x, table, mask, cache))
        return Hidden(text, speech, self.text_norm(x) if "trunk" in tails else None)

    def rotary(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The rotary table of positions (B, L), for `run`."""
        return rotary_table(positions, self.config.head_dim, self.config.theta, self.config.rope_scaling)

    def run(
        self, part: str, x: Tensor, table: tuple[Tensor, Tensor], mask: Tensor | None, cache: Cache | None
    ) -> Tensor:
        """The layers of "trunk", "text_tail" or "speech_tail": x (B, L, D) -> (B, L, D), without a norm at the end."""
        caches = getattr(cache, part) if cache else None
        for i, block in enumerate(getattr(self, part)):
            if self.checkpointed and self.training:  # keep its input only, and compute it again on the way back
                x = checkpoint(block, x, table, mask, use_reentrant=False)
            else:
                x = block(x, table, mask, caches[i] if caches else None)
        return x

    def new_cache(self, batch: int, capacity: int) -> Cache:
        """Allocate room for `capacity` rows: 2 * layers * kv_heads * head_dim numbers a row (paper: 160 KiB, bf16)."""
        c, like = self.config, self.text_embed.weight
        shape = (batch, c.kv_heads, capacity, c.head_dim)

        def layers(blocks: nn.ModuleList) -> list[LayerCache]:
            return [LayerCache(like.new_empty(shape), like.new_empty(shape)) for _ in blocks]

        return Cache(layers(self.trunk), layers(self.text_tail), layers(self.speech_tail))

    def speech_parameters(self) -> dict[str, nn.Parameter]:
        """What speech adds to the text LLM, and all that Stage 1 trains (907.1 M at full size)."""
        prefixes = ("speech_embed.", "speech_tail.", "speech_norm.", "speech_head.")
        return {name: p for name, p in self.named_parameters() if name.startswith(prefixes)}

    def train_only(self, part: str) -> None:
        """Freeze all but `part`: "speech" (Stage 1) or "all" (Stage 2, SFT)."""
        if part not in ("speech", "all"):
            raise ConfigError(f"train={part!r}: choose speech or all")
        speech = set(self.speech_parameters())
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(part == "all" or name in speech)
