"""Lessons to notebooks: the percent files in this folder are the single source, notebooks/ is made from them.

solutions/ has cells of the same names, to be run below those of their lesson.

python lessons/build.py              write notebooks/NN_name.ipynb where a lesson's cells are others now; results stay
                                     where the code is the same
python lessons/build.py --check      write nothing; exit 1 if a notebook is not what its lesson says
python lessons/build.py --execute    run every lesson in full and keep the results in runs/lessons/NN_name.ipynb
python lessons/build.py --execute 07 only the lessons whose names start so
python lessons/build.py --outputs    run in full every lesson whose notebook has no results yet, and keep them in it:
                                     pictures and sounds made small, LIMIT bytes a notebook at most
"""

import argparse
import base64
import hashlib
import io
import json
import os
import re
import sys
import time
from pathlib import Path

import jupytext
import nbformat
import soundfile
import soxr
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image

ROOT = Path(__file__).parents[1]
CELL_SECONDS = 900  # the longest any one cell may take
LIMIT = 300_000  # bytes of a notebook with its results
# Pictures' width in pixels and sounds' samples a second: the first that keep a notebook below LIMIT.
SIZES = ((900, 24_000), (700, 16_000), (500, 12_000))
OPUS_RATES = (8_000, 12_000, 16_000, 24_000, 48_000)
OPUS_LEVEL = 0.98  # of libsndfile, from 0 (256 kbit a second) to 1 (6): 11
REPOSITORY = ""  # where a notebook gets the project from on a bare machine; "": its reader is asked
INSTALL = f'''# Only where the project is not installed, as on Colab: the address of this notebook's repository.
REPOSITORY = "{REPOSITORY}"
import importlib.util, os

if importlib.util.find_spec("mossrepro") is None:
    assert REPOSITORY, "set REPOSITORY, two lines above"
    !git clone --quiet --depth 1 {{REPOSITORY}} course
    os.environ["MOSSREPRO_PACKS"] = os.path.abspath("course/packs")
    %pip install --quiet "./course[data,evaluation,lessons]"
    %pip install --quiet --no-deps --require-hashes -r course/requirements/assets.txt
    %cd course/notebooks'''
SOUND = re.compile(r'src="data:audio/x?-?wav;base64,([^"]+)"(\s+type=")audio/x?-?wav"')


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
    text can change a byte. Behind the title stands a cell that installs the project where there is none.
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
        made.cells.append(new(cell.source, id=_id(index)))
    made.cells.insert(1, nbformat.v4.new_code_cell(INSTALL, id=_id("install")))
    return made


def _id(place: int | str) -> str:
    return hashlib.sha256(str(place).encode()).hexdigest()[:8]


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


def rendered_again(lesson: Path) -> str:
    """The notebook file's text, with the results of the notebook that is there if its code is the same."""
    new, path = notebook(lesson), target(lesson)
    old = nbformat.read(path, as_version=4) if path.is_file() else nbformat.v4.new_notebook()
    code, before = ([cell for cell in made.cells if cell.cell_type == "code"] for made in (new, old))
    if [cell.source for cell in code] == [cell.source for cell in before]:
        for cell, ran in zip(code, before, strict=True):
            cell.outputs, cell.execution_count = ran.outputs, ran.execution_count
    return nbformat.writes(new).rstrip("\n") + "\n"


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


def shrink(done: nbformat.NotebookNode) -> str:
    """The file's text of an executed notebook, LIMIT bytes at most. ValueError where that cannot be had.

    Pictures get few colours and sounds become ogg; what warnings say and where this machine keeps things is left out.
    """
    for widest, rate in SIZES:
        small = nbformat.from_dict(json.loads(json.dumps(done)))
        for cell in small.cells:
            cell.metadata = {}
            if cell.cell_type == "code":
                kept = [o for o in cell.outputs if o.get("name") != "stderr"]
                cell.outputs = [_shrunk(o, widest, rate) for o in _in_one(kept)]
        text = nbformat.writes(small).rstrip("\n") + "\n"
        text = text.replace(str(ROOT), ".").replace(str(Path.home()) + os.sep, "~/")
        if len(text.encode()) <= LIMIT:
            return text
    raise ValueError(f"{len(text.encode()):,} bytes with small pictures and sounds, {LIMIT:,} are allowed")


def _in_one(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """What is printed one after the other as one output: a kernel cuts it wherever its buffer ends."""
    found: list[nbformat.NotebookNode] = []
    for output in outputs:
        if found and output.output_type == found[-1].output_type == "stream":
            found[-1].text += output.text
        else:
            found.append(output)
    return found


def _shrunk(output: nbformat.NotebookNode, widest: int, rate: int) -> nbformat.NotebookNode:
    """An output with a picture of at most `widest` pixels and sounds of at most `rate` samples a second."""
    if output.output_type == "stream":
        output.text = as_seen(output.text)
    data = output.get("data", {})
    data.pop("text/latex", None)  # the same once more, for paper
    if "image/png" in data:
        data["image/png"] = _picture(data["image/png"], widest)
    if "text/html" in data:
        data["text/html"] = SOUND.sub(lambda m: _ogg(m[1], m[2], rate), data["text/html"])
    return output


def as_seen(text: str) -> str:
    """What a terminal shows at the end of a text: progress bars in their last state, no colours."""
    lines, row, again = [""], 0, False
    for plain, up, erase in re.findall(r"([^\x1b\r\n]+|\n|\r)|\x1b\[(\d*)A|\x1b\[\d*(K)|\x1b\[[\d;?]*[a-zA-Z]", text):
        if up or erase:
            row, lines[row] = max(0, row - int(up or 0)), "" if erase else lines[row]
        elif plain == "\n":
            row, again = row + 1, False
            lines += [""] * (row == len(lines))
        elif plain == "\r":
            again = True  # the line is written over, if anything follows on it
        elif plain:
            lines[row], again = ("" if again else lines[row]) + plain, False
    return "\n".join(lines)


def _picture(png: str, widest: int) -> str:
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    picture.thumbnail((widest, 10 * widest))
    kept = io.BytesIO()
    picture.quantize(64).save(kept, "png", optimize=True)
    return base64.b64encode(kept.getvalue()).decode()


def _ogg(wav: str, between: str, rate: int) -> str:
    wave, its_rate = soundfile.read(io.BytesIO(base64.b64decode(wav)), dtype="float32")
    if its_rate > rate or its_rate not in OPUS_RATES:
        wave, its_rate = soxr.resample(wave, its_rate, rate), rate
    kept = io.BytesIO()
    with soundfile.SoundFile(kept, "w", its_rate, 1, "OPUS", format="OGG", compression_level=OPUS_LEVEL) as file:
        for start in range(0, len(wave), its_rate):  # a second at a time: libsndfile crashes on long ones
            file.write(wave[start : start + its_rate])
    return f'src="data:audio/ogg;base64,{base64.b64encode(kept.getvalue()).decode()}"{between}audio/ogg"'


def has_outputs(lesson: Path) -> bool:
    """Whether a lesson's notebook is up to date and keeps results."""
    if is_stale(lesson):
        return False
    return any(cell.get("outputs") for cell in json.loads(target(lesson).read_text("utf-8"))["cells"])


def keep_outputs(chosen: list[Path]) -> int:
    """Execute lessons whose notebooks have no results, one after the other, and keep these in the notebooks."""
    if os.environ.get("MOSSREPRO_SMOKE") == "1":
        print("MOSSREPRO_SMOKE=1 is for tests; notebooks keep the results of whole lessons: unset it", file=sys.stderr)
        return 2
    failed = 0
    for lesson in chosen:
        if has_outputs(lesson):
            continue
        print(f"{lesson.stem} ...", flush=True)
        try:
            target(lesson).parent.mkdir(exist_ok=True)
            done = execute(lesson, target(lesson).parent)
            whole = ROOT / "runs" / "lessons" / target(lesson).name  # minutes of work, whatever comes of it
            whole.parent.mkdir(parents=True, exist_ok=True)
            whole.write_text(nbformat.writes(done), "utf-8")
            target(lesson).write_bytes(shrink(done).encode())
        except (CellExecutionError, ValueError) as error:
            print(f"lessons/{lesson.name}: {error}", file=sys.stderr)
            failed = 1
    return failed


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
    mode.add_argument("--outputs", action="store_true")
    args = parser.parse_args(argv)
    chosen = lessons(args.start)
    if not chosen:
        print(f"no lesson begins with {args.start!r}", file=sys.stderr)
        return 2
    if args.execute:
        return _execute_all(chosen)
    if args.outputs:
        return keep_outputs(chosen)
    if args.check:
        stale = [lesson for lesson in chosen if is_stale(lesson)]
        for lesson in stale:
            print(
                f"{target(lesson).name} is not what lessons/{lesson.name} says; run python lessons/build.py",
                file=sys.stderr,
            )
        return min(len(stale), 1)
    target(chosen[0]).parent.mkdir(exist_ok=True)
    for lesson in filter(is_stale, chosen):  # the others keep their outputs
        target(lesson).write_bytes(rendered_again(lesson).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
