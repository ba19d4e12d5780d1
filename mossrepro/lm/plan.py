"""`mossrepro plan`: memory and time that a stage of the language model will need, before anything is trained.

    mossrepro plan -c configs/stage1.yaml -c configs/size/full.yaml -c configs/experiment/paper_lm.yaml --devices 64

The model is built on the meta device, and a training step is traced with fake tensors (`lm/cost.py`).
"""

import argparse
from pathlib import Path

import torch
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich import box
from rich.console import Console
from rich.table import Table

from mossrepro.lm.cost import Step, memory, parts, sliced, step
from mossrepro.lm.model import LayerSplitLM, LMConfig
from mossrepro.training.config import read_config
from mossrepro.utils.errors import ConfigError

CODES_PER_HOUR = 45_000  # 12.5 a second
GIB = 2**30
MAX_POSITIONS = 256  # the default of `LMDataModule.max_positions`


def read(files: list[Path]) -> DictConfig:
    """A stage's YAML and its overlays; later files override earlier ones.

    ConfigError for a file that is missing or not an LM stage, and for LoRA, which is not counted here.
    """
    try:
        config = OmegaConf.create(read_config(*files))
        if "MouthTask" in config.model.class_path:
            raise ConfigError(f"{files[0]}: a mouth by itself runs no text model: there is nothing to plan")
        if "LayerSplitTask" not in config.model.class_path:
            raise ConfigError(f"{files[0]}: {config.model.class_path} is no stage of the language model")
        for key in ("lora", "ears"):
            if rank := config.model.init_args.get(key):
                raise ConfigError(f"{files[-1]}: {key}={rank} cannot be planned; leave it out")
        OmegaConf.to_container(config.size, throw_on_missing=True)
        int(config.trainer.max_steps), str(config.model.init_args.train)
    except (OmegaConfBaseException, AttributeError, TypeError) as error:
        raise ConfigError(f"{', '.join(map(str, files))}: {str(error).splitlines()[0]}; a size is needed") from error
    return config


def shape(config: DictConfig) -> LMConfig:
    """The shape of the model that a stage trains."""
    b, heads, extra_layers = (
        config.size.backbone,
        config.size.backbone.heads,
        config.model.init_args.get("extra_layers") or 0,
    )
    return LMConfig(
        dim=b.dim,
        layers=b.layers + extra_layers,
        tail_layers=config.model.init_args.tail_layers,
        heads=heads,
        kv_heads=b.get("kv_heads") or heads,
        head_dim=b.get("head_dim") or b.dim // heads,
        ffn_dim=b.ffn_dim,
        text_vocab=b.vocab,
        codes=config.size.codec.codes,
        qk_norm=b.get("qk_norm", False),
        tied=b.get("tied", True),
        split_at=config.model.init_args.get("split_at"),
        extra_layers=extra_layers,
        mouth=config.model.init_args.get("mouth") or 0,
        speech_from=0,  # whatever SOSP's id is
    )


def main(args: argparse.Namespace) -> int:
    """The subcommand: prints the tables."""
    if min(args.devices, args.hours, args.tflops, args.tensor) <= 0:
        raise ConfigError("--devices, --tensor, --hours and --tflops must be above 0")
    groups, rest = divmod(args.devices, args.tensor)
    if rest:
        raise ConfigError(f"--devices {args.devices} cannot be put into groups of --tensor {args.tensor}")
    config = read(args.config)
    lm, console = shape(config), Console()
    console.print(_parts_table(_unmade(lm, config)))
    lm = sliced(lm, args.tensor)
    data, settings = config.data.init_args, config.model.init_args
    rows = min(data.get("max_conversation_len", 0) or 100, data.get("max_positions", MAX_POSITIONS))
    if groups > data.batch:
        who = f"{groups} devices" if args.tensor == 1 else f"{groups} groups of devices"
        raise ConfigError(f"data.batch={data.batch} documents cannot be shared by {who}")
    documents, precision = data.batch / groups, config.trainer.get("precision", "32-true")
    costs = {flag: step(lm, settings.train, documents, rows, precision, flag) for flag in (False, True)}
    console.print(_memory_table(_unmade(lm, config), costs, groups, args.tensor, precision))
    _print_time(console, config, costs[settings.get("checkpointed", False)], args)
    return 0


def _unmade(lm: LMConfig, config: DictConfig) -> LayerSplitLM:
    with torch.device("meta"):
        model = LayerSplitLM(lm)
    model.train_only(config.model.init_args.train)
    return model


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


def _memory_table(model: LayerSplitLM, costs: dict[bool, Step], groups: int, across: int, precision: str) -> Table:
    """A row for each strategy, without and with activation checkpointing (the keys of `costs`).

    `model` and `costs` are those of one device in a tensor-parallel group of `across`.
    """
    devices = groups * across
    grouped = f", {across} to a layer" if across > 1 else ""
    on_each = f"GiB on each of {devices} device{'s' * (devices > 1)}{grouped}"
    title = f"{on_each}, {costs[False].rows:,} positions, {precision}"
    view = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("strategy", "weights", "gradients", "AdamW", "activations", "extra", "sum"):
        view.add_column(heading, justify="left" if heading == "strategy" else "right", no_wrap=True)
    for checkpointed, cost in costs.items():
        for strategy in ("single",) if devices == 1 else ("ddp", "fsdp2") if across == 1 else ("fsdp2",):
            m = memory(model, cost.kept, precision, strategy, groups)
            numbers = (m.weights, m.gradients, m.optimiser, m.kept, m.extra, m.total)
            name = (strategy if across == 1 else "tensor") + (", checkpointed" if checkpointed else "")
            view.add_row(name, *(_gib(number) for number in numbers))
    return view


def _gib(size: float) -> str:
    return f"{size / GIB:.2f}" if size < 100 * GIB else f"{size / GIB:.0f}"


def _print_time(console: Console, config: DictConfig, cost: Step, args: argparse.Namespace) -> None:
    """FLOPs per position, and the time it takes at `--tflops` sustained by each device."""
    a_row, speed = args.tensor * cost.flops / cost.rows, args.devices * args.tflops * 1e12
    accumulated = config.trainer.get("accumulate_grad_batches", 1)
    steps, a_step = config.trainer.max_steps, cost.rows * accumulated * args.devices // args.tensor
    rows = steps * a_step
    lines = [f"{a_row / 1e9:.3g} GFLOP a position, both ways, {steps:,} steps of {a_step:,} positions"]
    wanted = {f"these {steps:,} steps": rows, f"{args.hours:,g} h of speech, once": args.hours * CODES_PER_HOUR}
    for what, count in wanted.items():
        took = _duration(a_row * count / speed)
        lines.append(f"{what}: {count:.3g} positions, {took} on {args.devices} x {args.tflops:g} TFLOP/s")
    console.print("\n".join(lines), highlight=False)


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds >= length:
            return f"{seconds / length:.3g} {unit}"
    return f"{seconds:.3g} seconds"
