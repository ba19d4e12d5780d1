"""Write requirements/lock-3.X.txt for the Python that runs this: what pip finds for `.[test]` today, with hashes.

    python3.12 requirements/lock.py        (or: make lock PYTHON=python3.12)

The hashes are those of the files that this machine would install: Linux x86-64. Nothing is installed.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
HEAD = """\
# Exact versions for Python {version} on Linux x86-64, by requirements/lock.py; `make setup LOCKED=1` installs them:
#   pip install --require-hashes -r requirements/lock-{version}.txt
#   pip install --no-deps --require-hashes -r requirements/assets.txt && pip install --no-deps -e .
# Other platforms resolve from pyproject.toml.
"""


def lines(report: dict) -> list[str]:
    """pip's report of an installation -> a line for each package but our own, by name."""
    found = []
    for item in report["install"]:
        name, version = item["metadata"]["name"], item["metadata"]["version"]
        if "dir_info" not in item["download_info"]:
            digest = item["download_info"]["archive_info"]["hashes"]["sha256"]
            found.append(f"{name}=={version} \\\n    --hash=sha256:{digest}\n")
    return sorted(found, key=str.lower)


def main() -> None:
    version = ".".join(map(str, sys.version_info[:2]))
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        pip = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed"]
        subprocess.run([*pip, "--report", str(report), f"{HERE.parent}[test]"], check=True)
        text = HEAD.format(version=version) + "".join(lines(json.loads(report.read_text())))
    (HERE / f"lock-{version}.txt").write_text(text)


if __name__ == "__main__":
    main()
