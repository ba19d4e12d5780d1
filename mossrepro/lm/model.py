"""The layer-split language model (arXiv 2510.00499, section on the layer split; layout of the released checkpoint).

A pretrained text LLM is cut after its trunk. Its last layers become the text tail, a copy the speech tail:

                                  +-> text tail   -> text norm   -> text head    (next text id)
    grid -> select embed -> trunk-|
                                  +-> speech tail -> speech norm -> speech head  (next speech id)

With `split_at` the tails are not the last layers: they follow the trunk's first `split_at` layers, and each channel
then runs through the rest of the trunk by itself (an ablation: split first, in the middle, last).

Both tails see every position; which head is sampled is decided in decoding (`decode.py`).
The paper's numbers: 36 layers of Qwen3-8B = 32 shared + 4, so 40 layer instances after the copy.
"""

import math
import re
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from mossrepro.lm.config import LMConfig
from mossrepro.lm.ears import Gate, add_ears, heard_positions
from mossrepro.lm.grid import Grid
from mossrepro.lm.inner_ear import InnerEar, InnerEarConfig, words_read
from mossrepro.lm.mouth import Mouth, mean_named, reply_mask, reply_starts
from mossrepro.utils.errors import ConfigError
from mossrepro.utils.layers import LayerCache, Packing, RMSNorm, TransformerBlock, rotary_table

# What a stage may train, see `LayerSplitLM.train_only`; beginnings of names beside the parameters of speech.
_PREFIXES = {"speech": (), "ears": ("heard_",), "trunk": ("trunk.",), "shared": ("trunk.",), "all": ("",)}
TRAINED = (*_PREFIXES, "gradual")


class Hidden(NamedTuple):
    """Hidden states at every position, (B, L, D) each; None for those not asked for.

    text, speech: the outputs of the tails, after their norms. trunk: the input of the tails, after the text norm.
    spoken_text: the output of the speech tail after the *text* norm: the text head reads off it what is being said.
    """

    text: Tensor | None
    speech: Tensor | None
    trunk: Tensor | None = None
    spoken_text: Tensor | None = None


@dataclass
class Cache:
    """Keys and values of all layers; `*_post_split` are the trunk's layers after the split, once for each channel."""

    trunk: list[LayerCache]
    text_tail: list[LayerCache]
    speech_tail: list[LayerCache]
    text_post_split: list[LayerCache]
    speech_post_split: list[LayerCache]
    mouth: list[LayerCache]

    @property
    def used(self) -> int:
        """Positions in the cache so far, by the first layer."""
        return next(layer for part in (self.trunk, self.text_tail, self.text_post_split) for layer in part).used


def passing_over(seen: Tensor) -> tuple[Tensor, Tensor]:
    """Positions that count what is `seen` alone, and the mask under which the rest is not looked at.

    seen (B, L) bool -> (B, L) int64, (B, 1, L, L) bool. What is passed over sees itself: its softmax is defined then.
    """
    places = torch.arange(seen.shape[1], device=seen.device)
    keys, queries = places, places[:, None]
    mask = (keys <= queries) & (seen[:, None] | (keys == queries))
    return (seen.cumsum(1) - 1).clamp(min=0), mask[:, None]


class LayerSplitLM(nn.Module):
    """A text LLM that also takes in and puts out speech codes. Input: a grid (B, L, 2) of text ids and speech ids."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.config = c = config
        self.checkpointed = False  # activation checkpointing of every layer while training
        self.read: Tensor | None = None  # (B, L) bool: heard codes of the batch at hand that are read, see `passed`
        self.frozen_trunk: list[nn.Module] | None = None  # in the trunk's place while only a tail is trained
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
        self.gate: Gate | None = None
        if c.ears:
            self.add_ears()
        self.inner_ear: InnerEar | None = None
        if c.inner_layers:
            self.add_inner_ear()
        self.mouth: Mouth | None = None
        if c.mouth:
            self.add_mouth()

    def add_ears(self) -> None:
        """Gated ears on the trunk, as the config says, all 0 (`init.start_ears`)."""
        self.gate = add_ears(self.trunk, self.config.ears)
        self.heard_embed = nn.Embedding.from_pretrained(torch.zeros_like(self.speech_embed.weight), freeze=False)

    def add_inner_ear(self) -> None:
        """An inner ear, as the config says, at random (`init.start_inner_ear`)."""
        c = self.config
        self.inner_ear = InnerEar(InnerEarConfig(c.codes, c.inner_names, c.inner_width, c.inner_layers, c.inner_ahead))
        self.heard_nothing = nn.Parameter(torch.zeros_like(self.text_embed.weight[0]))

    def add_mouth(self) -> None:
        """A mouth, as the config says, at random (`init.start_mouth`)."""
        c = self.config
        self.mouth = Mouth(c.dim, c.speech_vocab, [self._block() for _ in range(c.mouth)], c.eps)

    def grid(self, tokenizer: Tokenizer) -> Grid:
        """A `Grid` for this model, with the system turns that it was trained with."""
        return Grid(tokenizer, self.config.codes, self.config.system_turns)

    def _block(self) -> TransformerBlock:
        c = self.config
        return TransformerBlock(c.dim, c.heads, c.kv_heads, c.head_dim, c.ffn_dim, c.qk_norm, c.eps)

    def embed(self, grid: Tensor) -> Tensor:
        """Select, never sum: (B, L, 2) -> (B, L, D). Text id == modality pad: the speech embedding.

        Also opens the gate of the ears, if there are any, for the layers that come next.
        """
        text, speech = grid.unbind(-1)
        spoken = text == self.config.modality_pad
        codes = torch.where(spoken, speech, 0)
        of_speech, self.read = self.speech_embed(codes), None
        if self.gate is not None:
            self.gate.heard = heard_positions(text, self.config.modality_pad, self.config.user_turn)
            if self.gate.heard is not None:
                if self.inner_ear is not None:
                    heard = self.gate.heard[..., 0] & (codes < self.config.codes)  # not EOSP, which is no sound
                    of_speech = torch.where(heard[..., None], self.hear(codes, heard), of_speech)
                    if not self.training and not heard.any():  # a device does not look before (`heard_positions`)
                        self.read = None
                of_speech = of_speech + (self.gate.heard * self.heard_embed(codes)).to(of_speech.dtype)
        return torch.where(spoken[..., None], of_speech, self.text_embed(text))

    def hear(self, codes: Tensor, heard: Tensor) -> Tensor:
        """Mean embeddings of what an inner ear names: codes (B, L), heard (B, L) bool -> (B, L, D).

        With `inner_passes` also notes which codes are `read`, see `passed`.
        """
        shares, named = self.inner_ear.shares(codes, heard), self.text_embed(self.inner_ear.names)
        if self.config.inner_passes:
            shares, read = words_read(shares)
            self.read = heard & read
        nothing = (1 - shares.sum(-1, keepdim=True)).to(named.dtype)
        return shares.to(named.dtype) @ named + nothing * self.heard_nothing

    def passed(self) -> Tensor | None:
        """What the trunk passes over in the grid that was embedded last, (B, L) bool; None: nothing.

        Of heard turns SOSP, EOSP and all codes that are not `read`: it does not look there, and does not count these
        positions, so that names follow each other as words do in writing.
        """
        if self.read is None:
            return None
        turn = self.gate.heard[..., 0]
        return (turn | F.pad(turn[:, 1:], (0, 1))) & ~self.read

    def forward(
        self,
        grid: Tensor,
        positions: Tensor | None = None,
        mask: Tensor | Packing | None = None,
        cache: Cache | None = None,
        tails: tuple[str, ...] = ("text", "speech"),
    ) -> Hidden:
        """Run trunk and tails.

        Shapes: grid (B, L, 2) int64; positions (B, L), default those after the cache's; mask (B, 1, L, keys) bool,
        default causal but for what is `passed`, or a `Packing` of documents in a grid (1, L, 2), where positions
        restart. `tails` names the fields of `Hidden` that are wanted: training a batch without text targets can leave
        the text tail out.
        """
        given, x = mask, self.embed(grid)
        if (passed := self.passed()) is not None:
            if positions is not None or mask is not None or cache is not None:
                what = "takes no packed batches (pack=false), nor a mask, positions or a cache"
                raise ConfigError(f"an inner ear that passes over codes {what}")
            positions, mask = passing_over(~passed)
        elif positions is None and isinstance(mask, Packing):
            positions = mask.positions(grid.device)
        elif positions is None:
            first = cache.used if cache else 0
            positions = torch.arange(first, first + grid.shape[1], device=grid.device)[None].expand(grid.shape[:2])
        table = self.rotary(positions)
        x = self.run("trunk", x, table, mask, cache) if self.frozen_trunk is None else self._frozen(x, table, mask)
        text = speech = spoken_text = None
        if "text" in tails:
            text = self.text_norm(self.channel("text", x, table, mask, cache))
        if "speech" in tails or "spoken_text" in tails:
            said = self.channel("speech", x, table, mask, cache)
            spoken_text = self.text_norm(said) if "spoken_text" in tails else None
            if self.mouth is not None and "speech" in tails:
                said = self.say(said, grid, table, self._mouth_mask(grid, given, cache), cache)
            speech = self.speech_norm(said) if "speech" in tails else None
        return Hidden(text, speech, self.text_norm(x) if "trunk" in tails else None, spoken_text)

    @torch.no_grad()
    def _frozen(self, x: Tensor, table: tuple[Tensor, Tensor], mask: Tensor | Packing | None) -> Tensor:
        """The trunk as it answers, without a gradient: x (B, L, D) -> (B, L, D), in x's precision."""
        out = x.to(next(self.frozen_trunk[0].parameters()).dtype)
        with torch.autocast(x.device.type, enabled=False):
            for block in self.frozen_trunk:
                out = block(out, table, mask, None)
        return out.to(x.dtype)

    def say(
        self, tail: Tensor, grid: Tensor, table: tuple[Tensor, Tensor], mask: Tensor | None, cache: Cache | None
    ) -> Tensor:
        """What the mouth makes of the speech tail's output: tail (B, L, D), its grid (B, L, 2) -> (B, L, D).

        Codes teach the tail nothing: it gets gradients of 0, so that every step is one for it on every rank. What it
        names is read where there is speech alone.
        """
        text, codes = grid.unbind(-1)
        spoken = text == self.config.modality_pad
        with torch.no_grad():
            named, output = torch.zeros_like(tail), tail.detach()
            read = spoken | (text == self.config.speech_from)
            at = (slice(None),) if self.mouth.reads_all else read.nonzero(as_tuple=True)
            named[at] = mean_named(self.text_head(self.text_norm(output[at])), self.text_embed).to(named.dtype)
        return self.run("mouth", self.mouth.enter(named + 0 * tail, codes, spoken), table, mask, cache)

    def recite(self, grid: Tensor, tokens: Tensor, others: Tensor, shares: Tensor) -> Tensor:
        """What the mouth makes of words that are given, without trunk and tail, after the speech norm.

        grid (B, L, 2); tokens (B, L) int64, below 0 where nothing is said; others, shares (B, L): another token, and
        how much of what is given is of it -> (B, L, D).
        """
        text, codes = grid.unbind(-1)
        with torch.no_grad():
            of_tokens, of_others = self.text_embed(tokens.clamp(min=0)), self.text_embed(others.clamp(min=0))
            named = of_tokens.lerp(of_others, shares[..., None].to(of_tokens)) * (tokens >= 0)[..., None]
        table = self.rotary(torch.arange(text.shape[1], device=text.device).expand(text.shape))
        x = self.mouth.enter(named, codes, text == self.config.modality_pad)
        return self.speech_norm(self.run("mouth", x, table, self._mouth_mask(grid, None, None), None))

    def _mouth_mask(self, grid: Tensor, mask: Tensor | Packing | None, cache: Cache | None) -> Tensor:
        """The mask of the mouth in a forward pass over whole sequences."""
        if mask is not None or cache is not None:
            raise ConfigError("a mouth, which sees its reply alone, takes no packed batches: pack=false")
        return reply_mask(reply_starts(grid[..., 0], self.config.speech_from))

    def rotary(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """The rotary table of positions (B, L), for `run`."""
        return rotary_table(positions, self.config.head_dim, self.config.theta, self.config.rope_scaling)

    def channel(
        self, name: str, x: Tensor, table: tuple[Tensor, Tensor], mask: Tensor | Packing | None, cache: Cache | None
    ) -> Tensor:
        """The layers after the split for the channel "text" or "speech": its tail, then the rest of the trunk."""
        return self.run(f"{name}_post_split", self.run(f"{name}_tail", x, table, mask, cache), table, mask, cache)

    def run(
        self, part: str, x: Tensor, table: tuple[Tensor, Tensor], mask: Tensor | Packing | None, cache: Cache | None
    ) -> Tensor:
        """The layers of a part, named as in `Cache`: x (B, L, D) -> (B, L, D), without a norm at the end."""
        caches = getattr(cache, part) if cache else None
        for i, block in enumerate(self._blocks(part)):
            if self.checkpointed and self.training:  # keep its input only, recompute it in the backward pass
                x = checkpoint(block, x, table, mask, use_reentrant=False)
            else:
                x = block(x, table, mask, caches[i] if caches else None)
        return x

    def _blocks(self, part: str) -> list[TransformerBlock]:
        if part == "trunk":
            return [*self.trunk][: self.config.split_layer]
        if part == "mouth":
            return [] if self.mouth is None else [*self.mouth.layers]
        return [*self.trunk][self.config.split_layer :] if part.endswith("_post_split") else [*getattr(self, part)]

    def compile_blocks(self, backend: str = "inductor") -> None:
        """Let PyTorch compile the layers, one graph for all, at their first use (minutes; any lengths)."""
        for block in self.blocks():
            block.compile(dynamic=True, backend=backend)

    def blocks(self) -> list[TransformerBlock]:
        """All layers."""
        return [*self.trunk, *self.text_tail, *self.speech_tail, *self._blocks("mouth")]

    def new_cache(self, batch: int, capacity: int) -> Cache:
        """A cache of `capacity` positions: 2 * layers * kv_heads * head_dim numbers each (paper: 160 KiB in bf16)."""
        shape, like = (batch, self.config.kv_heads, capacity, self.config.head_dim), self.text_embed.weight

        def layers(blocks: list[TransformerBlock]) -> list[LayerCache]:
            return [LayerCache(like.new_empty(shape), like.new_empty(shape)) for _ in blocks]

        return Cache(**{part.name: layers(self._blocks(part.name)) for part in fields(Cache)})

    def speech_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters that speech adds to the text LLM; Stage 1 trains only these (907.1 M at full size)."""
        c = self.config
        extra_layers = (f"trunk.{i}." for i in range(c.layers - c.extra_layers, c.layers))
        prefixes = ("speech_embed.", "speech_tail.", "speech_norm.", "speech_head.", "mouth.", *extra_layers)
        return {name: p for name, p in self.named_parameters() if name.startswith(prefixes)}

    def _train_named(self, pattern: str) -> None:
        """Freeze all parameters whose names do not match; ConfigError if that would be all of them."""
        try:
            chosen = {name for name, _ in self.named_parameters() if re.match(pattern, name)}
        except re.error:
            chosen = set()
        if not chosen:
            names = f"choose {', '.join(TRAINED[:-1])} or {TRAINED[-1]}, or an expression that names parameters match"
            raise ConfigError(f"train={pattern!r}: {names}")
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name in chosen)

    def train_only(self, part: str, done: float = 1.0) -> None:
        """Freeze all but `part`: "speech" (Stage 1), "ears", "trunk", "shared" (both), "all" (Stage 2, SFT), "gradual".

        Or those whose names match a regular expression, as "trunk.[3-9].mlp", from their beginning.

        "gradual" unfreezes the share `done` (0 to 1) of the text half's layers, from the last one down; its embedding,
        head and norm come with the first layer of the trunk. LoRA parameters (`lora.py`) are always trained.
        """
        if part not in TRAINED:
            return self._train_named(part)
        if part == "ears" and not self.config.ears:
            raise ConfigError("train=ears: the model has no ears; give ears=RANK")
        learns = set() if part in ("trunk", "ears") else set(self.speech_parameters())
        layers = [f"{where}.{i}." for where, i in map(self.config.locate_layer, range(self.config.layers))]
        if part == "gradual":
            count = math.ceil(done * len(layers))
            prefixes = tuple(layers[len(layers) - count :]) + (("text_",) if count == len(layers) else ())
        else:
            prefixes = _PREFIXES[part]
        for name, parameter in self.named_parameters():
            wanted = name in learns or ".lora_" in name or (part == "ears" and ".ear." in name)
            parameter.requires_grad_(wanted or name.startswith(prefixes))
