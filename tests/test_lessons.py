"""Lessons: notebooks are what the lessons say, every lesson runs and can be solved, none re-implements the package."""

import ast
import base64
import importlib.util
import io
import json
import re
import tomllib
from pathlib import Path

import nbformat
import numpy as np
import pytest
import soundfile
from IPython.display import Audio
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from toy_run import write_toy_run

ROOT = Path(__file__).parents[1]
_spec = importlib.util.spec_from_file_location("lessons_build", ROOT / "lessons" / "build.py")
build = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(build)
LESSONS = build.lessons()
TRAINED = ("01", "03", "05", "06", "07")  # lessons that end with "Train it, then scale it"
PROCESSES = "processes"  # tag of cells that start other processes; here they run in one lesson
each_lesson = pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)


@pytest.fixture
def untrained_run(tmp_path):
    """A finished run of random small networks; what it says is noise. Returns a folder beside `runs`."""
    write_toy_run(tmp_path / "runs" / "toy", tmp_path)
    (tmp_path / "notebooks").mkdir()
    return tmp_path / "notebooks"


@each_lesson
def test_notebooks_are_made_from_the_lessons(lesson):
    assert not build.is_stale(lesson), "run python lessons/build.py"
    cells = json.loads(build.render(lesson))["cells"]
    assert len({cell["id"] for cell in cells}) == len(cells)


def test_no_notebook_without_a_lesson():
    assert LESSONS and {p.name for p in (ROOT / "notebooks").iterdir() if p.is_file()} == {
        build.target(lesson).name for lesson in LESSONS
    }


def test_a_stale_notebook_is_found_and_mended(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "ROOT", tmp_path)
    (tmp_path / "lessons").mkdir()
    lesson = tmp_path / "lessons" / "42_toy.py"
    lesson.write_text("# %% [markdown]\n# # Toy\n\n# %%\nx = 1\n")
    assert build.main(["--check"]) == 1
    assert build.main([]) == 0 and build.main(["--check"]) == 0
    before = json.loads(build.target(lesson).read_text())
    lesson.write_text("# %% [markdown]\n# # Toy\n\n# %%\nx = 2\n")
    assert build.main(["--check"]) == 1 and build.main([]) == 0
    after = json.loads(build.target(lesson).read_text())
    assert [cell["id"] for cell in before["cells"]] == [cell["id"] for cell in after["cells"]]
    after["cells"][1]["outputs"] = [{"name": "stdout", "output_type": "stream", "text": ["2\n"]}]
    build.target(lesson).write_text(json.dumps(after))
    assert build.main(["--check"]) == 0 and build.main([]) == 0  # an executed notebook stays as it is
    assert json.loads(build.target(lesson).read_text()) == after
    lesson.write_text("# %% [markdown]\n# # A toy\n\n# %%\nx = 2\n")  # results belong to the code
    assert build.main(["--check"]) == 1 and build.main([]) == 0 and build.main(["--check"]) == 0
    cells = json.loads(build.target(lesson).read_text())["cells"]
    assert cells[1]["outputs"] == after["cells"][1]["outputs"] and "A toy" in "".join(cells[0]["source"])
    lesson.write_text("# %% [markdown]\n# # A toy\n\n# %%\nx = 3\n")
    assert build.main([]) == 0 and not build.has_outputs(lesson)
    assert build.main(["--check", "07"]) == 2


@each_lesson
def test_notebooks_are_small_and_name_no_machine(lesson):
    text = build.target(lesson).read_text()
    assert len(text.encode()) <= build.LIMIT
    assert str(Path.home()) + "/" not in text and str(ROOT) not in text


@each_lesson
def test_a_notebook_installs_what_it_needs_where_it_is_not(lesson):
    """One cell behind the title, with the repository's address in one place; what it installs exists."""
    cells = build.notebook(lesson).cells
    assert cells[0].cell_type == "markdown" and cells[1].source == build.INSTALL
    assert sum("git clone" in cell.source for cell in cells) == build.INSTALL.count("REPOSITORY =") == 1
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.search(r"course\[(.*)\]", build.INSTALL)[1].split(",")) <= set(extras)
    for path in re.findall(r"course/([\w./-]+)", build.INSTALL):
        assert (ROOT / path).exists()


def executed(seconds: float, pixels: int) -> nbformat.NotebookNode:
    """A notebook as if executed: a tone, a noisy picture, a warning, and paths of this machine."""
    wave = 0.1 * np.sin(np.arange(int(24_000 * seconds)) / 10)
    picture = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (pixels, pixels, 3), np.uint8)).save(picture, "png")
    shown = {"image/png": base64.b64encode(picture.getvalue()).decode(), "text/latex": "x"}
    cell = nbformat.v4.new_code_cell("1", id="a", metadata={"execution": {"iopub.execute_input": "2026"}})
    cell.outputs = [
        nbformat.v4.new_output("display_data", {"text/html": Audio(wave, rate=24_000)._repr_html_()}),
        nbformat.v4.new_output("display_data", shown),
        nbformat.v4.new_output("stream", name="stderr", text="a warning"),
        nbformat.v4.new_output("stream", name="stdout", text=f"{ROOT}/runs {Path.home()}/x"),
    ]
    return nbformat.v4.new_notebook(cells=[cell])


def test_pictures_and_sounds_are_made_small():
    text = build.shrink(executed(3, 1000))
    assert len(text.encode()) < build.LIMIT < len(nbformat.writes(executed(3, 1000)))
    sound, picture, said = json.loads(text)["cells"][0]["outputs"]
    ogg = re.search(r'src="data:audio/ogg;base64,([^"]+)" type="audio/ogg"', "".join(sound["data"]["text/html"]))[1]
    wave, rate = soundfile.read(io.BytesIO(base64.b64decode(ogg)))
    assert len(wave) / rate == pytest.approx(3, abs=0.05) and np.abs(wave).max() > 0.5  # the player's wave is scaled
    assert Image.open(io.BytesIO(base64.b64decode(picture["data"]["image/png"]))).width < 1000
    assert "text/latex" not in picture["data"] and "".join(said["text"]) == "./runs ~/x"
    assert json.loads(text)["cells"][0]["metadata"] == {}


def test_of_a_progress_bar_its_end_is_kept():
    shown = io.StringIO()
    with Progress(console=Console(file=shown, force_terminal=True, width=60)) as progress:
        tasks = [progress.add_task(name, total=50) for name in ("one", "two")]
        for _ in range(50):
            [progress.advance(task) for task in tasks], progress.refresh()
        progress.console.print("[red]in between[/red]")
    lines = build.as_seen(f"before\r\n{shown.getvalue()}40 %\r100 %\nafter\n").split("\n")
    assert len(shown.getvalue()) > 5000 and [line.split(" ")[0] for line in lines] == [
        *("before", "in", "one", "two", "100", "after", ""),
    ]
    assert "100%" in lines[2] and "\x1b" not in "".join(lines)


def test_what_a_kernel_cuts_is_joined():
    done = executed(3, 1000)
    parts = ["a \x1b[", "1mbold\x1b[0m word\n", "and more"]
    done.cells[0].outputs += [nbformat.v4.new_output("stream", name="stdout", text=part) for part in parts]
    done.cells[0].outputs.insert(-1, nbformat.v4.new_output("stream", name="stderr", text="a warning"))
    assert "".join(json.loads(build.shrink(done))["cells"][0]["outputs"][-1]["text"]).endswith("a bold word\nand more")


def test_a_notebook_that_cannot_be_made_small_is_refused():
    with pytest.raises(ValueError, match="300,000 are allowed"):
        build.shrink(executed(300, 1000))


def test_results_are_kept_once(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.delenv("MOSSREPRO_SMOKE", raising=False)
    (tmp_path / "lessons").mkdir()
    lesson = tmp_path / "lessons" / "42_toy.py"
    lesson.write_text("# %% [markdown]\n# # Toy\n\n# %%\nprint(6 * 7)\n")
    runs = []

    def execute(lesson, folder):
        runs.append(lesson)
        done = build.notebook(lesson)
        done.cells[2].outputs = [nbformat.v4.new_output("stream", name="stdout", text="42")]
        return done

    monkeypatch.setattr(build, "execute", execute)
    assert build.main([]) == 0 and not build.has_outputs(lesson)
    assert build.main(["--outputs"]) == 0 and build.has_outputs(lesson) and "42" in build.target(lesson).read_text()
    assert "42" in (tmp_path / "runs" / "lessons" / "42_toy.ipynb").read_text()
    assert build.main(["--outputs"]) == 0 and len(runs) == 1
    lesson.write_text(lesson.read_text().replace("7", "8"))
    assert build.main(["--check"]) == 1 and build.main(["--outputs"]) == 0 and len(runs) == 2
    monkeypatch.setenv("MOSSREPRO_SMOKE", "1")
    assert build.main(["--outputs"]) == 2 and "unset it" in capsys.readouterr().err


def outputs(cells: list[dict]) -> list[dict]:
    return [output for cell in cells for output in cell.get("outputs", [])]


def printed(cells: list[dict]) -> str:
    return "".join(output.text for output in outputs(cells) if output.output_type == "stream")


def exercises(said: str) -> dict[int, str]:
    """Number of an exercise -> what its last line said."""
    return {int(number): state for number, state in re.findall(r"^exercise (\d+): (.*)$", said, re.M)}


def run_lesson(lesson, folder, monkeypatch, without):
    """Execute a lesson and its solutions, and look at what they show."""
    monkeypatch.setenv("MOSSREPRO_SMOKE", "1")
    monkeypatch.setenv("MOSSREPRO_THREADS", "1")
    monkeypatch.delenv("MPLBACKEND", raising=False)
    done = build.execute(lesson, folder, without, solved=True)
    own = len(build.notebook(lesson, without).cells)
    shown = [output.data for output in outputs(done.cells[:own]) if "data" in output]
    assert any("image/png" in data for data in shown)
    if not lesson.stem.startswith(("09", "10")):
        assert any("<audio" in data.get("text/html", "") for data in shown)
    said = printed(done.cells[:own])
    assert "no finished run" not in said
    open_still, solved = exercises(said), exercises(printed(done.cells[own:]))
    assert len(open_still) >= 5 and all(state.startswith("open") for state in open_still.values()), open_still
    assert solved.keys() == open_still.keys()
    assert all(state.startswith("right") for state in solved.values()), solved


@each_lesson
def test_lessons_run_and_their_solutions_are_right(lesson, untrained_run, monkeypatch):
    """Cells that start processes of their own run in lesson 03 alone: each takes as long as the rest of its lesson."""
    run_lesson(lesson, untrained_run, monkeypatch, None if lesson.stem.startswith("03") else PROCESSES)


@pytest.mark.slow
@pytest.mark.parametrize(
    "lesson", [lesson for lesson in LESSONS if PROCESSES in lesson.read_text()], ids=lambda p: p.stem
)
def test_lessons_run_with_their_processes(lesson, untrained_run, monkeypatch):
    run_lesson(lesson, untrained_run, monkeypatch, None)


def length(node: ast.AST) -> int:
    return node.end_lineno - node.lineno + 1


@each_lesson
def test_lessons_define_naive_versions_only(lesson):
    """Functions of 15 lines at most, one LightningModule of 25 where a lesson trains, and exercises to be filled in."""
    tree = ast.parse(lesson.read_text())
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    assert len(classes) <= 1
    for one in classes:
        assert one.name.startswith("Naive") and length(one) <= 25, one.name
        assert [ast.unparse(base) for base in one.bases] == ["LightningModule"]
    methods = {node for one in classes for node in ast.walk(one)}
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node not in methods]
    assert functions and any(isinstance(node, ast.Assert) for node in ast.walk(tree))
    for function in functions:
        unsolved = isinstance(function.body[-1], ast.Raise)
        assert function.name.startswith("my_" if unsolved else "naive_") and length(function) <= 15, function.name


@pytest.mark.parametrize("lesson", [x for x in LESSONS if x.stem.startswith(TRAINED)], ids=lambda path: path.stem)
def test_lessons_on_training_end_in_the_same_way(lesson):
    """A bare loop, a LightningModule, the package's fit, two processes, a plan."""
    text = lesson.read_text()
    ending = text[text.index("Train it, then scale it") :]
    for sign in ("optimiser.step()", "(LightningModule)", "Trainer(", "mossrepro fit -c", "--trainer.strategy ddp"):
        assert sign in ending, sign
    for sign in ("mossrepro plan", "not measured", "1e-6", f'tags=["{PROCESSES}"]'):
        assert sign in ending, sign


@each_lesson
def test_package_code_is_shown_not_pasted(lesson):
    def runs_of_four(text: str) -> set[tuple[str, ...]]:
        lines = [line.strip() for line in text.splitlines() if len(line.strip()) > 8 and not line.startswith("#")]
        lines = [line for line in lines if not line.startswith(("import ", "from "))]
        return set(zip(lines, lines[1:], lines[2:], lines[3:], strict=False))

    package = set().union(*(runs_of_four(path.read_text()) for path in (ROOT / "mossrepro").rglob("*.py")))
    assert not runs_of_four(lesson.read_text()) & package


@each_lesson
def test_lessons_state_their_cost_and_have_three_kinds_of_exercise(lesson):
    text = lesson.read_text()
    assert "**Reading**" in text and "**computing**" in text and "Exercises" in text
    for kind in ("compute", "predict", "implement"):
        assert re.search(rf"^ *{kind}\(", text, re.M), kind
    assert build.solution(lesson).is_file()


def test_no_solution_without_a_lesson():
    assert {path.name for path in (ROOT / "lessons" / "solutions").glob("*.py")} == {path.name for path in LESSONS}
