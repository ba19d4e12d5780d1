"""The packaging files agree with each other: one source of versions, hashes on everything locked."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def declared() -> list[Requirement]:
    return [Requirement(line) for line in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["test"]]


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
    assert (citation["license"], citation["version"]) == ("Apache-2.0", PROJECT["version"])


def test_make_targets_of_the_help_exist():
    text = (ROOT / "Makefile").read_text()
    for target in ("setup", "test", "reproduce", "controls", "lessons", "notebooks", "lint", "help"):
        assert re.search(rf"^{target}:.*## ", text, re.M), target
