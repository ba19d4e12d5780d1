"""The packaging files agree with each other: one source of versions, hashes on everything locked."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import mossrepro
from mossrepro.training import config
from mossrepro.utils import assets

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


LOCKS = [f"lock-{python}.txt" for python in ("3.11", "3.12", "3.13")]


def test_there_is_a_lock_for_every_python():
    assert {path.name for path in (ROOT / "requirements").glob("lock-*.txt")} == set(LOCKS)
    for name in LOCKS:
        python = name.removeprefix("lock-").removesuffix(".txt")
        assert SpecifierSet(PROJECT["requires-python"]).contains(python)
    assert not SpecifierSet(PROJECT["requires-python"]).contains("3.14")


@pytest.mark.parametrize("name", LOCKS)
def test_the_lock_satisfies_every_declared_dependency(name):
    lock = locked(name)
    for requirement in declared():
        version = lock.get(canonicalize_name(requirement.name))
        assert version, f"{requirement.name} is not in requirements/{name}"
        assert requirement.specifier.contains(version), f"{requirement} but the lock has {version}"


def test_data_packages_are_locked_apart_and_are_no_dependency():
    data = locked("assets.txt")
    for name in LOCKS:
        assert len(data) == 12 and not set(data) & set(locked(name))
    assert not set(data) & {canonicalize_name(r.name) for r in declared()}


def test_the_malicious_lightning_releases_are_excluded():
    lightning = next(r for r in declared() if r.name == "lightning")
    assert not lightning.specifier.contains("2.6.2") and not lightning.specifier.contains("2.6.3")


@pytest.mark.parametrize("name", ["README.md", "LICENSE", "NOTICE"])
def test_files_that_the_build_needs_are_there(name):
    assert (ROOT / name).stat().st_size > 1000


def test_licence_and_citation():
    assert PROJECT["license"] == "Apache-2.0" and "Apache License" in (ROOT / "LICENSE").read_text()
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["license"], citation["version"]) == ("Apache-2.0", mossrepro.__version__)


def test_notice_names_every_embedded_part():
    """Its maker, its source and its licence, as utils/assets.py has them; and the texts and packages behind them."""
    lines = (ROOT / "NOTICE").read_text().splitlines()
    for asset in assets.ASSETS.values():
        assert f"{asset.name}: {asset.source}; {asset.licence}" in lines
    for name in ("pocketsphinx", "asterisk-core-sounds-en-g722", "encodec"):
        assert any(line.startswith(f"{name}: ") for line in lines), name


def make(*words: str) -> str:
    """What a call of make would run."""
    outside = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    command = ["make", "--dry-run", "VENV=/nowhere/venv", *(part for word in words for part in word.split())]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=outside).stdout


def test_setup_is_locked_where_it_is_asked_for():
    free, bound = make("setup"), make("setup", "LOCKED=1")
    assert '-e ".[test]"' in free and "lock-" not in free
    assert "--require-hashes -r requirements/lock-" in bound and '".[test]"' not in bound
    for plan in (free, bound):
        assert "--no-deps --require-hashes -r requirements/assets.txt" in plan
    assert "--upgrade pip" not in bound  # nothing without a hash


def test_ci_uses_the_locks():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]
    steps = [step.get("run", "") for job in jobs.values() for step in job["steps"]]
    assert any("make setup" in step and "LOCKED=1" in step for step in steps)
    assert {f"lock-{python}.txt" for python in jobs["test"]["strategy"]["matrix"]["python"]} == set(LOCKS)


@pytest.mark.parametrize("version", ["3.11", "3.99"])
def test_the_ci_script_uses_the_lock_of_its_python_or_says_that_there_is_none(version, tmp_path):
    """With a stand-in for make that notes how it is called."""
    lock, log = f"requirements/lock-{version}.txt", tmp_path / "calls"
    for name in (".ci", "requirements", "bin"):
        (tmp_path / name).mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci")
    (tmp_path / "requirements" / "lock-3.11.txt").touch()
    (tmp_path / "bin" / "make").write_text(f'#!/bin/sh\necho "$*" >> {log}\n[ "$2" != lock-file ] || echo {lock}\n')
    (tmp_path / "bin" / "uname").write_text("#!/bin/sh\necho Linux x86_64\n")
    for path in (tmp_path / "bin").iterdir():
        path.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run([tmp_path / ".ci" / "run"], capture_output=True, text=True, env=environment, check=True)
    locked = ["setup LOCKED=1"] if version == "3.11" else []
    assert log.read_text().splitlines() == ["--silent lock-file", *locked, "test"]
    assert done.stderr.count("\n") == (not locked) and (locked or f"ci: no {lock}" in done.stderr)


def test_locked_is_a_flag_that_is_not_lost_on_an_environment_that_is_there(tmp_path):
    """Asked for after a plain `make setup`, exact versions are still installed, and tests take either."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    for name in ("ready", "locked"):
        (tmp_path / f".{name}").touch()
        plans = [make(word, f"VENV={tmp_path}") for word in ("setup", "test", "setup LOCKED=1")]
        assert ["pip install" in plan for plan in plans] == [False, False, name == "ready"]


def test_a_python_without_a_lock_is_one_line(tmp_path):
    """LOCKED=1 never installs what has no hash."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text("#!/bin/sh\necho 3.99\n")
    (tmp_path / "bin" / "python").chmod(0o755)
    command = ["make", "setup", "LOCKED=1", f"VENV={tmp_path}"]
    outside = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=outside)
    assert done.returncode == 2 and "there is no requirements/lock-3.99.txt" in done.stdout and "pip" not in done.stdout


def test_make_targets_of_the_help_exist():
    text = (ROOT / "Makefile").read_text()
    for target in (
        "setup",
        "test",
        "coverage",
        "reproduce",
        "controls",
        "lessons",
        "notebooks",
        "docs",
        "lint",
        "lock",
        "audit",
        "help",
    ):
        assert re.search(rf"^{target}:.*## ", text, re.M), target


# Imported where it is at hand: data packages (requirements/assets.txt), and what a bench compares with.
OPTIONAL = {"hibari", "distillmos", "transformers", "pesq", "av"}
NAMES = {"yaml": "pyyaml"}  # import name -> name of the package, where they differ
NEED_EXTRAS = {"bench", "evaluation", "experiments", "report"}  # folders that measure and draw


def third_party(nodes: Iterable[ast.AST]) -> set[str]:
    """The packages that these statements import, without the standard library, our own and optional ones."""
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    names = {name.split(".")[0] for name in names} - {"mossrepro"} - OPTIONAL - set(sys.stdlib_module_names)
    return {canonicalize_name(NAMES.get(name, name)) for name in names}


def test_what_is_imported_is_declared():
    extras = PROJECT["optional-dependencies"]
    default = {canonicalize_name(Requirement(line).name) for line in PROJECT["dependencies"]}
    known = default | {canonicalize_name(Requirement(line).name) for line in extras["data"] + extras["evaluation"]}
    for path in (ROOT / "mossrepro").rglob("*.py"):
        tree, name = ast.parse(path.read_text()), path.relative_to(ROOT / "mossrepro")
        assert third_party(list(ast.walk(tree))) <= known, name
        if name.parts[0] not in NEED_EXTRAS:  # all others can be imported after a plain `pip install`
            allowed = {"jiwer"} if name.name == "recogniser_task.py" else set()
            assert third_party(tree.body) - default <= allowed, name


def test_answering_needs_little():
    """Importing the pipeline imports nothing of the extras and no trainer."""
    code = "import sys, mossrepro.pipeline; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    heavy = (
        "lightning torchmetrics matplotlib jiwer pystoi rapidfuzz jupytext scipy gguf pocketsphinx onnxruntime encodec"
    )
    assert not set(heavy.split()) & set(done.stdout.split())


def test_every_folder_is_in_the_wheel():
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    rooms = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "mossrepro").rglob("*.py")}
    folders = {f"mossrepro.{'.'.join(p.parent.relative_to(ROOT).parts)}" for p in (ROOT / "configs").rglob("*.*")}
    assert set(packages) == rooms | folders


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """Runs Python in a folder outside the checkout, with only an installed wheel on its path; returns the output."""
    folder = tmp_path_factory.mktemp("wheel")
    source, site = folder / "source", folder / "site"  # a copy, because a build leaves files in its source folder
    for name in ("mossrepro", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    wheel = [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source)]
    subprocess.run(wheel, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(built)], check=True)
    (folder / "empty").mkdir()

    def run(*words: str) -> str:
        environment = {**os.environ, "PYTHONPATH": str(site)}
        command = [sys.executable, *words]
        done = subprocess.run(command, cwd=folder / "empty", env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run.site = site
    return run


def test_an_installed_wheel_has_its_own_configurations(outside):
    code = "from mossrepro.training import config; print(config.configs_folder(), *config.size_names())"
    folder, *sizes = outside("-c", code).split()
    assert Path(folder) == outside.site / "mossrepro" / "configs"
    assert tuple(sizes) == config.size_names()
    files = {path.relative_to(ROOT / "configs") for path in (ROOT / "configs").rglob("*.*")}
    assert {path.relative_to(folder) for path in Path(folder).rglob("*.*")} == files


def test_an_installed_wheel_runs(outside):
    assert "reproduce" in outside("-m", "mossrepro", "--help")
    assert mossrepro.__version__ in outside("-m", "mossrepro", "--version")
    plan = outside("-m", "mossrepro", "plan", "-c", "configs/stage1.yaml", "-c", "configs/size/full.yaml")
    assert "9,095,694,336" in plan
