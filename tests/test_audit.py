"""`make audit` ends well only when every locked package was really looked up."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "requirements").glob("*.txt"))

# A stand-in for pip-audit with its options and its kinds of answers.
STUB = """
import json, os, re, sys
service, path = (sys.argv[sys.argv.index(word) + 1] for word in ("--vulnerability-service", "--requirement"))
kind = os.environ["KIND"] if service == "pypi" else os.environ.get("SECOND", "unreachable")
if kind == "unreachable":
    sys.exit("Traceback ...\\nConnectionError: no such host")
fault = {"id": "CVE-1", "fix_versions": ["2.0"]}
out = []
for name, version in re.findall(r"^([\\w.-]+)==(\\S+)", open(path).read(), re.M):
    bad = (name == "urllib3" and version == "1.24.1" and kind != "empty") or (kind == "faulty" and name == "torch")
    if kind == "skips" or kind == "skips one" and name == "torch":
        out.append({"name": name, "skip_reason": "not found on PyPI"})
    else:
        out.append({"name": name, "version": version, "vulns": [fault] * bad})
print(json.dumps({"dependencies": out, "fixes": []}))
sys.exit(any(row.get("vulns") for row in out))
"""


@pytest.fixture
def audit(tmp_path):
    """Runs the audit with a stand-in that answers in some way: exit code, standard output, standard error."""
    (tmp_path / "pip_audit.py").write_text(STUB)

    def run(kind, **more):
        environment = {**os.environ, "PYTHONPATH": str(tmp_path), "KIND": kind, **more}
        command = [sys.executable, str(ROOT / "requirements" / "audit.py")]
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.mark.parametrize("kind", ["unreachable", "skips", "empty"])
def test_nothing_that_was_audited_is_a_failure(kind, audit):
    """A service that is away, that knows no package, or that knows all and tells no fault of any."""
    code, out, err = audit(kind)
    assert code == 2 and out == "" and err.count("\n") == 1, err
    assert err.startswith("audit: nothing was audited") and "urllib3==1.24.1" in err and "osv: ConnectionError" in err


def test_every_lock_is_looked_up_and_the_second_service_is_asked(audit):
    for kind, more, service in (("fine", {}, "pypi"), ("unreachable", {"SECOND": "fine"}, "osv")):
        code, out, err = audit(kind, **more)
        assert code == 0 and err == "" and out.count("\n") == len(FILES) == 4, err
        for file in FILES:
            count = file.read_text().count("==")
            assert f"audit: {file.name}: {count} of {count} packages were looked up at {service}\n" in out


def test_a_package_that_was_not_looked_up_or_is_vulnerable_is_named(audit):
    code, out, err = audit("skips one")
    assert code == 2 and "audit: lock-3.11.txt: not looked up at pypi: torch\n" in err, err
    code, out, err = audit("faulty")
    assert code == 1 and "lock-3.12.txt: torch " in out and "CVE-1, mended in 2.0" in out, out


def test_make_runs_it():
    text = (ROOT / "Makefile").read_text()
    assert "requirements/audit.py" in text.split("\naudit:")[1].split("\n\n")[0]
