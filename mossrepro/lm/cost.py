"""Cost of a training step: FLOPs and memory, counted by tracing the model with fake tensors.

The estimate leaves out the workspaces of libraries. It counts the activations that the CPU kernels keep, so it is too
high where fused kernels of an accelerator (attention, for instance) keep fewer.
"""

from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mossrepro.lm.losses import chunked_cross_entropy
from mossrepro.lm.model import LayerSplitLM, LMConfig
from mossrepro.lm.parallel import check_even
from mossrepro.utils.private_apis import fake_tensors, storage_id

_TEXT_SHARE, _SPEECH_SHARE = 0.25, 0.5  # share of positions with a text or a speech target, typical here


@dataclass(frozen=True)
class Step:
    """A training step of `rows` positions: floating-point operations, and bytes kept for the backward pass."""

    rows: int
    flops: float
    kept: float


@dataclass(frozen=True)
class Memory:
    """Bytes on one device."""

    weights: float
    gradients: float
    optimiser: float
    kept: float
    extra: float  # gradient buckets of DDP; layers that FSDP2 has gathered

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimiser + self.kept + self.extra


def parts(model: LayerSplitLM) -> dict[str, tuple[int, int]]:
    """Part -> (parameters, those that are trained); a tied head counts once."""
    found: dict[str, tuple[int, int]] = {}
    for name, parameter in model.named_parameters():
        part, size = name.split(".")[0], parameter.numel()
        old = found.get(part, (0, 0))
        found[part] = old[0] + size, old[1] + size * parameter.requires_grad
    return found


def trace(config: LMConfig, train: str, documents: int, rows: int, precision: str, checkpointed: bool) -> Step:
    """One step on `documents` documents of `rows` positions each, traced with fake tensors.

    train: what is trained (`LayerSplitLM.train_only`). checkpointed: with activation checkpointing.
    """
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, nn.Parameter):
            kept[storage_id(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    dtype = torch.bfloat16 if precision == "bf16-true" else torch.float32
    with fake_tensors(), FlopCounterMode(display=False) as counter:
        plain = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        model = LayerSplitLM(config)
        torch.set_default_dtype(plain)
        model.train_only(train)
        model.checkpointed = checkpointed
        if model.mouth is not None:
            model.mouth.reads_all = True
        grid = torch.full((documents, rows, 2), config.modality_pad)
        mixed = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed")
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), mixed:
            hidden = model(grid)
            targets = {"text": int(_TEXT_SHARE * documents * rows), "speech": int(_SPEECH_SHARE * documents * rows)}
            loss = sum(
                chunked_cross_entropy(head, getattr(hidden, name).flatten(0, 1)[:n], grid.new_zeros(n), multiple=1)
                for name, head, n in zip(targets, (model.text_head, model.speech_head), targets.values(), strict=True)
            )
        loss.backward()
        flops = counter.get_total_flops()
    return Step(documents * rows, flops, sum(kept.values()))


def step(config: LMConfig, train: str, documents: float, rows: int, precision: str, checkpointed: bool) -> Step:
    """As `trace`, for any number of documents: extrapolated from one and two, as the cost is linear in their number."""
    one, two = (trace(config, train, n, rows, precision, checkpointed) for n in (1, 2))
    grow = lambda a, b: a + (documents - 1) * (b - a)  # noqa: E731
    return Step(round(documents * rows), grow(one.flops, two.flops), grow(one.kept, two.kept))


def sliced(config: LMConfig, across: int) -> LMConfig:
    """The shape of the part that one of `across` tensor-parallel devices holds, for `memory` and `step`.

    ConfigError where heads or hidden units cannot be divided evenly.
    """
    check_even(config, across)
    names = ("heads", "kv_heads", "ffn_dim")
    return replace(config, **{name: getattr(config, name) // across for name in names})


def memory(model: LayerSplitLM, kept: float, precision: str, strategy: str, devices: int) -> Memory:
    """Memory on each of `devices` devices under "single", "ddp" or "fsdp2"; `kept` is that of `step` for one device.

    With tensor parallelism `model` is what one device of a group holds (`sliced`), and `devices` counts the groups.
    """
    width = 2 if precision == "bf16-true" else 4
    whole = width * sum(p.numel() for p in model.parameters())
    trained = width * sum(p.numel() for p in model.parameters() if p.requires_grad)
    share, extra = 1, 0
    if strategy == "ddp":
        extra = trained  # its buckets, beside the gradients
    if strategy == "fsdp2":
        share = devices
        layer = width * sum(p.numel() for p in model.trunk[0].parameters())
        layered = ("trunk", "text_tail", "speech_tail", "mouth.layers")
        rest = [p for n, p in model.named_parameters() if not n.startswith(layered)]
        extra = 2 * layer + width * sum(p.numel() for p in rest)
    return Memory(whole / share, trained / share, 2 * trained / share, kept, extra)
