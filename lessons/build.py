"""Lessons to notebooks: the percent files in this folder are the single source, notebooks/ is made from them.

solutions/ has cells of the same names, to be run below those of their lesson.

python lessons/build.py              write notebooks/NN_name.ipynb where a lesson's cells are others now
python lessons/build.py --check      write nothing; exit 1 if a notebook is not what its lesson says
python lessons/build.py --execute    run every lesson in full and keep the results in runs/lessons/NN_name.ipynb
python lessons/build.py --execute 07 only the lessons whose names start so
"""

import argparse
import hashlib
import json
import sys
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).parents[1]
CELL_SECONDS = 900  # the longest any one cell may take


def lessons(start: str = "") -> list[Path]:
    """The lessons in order, those whose names begin with `start`."""
    return sorted(path for path in (ROOT / "lessons").glob("[0-9][0-9]_*.py") if path.name.startswith(start))


def target(lesson: Path) -> Path:
    """Where a lesson's notebook stands."""
    return ROOT / "notebooks" / f"{lesson.stem}.ipynb"


def solution(lesson: Path) -> Path:
    """Where the solutions of a lesson's exercises stand."""
    return lesson.parent / "solutions" / lesson.name


def notebook(lesson: Path, without: str | None = None) -> nbformat.NotebookNode:
    """A lesson as a notebook without outputs and, for a quick run, without the cells of one tag.

    Cell ids are hashes of the cells' places and the metadata holds no versions, so that nothing but the lesson's own
    text can change a byte.
    """
    read = jupytext.reads(lesson.read_text("utf-8"), fmt="py:percent")
    made = nbformat.v4.new_notebook(
        metadata={
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
            "source": f"lessons/{lesson.name}",
        }
    )
    made.nbformat_minor = 5
    for index, cell in enumerate(read.cells):
        if without is not None and without in cell.metadata.get("tags", []):
            continue
        new = nbformat.v4.new_code_cell if cell.cell_type == "code" else nbformat.v4.new_markdown_cell
        made.cells.append(new(cell.source, id=hashlib.sha256(str(index).encode()).hexdigest()[:8]))
    return made


def _code_cells(path: Path) -> list[nbformat.NotebookNode]:
    read = jupytext.reads(path.read_text("utf-8"), fmt="py:percent")
    return [cell for cell in read.cells if cell.cell_type == "code"]


def is_stale(lesson: Path) -> bool:
    """Whether a lesson's notebook is missing or has other cells than the lesson; outputs are not compared."""
    if not target(lesson).is_file():
        return True
    return _sources(json.loads(target(lesson).read_text("utf-8"))) != _sources(json.loads(render(lesson)))


def _sources(made: dict) -> list[tuple[str, str, str]]:
    return [(cell["id"], cell["cell_type"], "".join(cell["source"])) for cell in made["cells"]]


def render(lesson: Path) -> str:
    """The notebook file's text."""
    return nbformat.writes(notebook(lesson)).rstrip("\n") + "\n"


def execute(lesson: Path, folder: Path, without: str | None = None, solved: bool = False) -> nbformat.NotebookNode:
    """Run a lesson with `folder` as its working directory; its notebook with outputs, or CellExecutionError.

    without: a tag whose cells are left out. solved: run the cells of its solutions after it, too.
    """
    done = notebook(lesson, without)
    if solved:
        done.cells += [nbformat.v4.new_code_cell(cell.source) for cell in _code_cells(solution(lesson))]
    client = NotebookClient(
        done,
        timeout=CELL_SECONDS,
        startup_timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    return done


def _execute_all(chosen: list[Path]) -> int:
    out = ROOT / "runs" / "lessons"
    out.mkdir(parents=True, exist_ok=True)
    failed = 0
    for lesson in chosen:
        print(f"{lesson.stem} ...", flush=True)
        started = time.monotonic()
        try:
            nbformat.write(execute(lesson, target(lesson).parent), out / f"{lesson.stem}.ipynb")
        except CellExecutionError as error:
            print(error, file=sys.stderr)
            failed += 1
            continue
        print(f"  {time.monotonic() - started:.0f} s; with sounds and pictures in {out / f'{lesson.stem}.ipynb'}")
    return min(failed, 1)


def main(argv: list[str] | None = None) -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("start", nargs="?", default="", help="only lessons whose names begin so")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--check", action="store_true")
    mode.add_argument("--execute", action="store_true")
    args = parser.parse_args(argv)
    chosen = lessons(args.start)
    if not chosen:
        print(f"no lesson begins with {args.start!r}", file=sys.stderr)
        return 2
    if args.execute:
        return _execute_all(chosen)
    if args.check:
        stale = [lesson for lesson in chosen if is_stale(lesson)]
        for lesson in stale:
            print(f"{target(lesson).name} is not what lessons/{lesson.name} says; run make notebooks", file=sys.stderr)
        return min(len(stale), 1)
    target(chosen[0]).parent.mkdir(exist_ok=True)
    for lesson in filter(is_stale, chosen):  # the others keep their outputs
        target(lesson).write_bytes(render(lesson).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
