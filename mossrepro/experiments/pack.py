"""`mossrepro run pack`: a finished run as one folder, which can be moved, shared and talked to without the cache.

parts/NAME/        weights and settings of everything that answers
facts/ wav/ ...    numbers, sounds and curves, from which `mossrepro report --run` makes the report
provenance.json    versions, commit and machine; of every part precision, devices, steps and settings
README.md          model card
SHA256SUMS         of all other files; `mossrepro run check`, or sha256sum -c SHA256SUMS, compares
"""

import argparse
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import mossrepro
from mossrepro.experiments.stages import read_cost
from mossrepro.training import metrics
from mossrepro.training.runs import RECORD, read_parts, read_record
from mossrepro.utils import assets
from mossrepro.utils.checksums import SUMS, check_sums, write_sums
from mossrepro.utils.errors import CheckpointError, ConfigError, DataError, visible
from mossrepro.utils.io import copy_file, move_in, write_json, write_text
from mossrepro.utils.records import check_inside, read_json

PACKED = ("codec", "recogniser", "sft", "flow", "vocoder")
PROVENANCE = "provenance.json"
_WEIGHTS = ("model.safetensors", "config.json", "tokenizer.json")
_FOLDERS = ("facts", "wav", "metrics")
_BESIDE = ("families.json", "stages.json", RECORD)  # files of a run
_SHOWN = ("s2s_a", "s2t_c", "s2s_c", "t2t_c", "codec_wer", "resynthesis")  # numbers of the card


def pack(run: str | Path, out: str | Path) -> Path:
    """Copy a finished run with all that answering takes into a new folder.

    Raises:
        CheckpointError: the run is not finished, or a part of it is gone.
        ConfigError: there is something at `out` already.
        DiskError: there is no room; nothing is left at `out` then.
    """
    run, out = Path(run), Path(out)
    parts = read_parts(run, PACKED)
    for name in PACKED:
        if not (Path(parts[name]) / _WEIGHTS[0]).is_file():
            raise CheckpointError(f"{run}: {name} is gone ({parts[name]}); run `mossrepro reproduce` again")
    if out.exists():
        raise ConfigError(f"{out}: is there already; give another -o, or delete it")
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a killed process
    try:
        _copy(run, parts, partial)
        move_in(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(visible(f"{out}: {size / 1e6:.0f} MB; talk to it with `mossrepro talk --run {out} QUESTION.wav`"))
    return out


def _copy(run: Path, parts: dict[str, str], out: Path) -> None:
    about = {**read_record(run), "packed": round(time.time()), "packed_with": mossrepro.__version__, "parts": {}}
    for name in PACKED:
        folder = Path(parts[name])
        for file in _WEIGHTS:
            if (folder / file).is_file():
                copy_file(check_inside(folder / file, folder, CheckpointError), out / "parts" / name / file)
        about["parts"][name] = _origin(folder)
        for file in ("spec.json", "fit.json"):
            if (folder / file).is_file():
                found = read_json(check_inside(folder / file, folder, CheckpointError))
                write_json(out / "parts" / name / file, without_paths(found))
    for path in sorted(run.rglob("*")):
        name = path.relative_to(run)
        if path.is_file() and (name.parts[0] in _FOLDERS and len(name.parts) == 2 or str(name) in _BESIDE):
            copy_file(check_inside(path, run, CheckpointError), out / name)
    write_json(out / PROVENANCE, about)
    write_json(out / "parts.json", {name: f"parts/{name}" for name in PACKED})
    write_text(out / "README.md", card(out, about))
    write_sums(out)


def _origin(folder: Path) -> dict[str, Any]:
    """What made a part, from the files that a fit leaves."""
    found = {file: _table(folder / file) for file in ("fit.json", "done.json")}
    trainer = found["fit.json"].get("trainer")
    cost = read_cost(folder)
    about = {"name": folder.name, "seconds": round(cost["seconds"], 1), "hardware": cost["hardware"]}
    about["devices"] = found["fit.json"].get("machine", "")
    about["seed"] = found["fit.json"].get("seed_everything")
    about |= {"precision": "", **(trainer if isinstance(trainer, dict) else {})}
    return about | {"steps": found["done.json"].get("steps"), "metrics": found["done.json"].get("metrics", {})}


def _table(path: Path) -> dict[str, Any]:
    try:
        found = read_json(path)
    except DataError:
        return {}
    return found if isinstance(found, dict) else {}


def without_paths(value: Any) -> Any:
    """Settings without the folders of the machine they were made on: of an absolute path the last two parts stay."""
    if isinstance(value, dict):
        return {key: without_paths(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_paths(inner) for inner in value]
    if isinstance(value, str) and os.path.isabs(value):
        return "/".join(Path(value).parts[-2:])
    return value


def card(out: Path, about: dict[str, Any]) -> str:
    """The model card: what it is, how to use it, what it was measured to do, what made it, whose work is in it."""
    facts = metrics.read_metrics(out)
    rows = [f"| {_cell(facts[id].name)} | {facts[id].value:.1f} {facts[id].unit} |" for id in _SHOWN if id in facts]
    packages = about.get("packages") if isinstance(about.get("packages"), dict) else {}
    made = {name: about.get(name) for name in ("size", "version", "commit", "command", "python", "system", "hardware")}
    made |= {name: packages[name] for name in sorted(packages)}
    names = ("precision", "devices", "steps", "seconds")
    trained = [
        f"| {name} | {' | '.join(_cell(part.get(key)) for key in names)} |" for name, part in about["parts"].items()
    ]
    credits = [f"- {asset.source} ({asset.licence})" for asset in assets.ASSETS.values()]
    return "\n".join(
        [
            f"# {_cell(out.name.strip('.').removesuffix('.partial'))}",
            "",
            "A speech-to-speech model made by mossrepro, a reproduction of MOSS-Speech (arXiv 2510.00499): it hears a",
            "spoken English question and speaks its answer. For research and teaching; trained on synthetic voices and",
            "a few hundred facts, it is no assistant to rely on.",
            "",
            "    mossrepro talk --run FOLDER question.wav -o answer.wav",
            "    mossrepro report --run FOLDER",
            "    mossrepro run check FOLDER",
            "",
            "## Measured",
            *(["| what | value |", "|---|---|", *rows] if rows else ["Nothing was measured."]),
            "",
            "## Made with",
            *(f"- {name}: {_cell(value)}" for name, value in made.items() if value),
            "",
            f"| part | {' | '.join(names)} |",
            "|---|" + "---|" * len(names),
            *trained,
            "",
            f"Settings of each part: parts/NAME/fit.json; all of this as data: {PROVENANCE}.",
            "",
            "## Licence and credits",
            "The weights are under Apache-2.0. They start from, or were trained with, the work of others:",
            *credits,
            "",
        ]
    )


def _cell(value: Any) -> str:
    """A value as text of one line in a table of Markdown, in which nothing is markup."""
    return re.sub(r"([|<>`*_\[\]])", r"\\\1", visible(str(value if value is not None else "")))


def check(folder: str | Path) -> int:
    """Compare every file of a packed run with its checksum; prints how many there are.

    Raises:
        CheckpointError: there are no checksums, or a file is missing, changed, outside the folder or not listed.
    """
    folder = Path(folder)
    if not (folder / SUMS).is_file():
        raise CheckpointError(f"{folder}: no {SUMS}, so no packed run; make one with `mossrepro run pack`")
    listed = {folder / name for name in check_sums(folder, "the run was packed", "copy the folder again")}
    found = {path for path in folder.rglob("*") if path.is_file() and path.suffix in (".safetensors", ".json")}
    if more := sorted(found - listed):
        raise CheckpointError(f"{more[0]}: was not there when the run was packed")
    print(visible(f"{folder}: {len(listed)} files are as they were packed"))
    return 0


def main(args: argparse.Namespace) -> int:
    """`mossrepro run pack` and `mossrepro run check`."""
    if args.what == "pack":
        pack(args.folder, args.output)
        return 0
    return check(args.folder)
