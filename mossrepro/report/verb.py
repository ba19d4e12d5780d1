"""`mossrepro report`: tables on the terminal, report.html, pairings.png, Markdown."""

import argparse
from pathlib import Path

from rich.console import Console

from mossrepro.report import figures
from mossrepro.report.claims import CLAIMS, MISSING, read_claims
from mossrepro.report.run_data import read_run
from mossrepro.report.tables import claims_table, expected_rows, markdown, measured, stage_table
from mossrepro.training.runs import run_folder, size_name
from mossrepro.utils.errors import visible
from mossrepro.utils.io import write_atomic, write_text


def write(folder: str | Path, size: str, claims: Path | None = None, markdown_to: Path | None = None) -> int:
    """Print the tables, write `folder/report.html`, pairings.png (and Markdown); returns 1 if a claim failed, else 0.

    Raises:
        DataError, ConfigError: see `read_run` and `read_claims`.
    """
    from mossrepro.report import page  # matplotlib, only when a page is made

    run = read_run(Path(folder), size, read_claims(claims or CLAIMS))
    target, rendered = run.folder / "report.html", page.render(run)
    write_text(target, rendered)  # also where a link stands: it is replaced, not followed
    figure = figures.pairings(run)
    if figure:
        write_atomic(run.folder / "pairings.png", lambda file: figure.savefig(file, format="png", dpi=150))
    if markdown_to:
        write_text(markdown_to, markdown(run))
    console = Console(soft_wrap=False, markup=False, emoji=False)
    console.print(claims_table(run, console.width))
    more = sum(row.fact is not None for row in run.rows) - sum(row.fact is not None for row in expected_rows(run))
    if more:
        console.print(f"{more} more numbers: report.html, or Markdown with `mossrepro report --markdown FILE`")
    if run.stages:
        console.print(stage_table(run))
    for row in run.failed:
        seen = measured(row.fact) or MISSING
        said = f"FAILED {row.claim.id}: {seen}, expected {row.claim.expectation(size)}"
        console.print(visible(said), style="bold red")
    console.print(visible(f"The report with pictures and sound: {target}"))
    return 1 if run.failed else 0


def main(args: argparse.Namespace) -> int:
    """`mossrepro report`: the run is `args.run`, or that of the size with its changes."""
    return write(args.run or run_folder(args), size_name(args.size), args.claims, args.markdown)
