"""A package that is not installed is named in one line, with how to get it."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from mossrepro.utils.errors import EXTRAS, missing_package

ROOT = Path(__file__).parents[2]
BLOCK = (
    "import sys; sys.modules.update(dict.fromkeys({names!r})); from mossrepro.cli import main; sys.exit(main({argv!r}))"
)


def run_without(names: list[str], argv: list[str], tmp_path: Path) -> subprocess.CompletedProcess:
    """The command line in a process where these packages cannot be imported."""
    code = BLOCK.format(names=names, argv=argv)
    return subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)


@pytest.mark.parametrize(
    "name, argv, extra",
    [
        ("jiwer", ["fit", "-c", str(ROOT / "configs/recogniser.yaml"), "--size=smoke", "--output=out"], "evaluation"),
        ("pystoi", ["eval", "codec", "--size", "smoke"], "evaluation"),
        ("rapidfuzz", ["reproduce", "--size", "smoke"], "evaluation"),
        ("matplotlib", ["report", "--run", "run"], "evaluation"),
        ("onnxruntime", ["talk", "--say", "hello", "--voice", "kokoro-alpha", "--run", "run"], "data"),
    ],
)
def test_one_line(tmp_path, name, argv, extra):
    (tmp_path / "run").mkdir()
    done = run_without([name], argv, tmp_path)
    assert done.returncode == 2, done.stderr
    assert f"pip install 'mossrepro[{extra}]'" in done.stderr and "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_another_import_error_is_a_fault_of_ours():
    assert missing_package(ModuleNotFoundError("no", name="mossrepro.nothing")) == ""
    assert missing_package(ValueError("no")) == "" and missing_package(None) == ""


def test_every_optional_package_is_known():
    """EXTRAS names for each package an extra of pyproject.toml that has it."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    listed = {
        (package, name) for name in ("data", "evaluation", "lessons", "pesq") for package in map(bare, extras[name])
    }
    assert {package for package, _ in listed} | {"transformers"} == set(EXTRAS)
    for package, extra in EXTRAS.items():
        assert extra == "transformers" or (package, extra.removeprefix("mossrepro[").rstrip("]")) in listed


def bare(requirement: str) -> str:
    return requirement.split(">")[0]
