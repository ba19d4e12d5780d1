"""What a training step costs, before there is a model: products counted and memory kept, traced with fake tensors.

What is left out: the buffers of libraries, and what an accelerator's own kernels keep less.
"""

from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mossrepro.lm.losses import chunked_cross_entropy
from mossrepro.lm.model import LayerSplitLM, LMConfig
from mossrepro.lm.parallel import check_even
from mossrepro.utils.private_apis import fake_tensors

_HEARD, _SAID = 0.25, 0.5  # shares of the rows that ask the text head and the speech head, as in the stages here


@dataclass(frozen=True)
class Step:
    """A training step of `rows` rows: products in floating-point operations, bytes kept for the way back."""

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
    extra: float  # buckets of DDP; layers that FSDP2 holds whole for a moment

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
    """One step on `documents` documents of `rows` rows, with fake tensors."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            kept[storage._cdata] = storage.nbytes()
        return tensor

    dtype = torch.bfloat16 if precision == "bf16-true" else torch.float32
    with fake_tensors(), FlopCounterMode(display=False) as counter:
        plain = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        model = LayerSplitLM(config)
        torch.set_default_dtype(plain)
        model.train_only(train)
        model.checkpointed = checkpointed
        grid = torch.full((documents, rows, 2), config.modality_pad)
        mixed = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed")
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), mixed:
            hidden = model(grid)
            asked = {"text": int(_HEARD * documents * rows), "speech": int(_SAID * documents * rows)}
            loss = sum(
                chunked_cross_entropy(head, getattr(hidden, name).flatten(0, 1)[:n], grid.new_zeros(n))
                for name, head, n in zip(asked, (model.text_head, model.speech_head), asked.values(), strict=True)
            )
        loss.backward()
        flops = counter.get_total_flops()
    return Step(documents * rows, flops, sum(kept.values()))


def step(config: LMConfig, train: str, documents: float, rows: int, precision: str, checkpointed: bool) -> Step:
    """As `trace`, for any number of documents: from one and two, since all but the weights' copies grows alike."""
    one, two = (trace(config, train, n, rows, precision, checkpointed) for n in (1, 2))
    grow = lambda a, b: a + (documents - 1) * (b - a)  # noqa: E731
    return Step(round(documents * rows), grow(one.flops, two.flops), grow(one.kept, two.kept))


def sliced(config: LMConfig, across: int) -> LMConfig:
    """What one of `across` tensor-parallel devices holds of a model, as a model: `memory` and `step` say what it costs.

    ConfigError where heads or hidden units cannot be dealt out evenly.
    """
    check_even(config, across)
    names = ("heads", "kv_heads", "ffn_dim")
    return replace(config, **{name: getattr(config, name) // across for name in names})


def memory(model: LayerSplitLM, kept: float, precision: str, strategy: str, devices: int) -> Memory:
    """What lies on one of `devices` devices under "single", "ddp" or "fsdp2"; `kept` as of `step`, for one device.

    With tensor parallel too, `model` is what one device of a group holds (`sliced`), and `devices` are the groups.
    """
    width = 2 if precision == "bf16-true" else 4
    whole = width * sum(p.numel() for p in model.parameters())
    trained = width * sum(p.numel() for p in model.parameters() if p.requires_grad)
    share, extra = 1, 0
    if strategy == "ddp":
        extra = trained  # buckets beside the gradients
    if strategy == "fsdp2":
        share = devices
        layer = width * sum(p.numel() for p in model.trunk[0].parameters())
        rest = [p for n, p in model.named_parameters() if not n.startswith(("trunk", "text_tail", "speech_tail"))]
        extra = 2 * layer + width * sum(p.numel() for p in rest)
    return Memory(whole / share, trained / share, 2 * trained / share, kept, extra)
