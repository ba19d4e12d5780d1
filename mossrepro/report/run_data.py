"""What a report is made of: the facts, stages, curves and sounds in the folder of a run.

Inputs in `runs/NAME`: `facts/*.json`, `stages.json` ([{stage, minutes, cached, hardware}]), `metrics/STAGE.jsonl` (or
.csv), `wav/index.json` ([{question, answer, question_text, reference, heard, set}]) and `families.json` ([{set,
pairing, family, stem, facts, questions, right}]). Whatever is missing is left out. A claim outside its range is shown
as failed and makes the exit code 1.
"""

import csv
import json
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from mossrepro.report.claims import FAILED, SHOWN, Claim
from mossrepro.training import metrics
from mossrepro.training.metrics import Metric
from mossrepro.utils.errors import DataError


@dataclass
class Row:
    """A claim, or a fact without a claim, as it is shown."""

    claim: Claim
    fact: Metric | None
    status: str


@dataclass
class Run:
    """Everything a report is made from."""

    folder: Path
    size: str
    rows: list[Row]
    stages: list[dict[str, Any]]
    curves: dict[str, list[dict[str, float]]]  # by stage: rows with "step" and logged numbers
    talks: list[dict[str, Any]]  # the entries of wav/index.json
    families: list[dict[str, Any]]  # the entries of families.json

    @property
    def failed(self) -> list[Row]:
        """The claims outside their range, or expected and not measured."""
        return [row for row in self.rows if row.status == FAILED]


def read_run(folder: Path, size: str, claims: list[Claim]) -> Run:
    """Read a run's folder.

    Raises:
        DataError: there is no such folder, it holds no facts, or a file in it is broken.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such run; `mossrepro reproduce` makes one")
    found = metrics.read_metrics(folder)
    if not found:
        raise DataError(f"{folder}: no facts yet; `mossrepro reproduce` measures them")
    rows = [Row(claim, found.get(claim.id), claim.judge(found.get(claim.id), size)) for claim in claims]
    claimed = {claim.id for claim in claims}
    for fact in found.values():
        if fact.id not in claimed:
            rows.append(Row(Claim(fact.id, fact.name, fact.unit, paper=fact.paper), fact, SHOWN))
    stages = _json(folder / "stages.json")
    order = [stage["stage"] for stage in stages]
    files = [path for path in (folder / "metrics").glob("*.*") if path.suffix in (".jsonl", ".csv")]
    files.sort(key=lambda path: (order.index(path.stem) if path.stem in order else len(order), path.stem))
    curves = {path.stem: read_curve(path) for path in files}
    talks, families = _json(folder / "wav" / "index.json"), _json(folder / "families.json")
    return Run(folder, size, rows, stages, curves, talks, families)


def _json(path: Path) -> list[dict[str, Any]]:
    try:
        return json.loads(path.read_text()) if path.exists() else []
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error})") from error


def read_curve(path: Path) -> list[dict[str, float]]:
    """The rows of a metrics file (.jsonl, one object a line, or .csv with a header); an incomplete line is dropped."""
    rows: list[dict[str, float]] = []
    with open(path, newline="") as file:
        if path.suffix == ".csv":
            return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
        for line in file:
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
    return rows


def environment(run: Run) -> dict[str, str]:
    """Hardware and commit as the first fact records them, versions as installed here."""
    first = next(row.fact for row in run.rows if row.fact)
    about = {"hardware": first.hardware, "commit": first.commit, "python": platform.python_version()}
    for package in ("torch", "lightning", "onnxruntime", "mossrepro"):
        try:
            about[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return about
