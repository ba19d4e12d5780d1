"""Preparing a model for generation: the fast precision, with fewer and faster matrix products.

Decoding reads every weight once per position and computes little with it, so memory bandwidth limits it, and for a tiny
model the overhead of calls. Here the projections of one input are one product, queries and keys are rotated together,
and on a CPU weights are stored in the order that is read fastest (`utils/packed_linear.py`).
"""

from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mossrepro.lm.ears import GatedLinear
from mossrepro.lm.model import LayerSplitLM
from mossrepro.utils.devices import best_device, inference_dtype
from mossrepro.utils.layers import Attention, SwiGLU, rotate
from mossrepro.utils.packed_linear import PackedLinear, worth_packing


def prepare_for_inference(model: LayerSplitLM, device: torch.device | None = None) -> LayerSplitLM:
    """`model` itself on a device (default: `best_device`), in its `inference_dtype`, with fused projections."""
    device = device or best_device()
    return fuse_projections(model.eval().to(device, inference_dtype(device)))


def frozen_trunk(model: LayerSplitLM) -> list[nn.Module]:
    """A copy of the trunk's layers before the split, in the precision of inference and fused, to train a tail on.

    Where neither the trunk nor what goes into it is trained, no gradient has to pass it: it may run as it answers.
    """
    device = model.text_embed.weight.device
    gate = {id(model.gate): model.gate}  # ears, if there are any, are opened by the model's own
    blocks = [deepcopy(block, dict(gate)) for block in [*model.trunk][: model.config.split_layer]]
    return [_fused(block.requires_grad_(False).eval().to(device, inference_dtype(device))) for block in blocks]


def fuse_projections(model: LayerSplitLM) -> LayerSplitLM:
    """`model` itself with its linear layers fused and packed: faster, and the same results but for rounding.

    It can no longer be trained, saved, copied or moved to another device. Layers with LoRA stay as they are. The
    weights of a packed head that is tied to the embedding are in memory twice.
    """
    for block in model.blocks():
        _fused(block)
    for name in ("text_head", "speech_head"):
        head = getattr(model, name)
        if type(head) is nn.Linear and worth_packing(head.weight):
            setattr(model, name, PackedLinear(head))
    return model


def _fused(block: nn.Module) -> nn.Module:
    """A transformer layer itself, with fused projections."""
    if type(block.self_attn) is Attention and _plain(block.self_attn):
        block.self_attn = FusedAttention(block.self_attn)
    if type(block.mlp) is SwiGLU and _plain(block.mlp):
        block.mlp = FusedSwiGLU(block.mlp)
    return block


def _plain(module: nn.Module) -> bool:
    """Whether all its linear layers are plain, or with gated ears, and none is with LoRA for instance."""
    layers = [part for part in module.modules() if isinstance(part, nn.Linear)]
    return all(type(part) in (nn.Linear, GatedLinear) for part in layers)


def _packed(*layers: nn.Linear) -> nn.Module:
    """One product for layers on the same input, with or without ears."""
    return PackedGated(*layers) if isinstance(layers[0], GatedLinear) else PackedLinear(*layers)


class PackedGated(nn.Module):
    """`PackedLinear` of layers with gated ears, which work where speech is heard."""

    def __init__(self, *layers: GatedLinear) -> None:
        super().__init__()
        self.plain, self.ears = PackedLinear(*layers), nn.ModuleList([layer.ear for layer in layers])
        self.gate, self.widths = layers[0].ear.gate, self.plain.widths

    def forward(self, x: Tensor) -> Tensor:
        y = self.plain(x)
        return y if self.gate.heard is None else y + torch.cat([ear(x) for ear in self.ears], -1)


class FusedAttention(Attention):
    """`Attention` with one product for queries, keys and values, and one rotation."""

    def __init__(self, old: Attention) -> None:
        nn.Module.__init__(self)
        self.head_dim, self.q_norm, self.k_norm = old.head_dim, old.q_norm, old.k_norm
        self.qkv_proj, self.o_proj = _packed(old.q_proj, old.k_proj, old.v_proj), _packed(old.o_proj)
        self.counts = [width // self.head_dim for width in self.qkv_proj.widths]
        self.normed = not isinstance(self.q_norm, nn.Identity)

    def heads(self, x: Tensor, table: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        qkv = self.qkv_proj(x).view(*x.shape[:2], -1, self.head_dim).transpose(1, 2)  # (B, H + 2 G, L, E)
        queries, keys, values = self.counts
        qk, v = qkv.split((queries + keys, values), 1)
        if self.normed:
            q, k = qk.split((queries, keys), 1)
            qk = torch.cat((self.q_norm(q), self.k_norm(k)), 1)
        q, k = rotate(qk, table).split((queries, keys), 1)
        return q, k, v


class FusedSwiGLU(SwiGLU):
    """`SwiGLU` with one product for gate and up projection."""

    def __init__(self, old: SwiGLU) -> None:
        nn.Module.__init__(self)
        self.gate_up_proj, self.down_proj = _packed(old.gate_proj, old.up_proj), _packed(old.down_proj)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(x).chunk(2, -1)
        return self.down_proj(F.silu(gate) * up)
