"""docs/promises.md: every promise has a test that exists, and no file of the hostile tests is left out."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "promises.md").read_text()
NAMED = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`( \(\*(?:slow|gpu)\*\))?", TEXT)


def rows() -> list[tuple[str, str]]:
    """Promise and tests of every row of every table."""
    lines = [line for line in TEXT.splitlines() if line.startswith("| ") and line != "| promise | tests |"]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]


def functions(path: str) -> dict[str, ast.FunctionDef]:
    """The test functions of a file, by name."""
    found = [node for node in ast.parse((ROOT / path).read_text()).body if isinstance(node, ast.FunctionDef)]
    return {node.name: node for node in found if node.name.startswith("test_")}


def test_every_promise_names_tests_that_exist():
    assert len(rows()) > 30 and all(len(row) == 2 for row in rows())
    for promise, cell in rows():
        rest = re.sub(r"`(tests/[\w/]+\.py)(::\w+)?`( \(\*(slow|gpu)\*\))?(, )?", "", cell)
        assert promise and cell and not rest, promise
    for path, name, mark in NAMED:
        assert (ROOT / path).is_file(), path
        found = functions(path)
        assert name in found or not name and found, f"{path}::{name}"
        whole = name and any(ast.unparse(mark).startswith("pytest.mark.slow") for mark in found[name].decorator_list)
        assert bool(whole) == ("slow" in mark), f"{path}::{name} is marked slow in one place only"


def test_no_file_of_these_tests_is_left_out():
    rooms = [ROOT / "tests" / name for name in ("hostile", "machines")]
    there = {path.relative_to(ROOT).as_posix() for room in rooms for path in room.glob("test_*.py")}
    assert there <= {path for path, _, _ in NAMED}


@pytest.mark.slow
def test_every_named_test_collects():
    ids = sorted({f"{path}::{name}" if name else path for path, name, _ in NAMED})
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "-m", "", *ids]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2_000:]
    for id in ids:
        assert id in done.stdout, id
