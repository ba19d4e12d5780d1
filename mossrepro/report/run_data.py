"""What a report is made of: the facts, stages, curves and sounds in the folder of a run.

Inputs in `runs/NAME`: `facts/*.json`, `stages.json` ([{stage, minutes, cached, hardware}]), `metrics/STAGE.jsonl` (or
.csv), `wav/index.json` ([{question, answer, question_text, reference, heard, set}]), `families.json` ([{set, pairing,
family, stem, facts, questions, right}]) and `answers.json` ([{test, question, voice, read, heard}]). What is missing is
left out. A claim outside its range is shown as failed and makes the exit code 1.
"""

import csv
import json
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from mossrepro.report.claims import FAILED, SHOWN, Claim
from mossrepro.training import metrics
from mossrepro.training.metrics import Metric
from mossrepro.utils.errors import AudioError, DataError
from mossrepro.utils.io import read_lines
from mossrepro.utils.records import build, check_inside, is_inner, leads_out, read_json
from mossrepro.utils.sound_file import header

LONGEST, LARGEST = 120.0, 8 << 20  # seconds and bytes of a sound that is embedded
_LONGEST_NAME = 1_000  # characters of a sound's path
_MOST = 1e30  # of a number in a curve
Entry = TypeVar("Entry")


@dataclass
class Row:
    """A claim, or a fact without a claim, as it is shown."""

    claim: Claim
    fact: Metric | None
    status: str


@dataclass
class Stage:
    """An entry of stages.json: what a stage took."""

    stage: str
    minutes: float
    cached: bool = False
    hardware: str = ""


@dataclass
class Talk:
    """An entry of wav/index.json: files of a question and its answer, what was asked, expected and heard."""

    question: str
    answer: str
    question_text: str = ""
    reference: str = ""
    heard: str = ""
    set: str = ""
    correct: bool | None = None


@dataclass
class FamilyScore:
    """An entry of families.json: right answers of a pairing on a family's facts of one set."""

    set: str
    family: str
    stem: bool
    pairing: str
    facts: int
    questions: int
    right: int


@dataclass
class OpenAnswer:
    """An entry of answers.json: what a model replies in writing to a question that it reads, and that it hears."""

    test: str
    question: str
    voice: str
    read: str
    heard: str


@dataclass
class Run:
    """Everything a report is made from."""

    folder: Path
    size: str
    rows: list[Row]
    stages: list[Stage]
    curves: dict[str, list[dict[str, float]]]  # by stage: rows with "step" and logged numbers
    talks: list[Talk]
    families: list[FamilyScore]
    answers: list[OpenAnswer]

    @property
    def failed(self) -> list[Row]:
        """The claims outside their range, or expected and not measured."""
        return [row for row in self.rows if row.status == FAILED]

    def sound(self, name: str) -> tuple[Path, str]:
        """A file of wav/ by its name in the index, and why it cannot be shown ("" if it can).

        A run may be somebody else's, and a page is sent around: no file is embedded that lies outside the run, by its
        path or by a link, or that is no sound.
        """
        path = self.folder / "wav" / name
        if not is_inner(name) or len(name) > _LONGEST_NAME or leads_out(path, self.folder):
            return path, "is not a file of this run"
        if not path.is_file():
            return path, "is missing"
        try:
            about = header(path)
        except AudioError:
            return path, "is not a sound"
        if not 0 < about.seconds <= LONGEST or path.stat().st_size > LARGEST:
            return path, f"is not shown: {about.seconds:.0f} s, {path.stat().st_size >> 20} MB"
        return path, ""


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
    stages = _entries(Stage, folder, "stages.json")
    if any(stage.minutes < 0 for stage in stages):
        raise DataError(f"{folder / 'stages.json'}: a stage took less than no time")
    order = [stage.stage for stage in stages]
    files = [path for path in (folder / "metrics").glob("*.*") if path.suffix in (".jsonl", ".csv")]
    files.sort(key=lambda path: (order.index(path.stem) if path.stem in order else len(order), path.stem))
    curves = {path.stem: read_curve(check_inside(path, folder)) for path in files}
    talks, families = _entries(Talk, folder, "wav/index.json"), _entries(FamilyScore, folder, "families.json")
    answers = _entries(OpenAnswer, folder, "answers.json")
    return Run(folder, size, rows, stages, curves, talks, families, answers)


def _entries(kind: type[Entry], folder: Path, name: str) -> list[Entry]:
    """The list in a JSON file of a run, empty where there is none. DataError names the entry that does not fit."""
    path = check_inside(folder / name, folder)
    entries = read_json(path) if path.exists() else []
    if not isinstance(entries, list):
        raise DataError(f"{path}: not a list")
    return [build(kind, entry, f"{path}: entry {number}", others=True) for number, entry in enumerate(entries, 1)]


def read_curve(path: Path) -> list[dict[str, float]]:
    """The rows of a metrics file (.jsonl, one object a line, or .csv with a header) that have a step and numbers.

    What is no number, or too large to be drawn, is left out, and so is an incomplete line. DataError names a file that
    is no table of numbers.
    """
    lines = read_lines(path)
    if path.suffix == ".csv":
        try:
            rows = [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(lines)]
        except (ValueError, TypeError, csv.Error) as error:
            raise DataError(f"{path}: not a table of numbers ({error})") from error
    else:
        rows = [_numbers(line) for line in lines]
    rows = [{key: float(value) for key, value in row.items() if _is_drawn(value)} for row in rows]
    return [row for row in rows if "step" in row]


def _numbers(line: str) -> dict[str, Any]:
    """A line of JSON; empty where it is no object."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return row if isinstance(row, dict) else {}


def _is_drawn(value: Any) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and abs(value) <= _MOST


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
