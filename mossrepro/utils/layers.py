"""Transformer parts shared by every model here: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

The layer is the one of Llama and Qwen3 (the paper's backbone): pre-norm attention and SwiGLU, no biases. Parameters
have the names of the Hugging Face checkpoints, so that weights load without renaming.

B batch, L positions, D model width, H query heads, G key-value heads, E width of one head.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

_SHORT = 512  # keys up to which training on a CPU uses plain matrix products, not the fused attention kernel


class RMSNorm(nn.Module):
    """y = x / sqrt(mean(x^2) + eps) * weight, over the last axis, in float32 whatever the input."""

    def __init__(self, dim: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * F.rms_norm(x.float(), x.shape[-1:], eps=self.eps).to(x.dtype)


def stretched(rates: Tensor, scaling: dict[str, float]) -> Tensor:
    """Llama 3's rotary scaling (arXiv 2407.21783, context extension): slow rotations are divided by `factor`.

    rates (E/2,) in radians per position. Wavelengths shorter than original_max_position_embeddings / high_freq_factor
    stay, those longer than original_max_position_embeddings / low_freq_factor are stretched, the others blended.
    """
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    turns = scaling["original_max_position_embeddings"] * rates / (2 * math.pi)  # within the original context
    kept = ((turns - low) / (high - low)).clamp(0.0, 1.0)
    return rates * (kept + (1 - kept) / scaling["factor"])


def rotary_table(
    positions: Tensor, head_dim: int, theta: float, scaling: dict[str, float] | None = None
) -> tuple[Tensor, Tensor]:
    """Positions (B, L) -> cosines, sines (B, 1, L, E): halves repeated, the sines of the first half negative."""
    rates = theta ** (-torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim)  # (E/2,)
    rates = rates if scaling is None else stretched(rates, scaling)
    angles = positions[:, None, :, None].float() * rates  # (B, 1, L, E/2)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Turn every pair (x_i, x_{i+E/2}) of x (B, H, L, E) by its position's angle."""
    cos, sin = table
    return x * cos.to(x.dtype) + x.roll(x.shape[-1] // 2, -1) * sin.to(x.dtype)


@dataclass
class LayerCache:
    """Keys and values of one layer, allocated once: (B, G, capacity, E) each; the first `used` positions are filled."""

    keys: Tensor
    values: Tensor
    used: int = 0

    def append(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Store k, v (B, G, n, E) after what is there; return everything stored so far, (B, G, used, E) each."""
        more = k.shape[2]
        self.keys.narrow(2, self.used, more).copy_(k)
        self.values.narrow(2, self.used, more).copy_(v)
        self.used += more
        return self.keys.narrow(2, 0, self.used), self.values.narrow(2, 0, self.used)


@dataclass(frozen=True)
class Packing:
    """Documents laid end to end in one sequence: `lengths` in positions, their sum is L. Used in place of a mask."""

    lengths: tuple[int, ...]

    def positions(self, device: torch.device) -> Tensor:
        """(1, L): every document counts from 0."""
        return torch.cat([torch.arange(length, device=device) for length in self.lengths])[None]


@torch.compiler.disable  # a graph would be compiled for every set of lengths
def attend_packed(q: Tensor, k: Tensor, v: Tensor, packing: Packing) -> Tensor:
    """Plain causal attention inside every document, one document at a time, so that no (L, L) mask is made."""
    parts = zip(*(t.split(packing.lengths, 2) for t in (q, k, v)), strict=True)
    return torch.cat([attend(*part) for part in parts], 2)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | Packing | None = None) -> Tensor:
    """softmax(q k' / sqrt(E)) v: q (B, H, L, E), k and v (B, G, keys, E), `mask` as in `Attention.forward`.

    Short sequences in training on a CPU take plain matrix products, with all query heads of a group in one: the
    backward pass of PyTorch's fused kernel takes 2.5 times as long there (bfloat16, 124 positions; docs/LOG.md).
    """
    if isinstance(mask, Packing):
        return attend_packed(q, k, v, mask)
    b, heads, n, width = q.shape
    groups, keys = k.shape[1:3]
    if mask is None and 1 < n < keys:  # is_causal would align the queries with the first keys, not the last
        mask = torch.ones(n, keys, dtype=torch.bool, device=q.device).tril(keys - n)[None, None]
    if q.device.type != "cpu" or not q.requires_grad or keys > _SHORT:
        gqa = heads != groups
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None and n > 1, enable_gqa=gqa)
    if mask is None:
        mask = torch.ones(n, keys, dtype=torch.bool, device=q.device).tril(keys - n)[None, None]
    together = rearrange(q, "b (g per) n e -> b g (per n) e", g=groups)  # the query heads that share keys
    scores = together @ k.transpose(2, 3) * width**-0.5
    scores = scores.view(b, groups, -1, n, keys).masked_fill(~mask[:, :, None], -torch.inf)
    weights = scores.softmax(-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(v.dtype)
    mixed = weights.view(b, groups, -1, keys) @ v
    return rearrange(mixed, "b g (per n) e -> b (g per) n e", n=n)


class Attention(nn.Module):
    """Causal grouped-query attention; `qk_norm` adds the per-head RMSNorm of Qwen3."""

    def __init__(self, dim: int, heads: int, kv_heads: int, head_dim: int, qk_norm: bool = False, eps: float = 1e-6):
        super().__init__()
        self.head_dim = head_dim
        self.q_proj = nn.Linear(dim, heads * head_dim, bias=False)
        self.k_proj = nn.Linear(dim, kv_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(dim, kv_heads * head_dim, bias=False)
        self.o_proj = nn.Linear(heads * head_dim, dim, bias=False)
        self.q_norm = RMSNorm(head_dim, eps) if qk_norm else nn.Identity()
        self.k_norm = RMSNorm(head_dim, eps) if qk_norm else nn.Identity()

    def forward(
        self,
        x: Tensor,
        table: tuple[Tensor, Tensor],
        mask: Tensor | Packing | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        """x (B, L, D) -> (B, L, D). `mask` (B, 1, L, keys) is True where a query may attend to a key.

        None is causal, the queries being at the last L keys; a `Packing` is causal inside every document (B = 1).
        """
        q, k, v = self.heads(x, table)
        if cache is not None:
            k, v = cache.append(k, v)
        return self.o_proj(attend(q, k, v, mask).transpose(1, 2).reshape(*x.shape[:2], -1))

    def heads(self, x: Tensor, table: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, H, L, E) and keys (B, G, L, E), rotated by their positions, and values (B, G, L, E)."""
        shape = (*x.shape[:2], -1, self.head_dim)  # all heads, or this device's under tensor parallelism
        q = self.q_norm(self.q_proj(x).view(shape)).transpose(1, 2)
        k = self.k_norm(self.k_proj(x).view(shape)).transpose(1, 2)
        v = self.v_proj(x).view(shape).transpose(1, 2)
        return rotate(q, table), rotate(k, table), v


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)): (B, L, D) -> (B, L, D)."""

    def __init__(self, dim: int, ffn_dim: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(dim, ffn_dim, bias=False)
        self.up_proj = nn.Linear(dim, ffn_dim, bias=False)
        self.down_proj = nn.Linear(ffn_dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class TransformerBlock(nn.Module):
    """x + attention(norm(x)), then x + SwiGLU(norm(x)): one layer of Llama or Qwen3."""

    def __init__(self, dim: int, heads: int, kv_heads: int, head_dim: int, ffn_dim: int, qk_norm: bool, eps: float):
        super().__init__()
        self.input_layernorm = RMSNorm(dim, eps)
        self.self_attn = Attention(dim, heads, kv_heads, head_dim, qk_norm, eps)
        self.post_attention_layernorm = RMSNorm(dim, eps)
        self.mlp = SwiGLU(dim, ffn_dim)

    def forward(
        self,
        x: Tensor,
        table: tuple[Tensor, Tensor],
        mask: Tensor | Packing | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        """x (B, L, D) -> (B, L, D); see `Attention.forward` for the other arguments."""
        x = x + self.self_attn(self.input_layernorm(x), table, mask, cache)
        return x + self.mlp(self.post_attention_layernorm(x))
