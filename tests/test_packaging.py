"""The packaging files agree with each other: one source of versions, hashes on everything locked."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import mossrepro

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def declared() -> list[Requirement]:
    """What `.[test]` installs, its extras included."""
    extras = PROJECT["optional-dependencies"]
    lines = [
        *PROJECT["dependencies"],
        *(line for name in ("data", "evaluation", "lessons", "test") for line in extras[name]),
    ]
    return [Requirement(line) for line in lines if not line.startswith("mossrepro[")]


def locked(name: str) -> dict[str, str]:
    """Names and versions of a requirements file, each of which must carry a SHA-256."""
    entries = re.sub(r"\s*\\\n\s*", " ", (ROOT / "requirements" / name).read_text()).splitlines()
    found = {}
    for entry in entries:
        if entry and not entry.startswith("#"):
            match = re.fullmatch(r"([\w.\-\[\]]+)==(\S+)((?: --hash=sha256:[0-9a-f]{64})+)", entry)
            assert match, f"{name}: {entry!r} is not NAME==VERSION --hash=sha256:..."
            found[canonicalize_name(match[1])] = match[2]
    return found


def test_conda_installs_exactly_what_pyproject_says():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["name"] == PROJECT["name"]
    python, pip, through_pip = environment["dependencies"]
    assert python == "python" + PROJECT["requires-python"] and pip == "pip"
    assert through_pip == {"pip": ["-e .[test]"]}


def test_the_lock_satisfies_every_declared_dependency():
    lock = locked("lock.txt")
    for requirement in declared():
        version = lock.get(canonicalize_name(requirement.name))
        assert version, f"{requirement.name} is not in requirements/lock.txt"
        assert requirement.specifier.contains(version), f"{requirement} but the lock has {version}"


def test_data_packages_are_locked_apart_and_are_no_dependency():
    assets, lock = locked("assets.txt"), locked("lock.txt")
    assert len(assets) == 12 and not set(assets) & set(lock)
    assert not set(assets) & {canonicalize_name(r.name) for r in declared()}


def test_the_malicious_lightning_releases_are_excluded():
    lightning = next(r for r in declared() if r.name == "lightning")
    assert not lightning.specifier.contains("2.6.2") and not lightning.specifier.contains("2.6.3")


@pytest.mark.parametrize("name", ["README.md", "LICENSE"])
def test_files_that_the_build_needs_are_there(name):
    assert (ROOT / name).stat().st_size > 1000


def test_licence_and_citation():
    assert PROJECT["license"] == "Apache-2.0" and "Apache License" in (ROOT / "LICENSE").read_text()
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["license"], citation["version"]) == ("Apache-2.0", mossrepro.__version__)


def test_make_targets_of_the_help_exist():
    text = (ROOT / "Makefile").read_text()
    for target in ("setup", "test", "reproduce", "controls", "lessons", "notebooks", "lint", "help"):
        assert re.search(rf"^{target}:.*## ", text, re.M), target


# Imported where it is at hand: data packages (requirements/assets.txt), and rivals in a bench.
OPTIONAL = {"hibari", "distillmos", "transformers", "pesq", "fcntl"}
NAMES = {"yaml": "pyyaml", "huggingface_hub": "huggingface-hub"}


def test_what_is_imported_is_declared():
    known = {canonicalize_name(requirement.name) for requirement in declared()}
    for path in (ROOT / "mossrepro").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            for name in (
                {name.split(".")[0] for name in names} - {"mossrepro"} - OPTIONAL - set(sys.stdlib_module_names)
            ):
                assert canonicalize_name(NAMES.get(name, name)) in known, f"{path}: {name} is not declared"


def test_answering_needs_little():
    """Loading a model and answering imports nothing of the extras and no trainer."""
    code = "import sys, mossrepro.pipeline; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    heavy = {
        "lightning",
        "torchmetrics",
        "matplotlib",
        "jiwer",
        "pystoi",
        "scipy",
        "pocketsphinx",
        "onnxruntime",
        "encodec",
    }
    assert not heavy & set(done.stdout.split())


def test_every_room_is_in_the_wheel():
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    rooms = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "mossrepro").rglob("*.py")}
    folders = {f"mossrepro.{'.'.join(p.parent.relative_to(ROOT).parts)}" for p in (ROOT / "configs").rglob("*.*")}
    assert set(packages) == rooms | folders


def test_a_wheel_runs_outside_the_checkout(tmp_path):
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    source = tmp_path / "source"  # a copy: a build leaves folders in its tree
    subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    for name in ("pyproject.toml", "README.md", "LICENSE", "mossrepro", "configs"):
        source.mkdir(exist_ok=True)
        subprocess.run(["cp", "-r", str(ROOT / name), str(source)], check=True)
    wheel = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(source)]
    subprocess.run(wheel, check=True, capture_output=True)
    (built,) = tmp_path.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(tmp_path / "site"), str(built)], check=True)
    outside = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "MOSSREPRO_THREADS": "1"}

    def run(*words: str) -> str:
        command = [sys.executable, "-c", "import sys; sys.path[:] = [p for p in sys.path if p]; "
                   "from mossrepro.__main__ import *", *words]  # fmt: skip
        done = subprocess.run(command, cwd=tmp_path, env=outside, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    where = "import mossrepro, mossrepro.training.config as c; print(mossrepro.__file__, *c.size_names())"
    told = subprocess.run(
        [sys.executable, "-c", where], cwd=tmp_path, env=outside, capture_output=True, text=True
    ).stdout
    assert str(tmp_path / "site") in told and {"small", "full", "smoke"} <= set(told.split())
    assert "0.2.0" in run("--version")
    assert "9,095,694,336" in run("plan", "-c", "configs/stage1.yaml", "-c", "configs/size/full.yaml")
