"""Lessons: the notebooks are what the lessons say, every lesson runs, and none re-implements the package."""

import ast
import importlib.util
import json
from pathlib import Path

import pytest
from toy_run import write_toy_run

from mossrepro.utils.cache import digest

ROOT = Path(__file__).parents[1]
_spec = importlib.util.spec_from_file_location("lessons_build", ROOT / "lessons" / "build.py")
build = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(build)
LESSONS = build.lessons()
ANSWERS = {
    "00_map_and_sound": [10 * 12.5, 50, 25 * 1_920, 15_488_064, round(256_000 / 175)],
    "01_sound_becomes_symbols": [75 * 2 * 10, 60 * 37.5, 1_500 * 1_024 * 64, 512, 349],
    "02_one_sequence_two_channels": [40 + 2, 30 + 2, 14_336 / 12.5 / 60, 16_384, 12.5 / 2.5],
    "03_the_split": [4 * 3_540_096, 32 + 4 + 4, 22 + 8 + 8, 16 * 8_188_638_208, 1 - 1e-4],
    "04_stage_1_to_sft": [1.75, 190 * 8 * 150, 0.1, 5, 1_000_000 / 12.5 / 3600],
    "07_talking": [40 + 2, sum(range(100, 150)), 1024 // 32, 10_000 * 160 / 1024, 8 * 80],
}
each_lesson = pytest.mark.parametrize("lesson", LESSONS, ids=lambda path: path.stem)


@pytest.fixture
def untrained_run(tmp_path):
    """A finished run of random small networks; what it says is noise. Returns a folder beside `runs`."""
    write_toy_run(tmp_path / "runs" / "toy", tmp_path)
    (tmp_path / "notebooks").mkdir()
    return tmp_path / "notebooks"


@each_lesson
def test_notebooks_are_made_from_the_lessons(lesson):
    assert build.target(lesson).read_bytes() == build.render(lesson).encode(), "run make notebooks"
    cells = json.loads(build.render(lesson))["cells"]
    assert len({cell["id"] for cell in cells}) == len(cells)
    assert not any(cell.get("outputs") for cell in cells)


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
    assert build.main(["--check", "07"]) == 2


@each_lesson
def test_lessons_run_and_show_something(lesson, untrained_run, monkeypatch):
    monkeypatch.setenv("MOSSREPRO_SMOKE", "1")
    monkeypatch.delenv("MPLBACKEND", raising=False)
    done = build.execute(lesson, untrained_run)
    outputs = [output for cell in done.cells for output in cell.get("outputs", [])]
    printed = "".join(output.text for output in outputs if output.output_type == "stream")
    shown = [output.data for output in outputs if "data" in output]
    assert any("image/png" in data for data in shown)
    assert any("<audio" in data.get("text/html", "") for data in shown)
    assert "no finished run" not in printed


@each_lesson
def test_lessons_define_naive_versions_only(lesson):
    tree = ast.parse(lesson.read_text())
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert functions and any(isinstance(node, ast.Assert) for node in ast.walk(tree))
    for function in functions:
        assert function.name.startswith("naive_") and function.end_lineno - function.lineno < 15, function.name


@each_lesson
def test_package_code_is_shown_not_pasted(lesson):
    def runs_of_four(text: str) -> set[tuple[str, ...]]:
        lines = [line.strip() for line in text.splitlines() if len(line.strip()) > 8 and not line.startswith("#")]
        lines = [line for line in lines if not line.startswith(("import ", "from "))]
        return set(zip(lines, lines[1:], lines[2:], lines[3:], strict=False))

    package = set().union(*(runs_of_four(path.read_text()) for path in (ROOT / "mossrepro").rglob("*.py")))
    assert not runs_of_four(lesson.read_text()) & package


@each_lesson
def test_lessons_state_their_cost_and_the_exercises_can_be_solved(lesson):
    text = lesson.read_text()
    assert "**Reading**" in text and "**computing**" in text and "Exercises" in text
    for answer in ANSWERS[lesson.stem]:
        assert digest(float(answer)) in text, answer
    assert text.count(": None") == len(ANSWERS[lesson.stem])
