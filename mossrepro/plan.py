"""`mossrepro plan`: what a stage of the language model will need, before anything is trained.

    mossrepro plan -c configs/stage1.yaml -c configs/size/full.yaml -c configs/experiment/paper_lm.yaml --devices 64

The model is built without memory, and a training step is traced with fake tensors: its products are counted, and what
it keeps for the way back. What is left out: the buffers of libraries, and what an accelerator's own kernels keep less.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from mossrepro.errors import ConfigError
from mossrepro.lm.model import LayerSplitLM, LMConfig

CODES_PER_HOUR = 45_000  # 12.5 a second
GIB = 2**30
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


def read(files: list[Path]) -> DictConfig:
    """A stage's YAML and its overlays, from left to right.

    ConfigError for a file that is missing or no LM stage, and for low-rank changes, which are not counted here.
    """
    try:
        config = OmegaConf.merge(*(OmegaConf.load(file) for file in files))
        if "LayerSplitTask" not in config.model.class_path:
            raise ConfigError(f"{files[0]}: {config.model.class_path} is no stage of the language model")
        if config.model.init_args.get("lora"):
            raise ConfigError(f"{files[-1]}: lora={config.model.init_args.lora} cannot be planned; leave it out")
        OmegaConf.to_container(config.size, throw_on_missing=True)
        int(config.trainer.max_steps), str(config.model.init_args.train)
    except FileNotFoundError as error:
        raise ConfigError(f"{error.filename}: no such file") from error
    except (OmegaConfBaseException, AttributeError, TypeError) as error:
        raise ConfigError(f"{', '.join(map(str, files))}: {str(error).splitlines()[0]}; a size is needed") from error
    return config


def shape(config: DictConfig) -> LMConfig:
    """The model that a stage trains at a size."""
    b, heads = config.size.backbone, config.size.backbone.heads
    return LMConfig(
        dim=b.width,
        layers=b.layers,
        tail_layers=config.size.lm.tail_layers,
        heads=heads,
        kv_heads=b.get("kv_heads") or heads,
        head_dim=b.get("head_dim") or b.width // heads,
        hidden=b.hidden,
        text_vocab=b.vocab,
        codes=config.size.codec.codes,
        qk_norm=b.get("qk_norm", False),
        tied=b.get("tied", True),
        split_at=config.model.init_args.get("split_at"),
    )


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
    with FakeTensorMode(), FlopCounterMode(display=False) as counter:
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
            text = model.text_head(hidden.text.flatten(0, 1)[: int(_HEARD * documents * rows)]).float()
            speech = model.speech_head(hidden.speech.flatten(0, 1)[: int(_SAID * documents * rows)]).float()
            loss = text.log_softmax(-1)[:, 0].sum() + speech.log_softmax(-1)[:, 0].sum()
        loss.backward()
        flops = counter.get_total_flops()
    return Step(documents * rows, flops, sum(kept.values()))


def step(config: LMConfig, train: str, documents: float, rows: int, precision: str, checkpointed: bool) -> Step:
    """As `trace`, for any number of documents: from one and two, since all but the weights' copies grows alike."""
    one, two = (trace(config, train, n, rows, precision, checkpointed) for n in (1, 2))
    grow = lambda a, b: a + (documents - 1) * (b - a)  # noqa: E731
    return Step(round(documents * rows), grow(one.flops, two.flops), grow(one.kept, two.kept))


def memory(model: LayerSplitLM, kept: float, precision: str, strategy: str, devices: int) -> Memory:
    """What lies on one of `devices` devices under "single", "ddp" or "fsdp2"; `kept` as of `step`, for one device."""
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


def main(args: argparse.Namespace) -> int:
    """The verb: tables on the terminal."""
    if min(args.devices, args.hours, args.tflops) <= 0:
        raise ConfigError("--devices, --hours and --tflops must be above 0")
    config = read(args.config)
    lm, console = shape(config), Console()
    with torch.device("meta"):
        model = LayerSplitLM(lm)
    model.train_only(config.model.init_args.train)
    console.print(_parts_table(model))
    data, settings = config.data.init_args, config.model.init_args
    rows = data.get("max_rows") if data.get("fill", 0) > 256 else data.get("fill", 0) or 100
    if args.devices > data.batch:
        raise ConfigError(f"data.batch={data.batch} documents cannot be shared by {args.devices} devices")
    documents, precision = data.batch / args.devices, config.trainer.get("precision", "32-true")
    costs = {flag: step(lm, settings.train, documents, rows, precision, flag) for flag in (False, True)}
    console.print(_memory_table(model, costs, args.devices, precision))
    _say_time(console, config, costs[settings.get("checkpointed", False)], args)
    return 0


def _parts_table(model: LayerSplitLM) -> Table:
    found = parts(model)
    total, trained = (sum(pair[i] for pair in found.values()) for i in (0, 1))
    view = Table(title="parameters", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("part", "all", "trained"):
        view.add_column(heading, justify="left" if heading == "part" else "right")
    for part, (count, learns) in found.items():
        view.add_row(part, f"{count:,}", f"{learns:,}" if learns else "–")
    view.add_section()
    view.add_row("sum", f"{total:,}", f"{trained:,} ({100 * trained / total:.1f} %)")
    return view


def _memory_table(model: LayerSplitLM, costs: dict[bool, Step], devices: int, precision: str) -> Table:
    """`costs`: of a step on one device, without and with activation checkpointing."""
    title = f"GiB on each of {devices} device{'s' * (devices > 1)}, {costs[False].rows:,} rows, {precision}"
    view = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("strategy", "weights", "gradients", "AdamW", "activations", "extra", "sum"):
        view.add_column(heading, justify="left" if heading == "strategy" else "right", no_wrap=True)
    for checkpointed, cost in costs.items():
        for strategy in ("single",) if devices == 1 else ("ddp", "fsdp2"):
            m = memory(model, cost.kept, precision, strategy, devices)
            numbers = (m.weights, m.gradients, m.optimiser, m.kept, m.extra, m.total)
            name = strategy + (", checkpointed" if checkpointed else "")
            view.add_row(name, *(f"{number / GIB:.2f}" for number in numbers))
    return view


def _say_time(console: Console, config: DictConfig, cost: Step, args: argparse.Namespace) -> None:
    """Operations a row, and days at the speed that each device sustains."""
    a_row, speed = cost.flops / cost.rows, args.devices * args.tflops * 1e12
    steps = config.trainer.max_steps
    rows = steps * cost.rows * args.devices
    lines = [f"{a_row / 1e9:.3g} GFLOP a row, both ways, {steps:,} steps of {cost.rows * args.devices:,} rows"]
    wanted = {f"these {steps:,} steps": rows, f"{args.hours:,g} h of speech, once": args.hours * CODES_PER_HOUR}
    for what, count in wanted.items():
        took = _duration(a_row * count / speed)
        lines.append(f"{what}: {count:.3g} rows, {took} on {args.devices} x {args.tflops:g} TFLOP/s")
    console.print("\n".join(lines), highlight=False)


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} seconds"
