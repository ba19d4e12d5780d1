"""`mossrepro reproduce`: train every part, measure, report. A second call continues where the first stopped."""

import argparse
import json
import shutil
import sys
import time
from pathlib import Path

from rich.console import Console

from mossrepro.experiments.graph import STAGES, StageGraph
from mossrepro.report import verb
from mossrepro.training import metrics
from mossrepro.training.runs import changes_of, read_parts, run_folder
from mossrepro.utils.devices import best_device
from mossrepro.utils.errors import MEASURING, require
from mossrepro.utils.threads import set_threads

# Facts that other commands write and `reproduce` keeps: `--controls`, `eval codec`, `bench`, `ablate`, `eval vocoder`.
BESIDE = ("control_", "oracle_", "rival_", "adaptation", "bench_", "ablation_", "voice_")


def main(args: argparse.Namespace) -> int:
    """All stages, the measurements and the report; 1 if a claim is outside its range."""
    require(*MEASURING)
    set_threads()
    changes, run = changes_of(args), run_folder(args)
    graph = StageGraph(args.size, *changes)
    steps = [
        ("known facts and recorded script", graph.script),
        ("codec", graph.codec),
        ("codes of the script", graph.tokens),
        ("recogniser on the codes", graph.recogniser),
        ("text backbone", graph.backbone),
        ("Stage 1", lambda: graph.language_model("stage1")),
        ("Stage 2", lambda: graph.language_model("stage2")),
        ("SFT", lambda: graph.language_model("sft")),
        ("flow decoder", graph.flow),
        ("vocoder", graph.vocoder),
    ]
    console = Console(stderr=True)
    for i, (name, make) in enumerate(steps, 1):
        console.print(f"[bold]{i}/{len(steps) + 1} {name}[/bold]")
        make()
    console.print(f"[bold]{len(steps) + 1}/{len(steps) + 1} measurements[/bold]")
    _collect(graph, run)
    if args.controls is not None:
        from mossrepro.experiments.controls import measure_controls

        console.print("[bold]controls: a counterfactual and a random backbone, and a perfect codec[/bold]")
        measure_controls(args.size, run, args.controls, *changes)
    return verb.main(argparse.Namespace(size=args.size, run=run, claims=None, markdown=None))


def make_data(args: argparse.Namespace) -> int:
    """`mossrepro data make`: only the corpora; prints their folders."""
    set_threads()
    graph = StageGraph(args.size, *changes_of(args))
    print(graph.codec_corpus())
    print(graph.script())
    return 0


def evaluate(args: argparse.Namespace) -> int:
    """`mossrepro eval WHAT`: measure the finished parts of a run afresh and record the facts."""
    from mossrepro.evaluation.measure import measure

    set_threads()
    best_device(args.device)  # one that is not there is refused first
    run = run_folder(args)
    measure(read_parts(run), run, () if args.what == "all" else (args.what,), args.device)
    return 0


def _collect(graph: StageGraph, run: Path) -> None:
    """Fill runs/NAME: parts.json, stages.json, metrics/, and the (cached) facts and sounds."""
    from mossrepro.evaluation.measure import measure
    from mossrepro.experiments.graph import VERSIONS

    parts = graph.parts()
    key = {name: Path(folder).name for name, folder in parts.items()}
    spec = {"parts": key, "version": VERSIONS["evaluation"]}
    measured = graph.cached("evaluation", "evaluation", spec, lambda folder: measure(parts, folder))
    (run / "metrics").mkdir(parents=True, exist_ok=True)
    shutil.rmtree(run / "wav", ignore_errors=True)
    shutil.copytree(measured / "wav", run / "wav")
    shutil.copy(measured / "families.json", run)
    for old in (run / "facts").glob("*.json"):
        if not old.name.startswith(BESIDE):
            old.unlink()
    shutil.copytree(measured / "facts", run / "facts", dirs_exist_ok=True)
    for name, folder in parts.items():
        curve = Path(folder) / "metrics.jsonl"
        if curve.is_file():
            shutil.copy(curve, run / "metrics" / f"{name}.jsonl")
    costs = [{"stage": s, **graph.costs[s]} for s in STAGES if s in graph.costs]
    (run / "stages.json").write_text(json.dumps(costs, indent=1) + "\n")
    (run / "parts.json").write_text(json.dumps(parts, indent=1) + "\n")
    minutes = sum(cost["minutes"] for cost in costs)
    command = f"make reproduce SIZE={graph.size.name}"
    metrics.record(run, metrics.Metric("minutes", "all stages and measurements", minutes, "min", command=command))
    print(f"{run}: {minutes:.1f} minutes of work in all, {time.strftime('%H:%M')}", file=sys.stderr)
