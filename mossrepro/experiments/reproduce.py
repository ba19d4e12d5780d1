"""`mossrepro reproduce`: train every part, measure, report. A second call continues where the first stopped."""

import argparse
import shutil
import sys
import time
from pathlib import Path

from rich.console import Console

from mossrepro.experiments.content import content_name
from mossrepro.experiments.graph import StageGraph
from mossrepro.experiments.stages import STAGES, VERSIONS
from mossrepro.report import verb
from mossrepro.training import metrics
from mossrepro.training.runs import changes_of, read_parts, run_folder, write_record
from mossrepro.utils.devices import best_device
from mossrepro.utils.errors import MEASURING, require
from mossrepro.utils.io import copy_file, copy_files, move_in, write_json
from mossrepro.utils.locks import exclusive
from mossrepro.utils.threads import set_threads

# Facts that other commands write and `reproduce` keeps: `--controls`, `eval codec`, `bench`, `ablate`, `eval vocoder`.
BESIDE = ("control_", "oracle_", "rival_", "adaptation", "bench_", "ablation_", "voice_")

ANSWERS = "answers.json"  # replies to open questions, of the form "word" alone


def main(args: argparse.Namespace) -> int:
    """All stages, the measurements and the report; 1 if a claim is outside its range."""
    require(*MEASURING)
    set_threads()
    changes, run = changes_of(args), run_folder(args)
    graph = StageGraph(args.size, *changes)
    if args.control:
        from mossrepro.experiments.controls import check_controls

        check_controls(graph, args.control)
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
    if graph.size.lm.form == "word" and graph.size.lm.word_reader_steps:
        steps.insert(4, ("recogniser of single words", graph.word_reader))
    console = Console(stderr=True)
    for i, (name, make) in enumerate(steps, 1):
        console.print(f"[bold]{i}/{len(steps) + 1} {name}[/bold]")
        make()
    console.print(f"[bold]{len(steps) + 1}/{len(steps) + 1} measurements[/bold]")
    _collect(graph, run)
    if args.controls is not None or args.control:
        from mossrepro.experiments.controls import measure_controls

        console.print(f"[bold]controls: {', '.join(args.control) or 'all'}[/bold]")
        measure_controls(args.size, run, args.controls or 0, *changes, only=args.control)
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
    """Fill runs/NAME: parts.json, run.json, stages.json, metrics/, and the (cached) facts and sounds."""
    from mossrepro.evaluation.measure import measure

    parts = graph.parts()
    key = {name: content_name(folder) for name, folder in parts.items()}
    spec = {"parts": key, "version": VERSIONS["evaluation"]}
    measured = graph.cached("evaluation", "evaluation", spec, lambda folder: measure(parts, folder))
    costs = [{"stage": s, **graph.costs[s]} for s in STAGES if s in graph.costs]
    with exclusive(run):
        new = run / ".new"
        shutil.rmtree(new, ignore_errors=True)  # of a killed process
        try:
            _fill(new, parts, measured, costs, graph.size.name)
            _take(new, run)
        finally:
            shutil.rmtree(new, ignore_errors=True)
    minutes = sum(cost["minutes"] for cost in costs)
    print(f"{run}: {minutes:.1f} minutes of work in all, {time.strftime('%H:%M')}", file=sys.stderr)


def _fill(new: Path, parts: dict[str, str], measured: Path, costs: list[dict], size: str) -> None:
    """Write all that a run holds into a folder beside it."""
    copy_files(measured / "wav", new / "wav")
    copy_files(measured / "facts", new / "facts")
    copy_file(measured / "families.json", new / "families.json")
    if (measured / ANSWERS).is_file():
        copy_file(measured / ANSWERS, new / ANSWERS)
    for name, folder in parts.items():
        curve = Path(folder) / "metrics.jsonl"
        if curve.is_file():
            copy_file(curve, new / "metrics" / f"{name}.jsonl")
    minutes = sum(cost["minutes"] for cost in costs)
    metrics.record(new, metrics.Metric("minutes", "all stages and measurements", minutes, "min"))
    write_json(new / "stages.json", costs)
    write_record(new, size)
    write_json(new / "parts.json", parts)


def _take(new: Path, run: Path) -> None:
    """Put what `_fill` wrote in the place of what the run has; this needs no room. parts.json says that it is done."""
    for old in (run / "facts").glob("*.json"):
        if not old.name.startswith(BESIDE) and not (new / "facts" / old.name).is_file():
            old.unlink()
    for folder in ("facts", "metrics"):
        for path in sorted((new / folder).glob("*")):
            (run / folder).mkdir(exist_ok=True)
            move_in(path, run / folder / path.name)
    (run / ANSWERS).unlink(missing_ok=True)  # not every form of answers has one
    for name in ("wav", "families.json", ANSWERS, "stages.json", "run.json", "parts.json"):
        if name != ANSWERS or (new / name).is_file():
            move_in(new / name, run / name)
