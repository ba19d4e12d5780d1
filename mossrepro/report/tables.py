"""A run's claims as tables: on the terminal and in Markdown."""

from html import escape

from rich import box
from rich.table import Table
from rich.text import Text

from mossrepro.report.claims import COLOUR, FAILED, MARK, MISSING, PASSED
from mossrepro.report.run_data import Row, Run, environment
from mossrepro.training.metrics import Metric
from mossrepro.utils.errors import visible

WIDEST = 1_000.0  # an interval this many times as wide as its number is not shown
INTRODUCTION = (
    "Every row is a fact of one run (`facts/ID.json`: command, commit, hardware). ✓ inside the range that "
    "`configs/claims.yaml` expects, ✗ outside it, – not measured in this run. The paper's column is the nearest thing "
    "that it measured, with 8 B parameters and on other questions."
)
FAMILY_COLUMNS = ("family", "facts", "T2T", "S2T", "T2S", "S2S")
OPEN_COLUMNS = ("open question, by an English stranger", "reply when read", "reply when heard")
OPEN_SHOWN = 12  # open questions of each test
FAMILY_NOTE = "Right answers on set C by family. * The answer keeps the stem of its subject (cat, cats)."


def number(value: float | None) -> str:
    """Three significant digits without an exponent for everyday sizes."""
    if value is None:
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def measured(fact: Metric | None) -> str:
    """`81.5 % (75.5 to 86.3)`, empty when it was not measured."""
    if fact is None:
        return ""
    text = f"{number(fact.value)} {fact.unit}".strip()
    if fact.low is not None and fact.high is not None:
        wide = not fact.high - fact.low <= WIDEST * max(abs(fact.value), 1.0)  # true for NaN and infinity, too
        text += " (interval too wide to say)" if wide else f" ({number(fact.low)} to {number(fact.high)})"
    return text


def expected_rows(run: Run) -> list[Row]:
    """The claims that are judged at this run's size, or everything measured if none is."""
    judged = [row for row in run.rows if row.status in (PASSED, FAILED)]
    return judged or [row for row in run.rows if row.fact]


def claims_table(run: Run, width: int = 120) -> Table:
    """The claims of `expected_rows` as a terminal table; a narrow one leaves out the paper's column."""
    view = Table(title=Text(visible(f"{run.folder}")), title_justify="left", pad_edge=False, box=box.SIMPLE_HEAD)
    view.add_column("")
    view.add_column("claim", ratio=1)
    for name in ("measured", "expected", "paper, 8 B")[: 3 if width >= 110 else 2]:
        view.add_column(name, justify="right", no_wrap=True)
    for row in expected_rows(run):
        cells = [row.claim.name, measured(row.fact), row.claim.expectation(run.size), str(row.claim.paper or "")]
        cells = [Text(visible(cell)) for cell in cells]
        view.add_row(MARK[row.status], *cells[: len(view.columns) - 1], style=COLOUR[row.status])
    return view


def stage_table(run: Run) -> Table:
    """Minutes per stage."""
    view = Table(pad_edge=False, box=box.SIMPLE_HEAD)
    for name, side in (("stage", "left"), ("minutes", "right"), ("", "left")):
        view.add_column(name, justify=side)
    for stage in run.stages:
        view.add_row(Text(visible(stage.stage)), f"{stage.minutes:.1f}", "cached" if stage.cached else "")
    view.add_row("total", f"{sum(stage.minutes for stage in run.stages):.1f}", "", style="bold")
    return view


def family_rows(run: Run, name: str = "C") -> list[list[str]]:
    """A set by family: rows of family, facts, and "right of questions" in T2T, S2T, T2S and S2S; a star marks stems."""
    cells: dict[str, dict[str, str]] = {}
    for row in run.families:
        if row.set == name:
            line = cells.setdefault(row.family, {"family": row.family + " *" * row.stem})
            line |= {"facts": str(row.facts), row.pairing: f"{row.right} of {row.questions}"}
    return [[line.get(key, "") for key in FAMILY_COLUMNS] for _, line in sorted(cells.items())]


def open_rows(run: Run) -> list[list[str]]:
    """The first open questions of each test with both replies, side by side: rows of OPEN_COLUMNS."""
    rows: dict[str, list[list[str]]] = {}
    for one in run.answers:
        rows.setdefault(one.test, []).append([one.question, one.read, one.heard])
    return [row for some in rows.values() for row in some[:OPEN_SHOWN]]


def markdown(run: Run) -> str:
    """The same tables for docs/RESULTS.md."""
    lines = [f"# Results at `{run.size}`", "", INTRODUCTION, ""]
    lines += ["|   | claim | measured (95 % interval) | expected | paper, 8 B | n |", "|---|---|---:|---:|---:|---:|"]
    for row in run.rows:
        n = row.fact.n if row.fact and row.fact.n else ""
        cells = [row.claim.name, measured(row.fact) or MISSING, row.claim.expectation(run.size), row.claim.paper or ""]
        lines.append(f"| {MARK[row.status].strip()} | " + " | ".join(map(_plain, cells)) + f" | {n} |")
    if families := family_rows(run):
        lines += ["", FAMILY_NOTE, "", f"| {' | '.join(FAMILY_COLUMNS)} |", "|---|---:" + "|---:" * 4 + "|"]
        lines += [f"| {' | '.join(map(_plain, row))} |" for row in families]
    if answers := open_rows(run):
        lines += ["", f"| {' | '.join(OPEN_COLUMNS)} |", "|---|---|---|"]
        lines += [f"| {' | '.join(_plain(' '.join(text.split())) for text in row)} |" for row in answers]
    if run.stages:
        lines += ["", "| stage | minutes | hardware |", "|---|---:|---|"]
        lines += [f"| {_plain(s.stage)} | {s.minutes:.1f} | {_plain(s.hardware)} |" for s in run.stages]
    about = environment(run)
    commits = sorted({row.fact.commit for row in run.rows if row.fact and row.fact.commit}) or ["unknown"]
    measured_at = f"commit{'s' * (len(commits) > 1)} {', '.join(commits)}"
    where = _plain(f"{about['hardware']}; {measured_at}")
    return "\n".join([*lines, "", f"{where} (of each number in its fact).", ""])


def _plain(cell: object) -> str:
    """A cell of a Markdown table that is neither two, nor HTML."""
    return escape(visible(str(cell)).replace("|", "/"), quote=False)
