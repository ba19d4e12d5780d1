"""`mossrepro eval vocoder`: what comes back from codes, where quality is lost on the way, and what speaking costs."""

import argparse
from pathlib import Path

from rich.console import Console

from mossrepro.experiments.reproduce import evaluate
from mossrepro.report.voice_tables import LEGEND, voice_table
from mossrepro.training.metrics import read_metrics
from mossrepro.training.runs import read_parts, run_folder
from mossrepro.utils.errors import MEASURING, CheckpointError, ConfigError, require
from mossrepro.utils.records import is_file_name, short

ROUNDS = 3  # of the speed of streams


def other_vocoders(given: list[str]) -> dict[str, Path]:
    """ "NAME=FOLDER" of `--vocoder` -> folder by name.

    Raises:
        ConfigError: one is no such pair, its name could not be a part of a fact's, or two have one name.
        CheckpointError: a folder holds no vocoder.
    """
    found: dict[str, Path] = {}
    for pair in given:
        name, sign, folder = pair.partition("=")
        if not (sign and folder and is_file_name(name) and name.replace("_", "").isalnum()):
            raise ConfigError(f"--vocoder {short(pair)}: give NAME=FOLDER, NAME of letters, digits and underscores")
        if name in found:
            raise ConfigError(f"--vocoder {short(pair)}: {name} is given twice")
        if not (Path(folder) / "config.json").is_file():
            raise CheckpointError(f"{folder}: no config.json, so no vocoder; give the --output of a finished fit")
        found[name] = Path(folder)
    return found


def main(args: argparse.Namespace) -> int:
    """Measure a finished run's voice afresh; the facts go into its folder."""
    require(*MEASURING)
    others = other_vocoders(args.vocoder or [])
    evaluate(args)
    from mossrepro.bench.voice import bench_voice
    from mossrepro.evaluation.artifacts import RunArtifacts
    from mossrepro.evaluation.voice import measure_voice

    run = run_folder(args)
    measure_voice(RunArtifacts(read_parts(run), run, args.device), others)
    bench_voice(run, rounds=ROUNDS, run=run)
    Console().print(voice_table(read_metrics(run)), LEGEND, sep="\n")
    return 0
