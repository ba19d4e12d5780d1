"""From facts to a report: a table in the terminal, one HTML page with pictures and sound, and Markdown.

Inputs in `runs/NAME`: `facts/*.json`, `stages.json` ([{stage, minutes, cached, hardware}]), `metrics/STAGE.jsonl` (or
.csv) and `wav/index.json` ([{question, answer, question_text, reference, heard, set}]). Whatever is missing is left
out. A claim outside its range is shown as failed and makes the exit code 1.
"""

import argparse
import csv
import json
import os
import platform
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from rich import box
from rich.console import Console
from rich.table import Table

from mossrepro import facts
from mossrepro.errors import ConfigError, DataError
from mossrepro.facts import Fact

CLAIMS = Path(__file__).parents[1] / "configs" / "claims.yaml"
PASSED, FAILED, MISSING, SHOWN = "passed", "failed", "not measured", ""
INTRODUCTION = (
    "Every row is a fact of one run (`facts/ID.json`: command, commit, hardware). ✓ inside the range that "
    "`configs/claims.yaml` expects, ✗ outside it, – not measured in this run. The paper's column is the nearest thing "
    "that it measured, with 8 B parameters and on other questions."
)
MARK = {PASSED: "✓", FAILED: "✗", MISSING: "–", SHOWN: " "}
COLOUR = {PASSED: "green", FAILED: "bold red", MISSING: "dim", SHOWN: ""}


@dataclass
class Claim:
    """One row of `configs/claims.yaml`: a fact's id and the range it is expected in."""

    id: str
    name: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    paper: float | str | None = None
    minutes: float = 0.0
    sizes: list[str] = field(default_factory=list)
    controls: bool = False

    def judge(self, fact: Fact | None, size: str) -> str:
        """PASSED, FAILED, MISSING, or SHOWN where nothing is expected (another size, or no range)."""
        expected = (self.low is not None or self.high is not None) and (not self.sizes or size in self.sizes)
        if fact is None:
            return FAILED if expected and not self.controls else MISSING
        if not expected:
            return SHOWN
        inside = (self.low is None or fact.value >= self.low) and (self.high is None or fact.value <= self.high)
        return PASSED if inside else FAILED  # a NaN compares false and fails

    def expectation(self, size: str) -> str:
        """The range in words, empty where nothing is expected of this size."""
        if self.sizes and size not in self.sizes:
            return ""
        if self.low is not None and self.high is not None:
            return f"= {self.low:g}" if self.low == self.high else f"{self.low:g} to {self.high:g}"
        return f"≥ {self.low:g}" if self.low is not None else f"≤ {self.high:g}" if self.high is not None else ""


@dataclass
class Row:
    """A claim (or a fact nobody claimed) as it is shown."""

    claim: Claim
    fact: Fact | None
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

    @property
    def failed(self) -> list[Row]:
        """The claims outside their range, or expected and not measured."""
        return [row for row in self.rows if row.status == FAILED]


def read_claims(path: Path = CLAIMS) -> list[Claim]:
    """The claims of a YAML file.

    Raises:
        ConfigError: the file is missing, a row has an unknown or missing key, or two rows share an id.
    """
    try:
        rows = yaml.safe_load(path.read_text())
        claims = [Claim(**row) for row in rows]
    except (OSError, yaml.YAMLError, TypeError) as error:
        raise ConfigError(f"{path}: {str(error).splitlines()[0]}") from error
    ids = [claim.id for claim in claims]
    double = {i for i in ids if ids.count(i) > 1}
    if double:
        raise ConfigError(f"{path}: id {', '.join(sorted(double))} stands there twice")
    return claims


def read_run(folder: Path, size: str, claims: list[Claim]) -> Run:
    """Reads a run's folder.

    Raises:
        DataError: there is no such folder, it holds no facts, or a file in it is broken.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such run; `mossrepro reproduce` makes one")
    found = facts.load(folder)
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
    return Run(folder, size, rows, stages, curves, _json(folder / "wav" / "index.json"))


def _json(path: Path) -> list[dict[str, Any]]:
    try:
        return json.loads(path.read_text()) if path.exists() else []
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error})") from error


def read_curve(path: Path) -> list[dict[str, float]]:
    """The rows of a metrics file (.jsonl, one object a line, or .csv with a header); a line cut short is dropped."""
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


def number(value: float | None) -> str:
    """Three significant digits without an exponent for everyday sizes."""
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def measured(fact: Fact | None) -> str:
    """`81.5 % (75.5 to 86.3)`, empty when it was not measured."""
    if fact is None:
        return ""
    text = f"{number(fact.value)} {fact.unit}".strip()
    if fact.low is not None and fact.high is not None:
        text += f" ({number(fact.low)} to {number(fact.high)})"
    return text


def table(run: Run, width: int = 120) -> Table:
    """The claims as a terminal table; a narrow terminal does without the paper's column."""
    view = Table(title=f"{run.folder}", title_justify="left", pad_edge=False, box=box.SIMPLE_HEAD)
    view.add_column("")
    view.add_column("claim", ratio=1)
    for name in ("measured", "expected", "paper, 8 B")[: 3 if width >= 110 else 2]:
        view.add_column(name, justify="right", no_wrap=True)
    for row in run.rows:
        cells = [row.claim.name, measured(row.fact), row.claim.expectation(run.size), str(row.claim.paper or "")]
        view.add_row(MARK[row.status], *cells[: len(view.columns) - 1], style=COLOUR[row.status])
    return view


def stage_table(run: Run) -> Table:
    """Minutes per stage."""
    view = Table(pad_edge=False, box=box.SIMPLE_HEAD)
    for name, side in (("stage", "left"), ("minutes", "right"), ("", "left")):
        view.add_column(name, justify=side)
    for stage in run.stages:
        view.add_row(stage["stage"], f"{stage['minutes']:.1f}", "cached" if stage.get("cached") else "")
    view.add_row("total", f"{sum(stage['minutes'] for stage in run.stages):.1f}", "", style="bold")
    return view


def markdown(run: Run) -> str:
    """The same tables for docs/RESULTS.md."""
    lines = [f"# Results at `{run.size}`", "", INTRODUCTION, ""]
    lines += ["|   | claim | measured (95 % interval) | expected | paper, 8 B | n |", "|---|---|---:|---:|---:|---:|"]
    for row in run.rows:
        n = row.fact.n if row.fact and row.fact.n else ""
        cells = [row.claim.name, measured(row.fact) or MISSING, row.claim.expectation(run.size), row.claim.paper or ""]
        lines.append(
            f"| {MARK[row.status].strip()} | " + " | ".join(str(c).replace("|", "/") for c in cells) + f" | {n} |"
        )
    if run.stages:
        lines += ["", "| stage | minutes | hardware |", "|---|---:|---|"]
        lines += [f"| {s['stage']} | {s['minutes']:.1f} | {s.get('hardware', '')} |" for s in run.stages]
    about = environment(run)
    commits = sorted({row.fact.commit for row in run.rows if row.fact and row.fact.commit}) or ["unknown"]
    measured_at = f"commit{'s' * (len(commits) > 1)} {', '.join(commits)}"
    return "\n".join([*lines, "", f"{about['hardware']}; {measured_at} (of each number in its fact).", ""])


def environment(run: Run) -> dict[str, str]:
    """Hardware and commit as the facts say, versions as installed here."""
    first = next(row.fact for row in run.rows if row.fact)
    about = {"hardware": first.hardware, "commit": first.commit, "python": platform.python_version()}
    for package in ("torch", "lightning", "onnxruntime", "mossrepro"):
        try:
            about[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return about


def write(folder: str | Path, size: str, claims: Path | None = None, markdown_to: Path | None = None) -> int:
    """Prints the tables, writes `folder/report.html`, pairings.png (and Markdown); returns 1 if a claim failed, else 0.

    Raises:
        DataError, ConfigError: see `read_run` and `read_claims`.
    """
    from mossrepro import page  # matplotlib, only when a page is made

    run = read_run(Path(folder), size, read_claims(claims or CLAIMS))
    target = run.folder / "report.html"
    partial = target.with_suffix(".partial")
    partial.write_text(page.render(run), encoding="utf-8")
    os.replace(partial, target)
    figure = page.pairings(run)
    if figure:
        figure.savefig(run.folder / "pairings.png", dpi=150)
    if markdown_to:
        markdown_to.write_text(markdown(run), encoding="utf-8")
    console = Console(soft_wrap=False)
    console.print(table(run, console.width))
    if run.stages:
        console.print(stage_table(run))
    for row in run.failed:
        seen = measured(row.fact) or MISSING
        console.print(f"FAILED {row.claim.id}: {seen}, expected {row.claim.expectation(size)}", style="bold red")
    console.print(f"The report with pictures and sound: {target}")
    return 1 if run.failed else 0


def main(args: argparse.Namespace) -> int:
    """`mossrepro report`: the run is `args.run`, or runs/NAME, or runs/SIZE."""
    folder = args.run or Path("runs") / (args.name or args.size)
    return write(folder, args.size, args.claims, args.markdown)
