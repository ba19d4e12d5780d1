"""Every measured number is a fact: one small JSON file with what made it, which the report renders.

Facts live in `runs/NAME/facts/ID.json`; those behind the README are copied to `docs/facts/`.
"""

import json
import math
import os
import platform
import shlex
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from mossrepro.utils.errors import DataError
from mossrepro.utils.io import write_text
from mossrepro.utils.records import build, check_inside, is_file_name, read_json, short


@dataclass
class Metric:
    """One measured number.

    `low` and `high` bound the number with the method named in `interval` (for instance "Wilson 95 %"); `n` is how many
    answers, files or seconds stand behind it; `paper` is the paper's own value where it has one; `seconds` is what the
    measurement took. `command`, `commit` and `hardware` are filled in when the fact is recorded.
    """

    id: str
    name: str
    value: float
    unit: str = ""
    low: float | None = None
    high: float | None = None
    interval: str = ""
    n: int | None = None
    paper: float | str | None = None
    command: str = ""
    commit: str = ""
    seed: int | None = None
    hardware: str = ""
    seconds: float | None = None


def wilson(k: float, n: float, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval for k successes in n trials, as fractions; z = 1.96 gives 95 %. n = 0 gives (0, 1).

    n may be an effective number of trials.
    """
    if n == 0:
        return 0.0, 1.0
    share = k / n
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale)


def difference(one: Metric, other: Metric) -> tuple[float, float]:
    """95 % bounds of one.value - other.value, two shares from different replies, from the bounds of each.

    "Square and add" (R. G. Newcombe, Statistics in Medicine 17, 1998): each side takes the distances to the bounds that
    point that way.
    """
    gap = one.value - other.value
    down = math.hypot(one.value - one.low, other.high - other.value)
    return gap - down, gap + math.hypot(one.high - one.value, other.value - other.low)


def command() -> str:
    """The verb of this process with its flags, as a user would type it; empty where there is none."""
    verbs = sys.argv[1:]
    return shlex.join(["mossrepro", *verbs]) if Path(sys.argv[0]).name in ("mossrepro", "__main__.py") else ""


def commit() -> str:
    """The short commit of the source tree, with "+" when it has local changes; empty outside a git checkout."""
    try:
        options = {"cwd": Path(__file__).parent, "capture_output": True, "text": True, "check": True, "timeout": 10}
        head = subprocess.run(["git", "rev-parse", "--short=10", "HEAD"], **options).stdout.strip()
        changed = subprocess.run(["git", "status", "--porcelain", "-uno"], **options).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
    return head + ("+" if changed else "")


def hardware() -> str:
    """The GPU if torch is loaded and sees one, else the processor, with the number of cores this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    torch = sys.modules.get("torch")
    gpu = f"{torch.cuda.get_device_name(0)}, " if torch and torch.cuda.is_available() else ""
    return f"{gpu}{cores} cores, {_processor()}"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def record(run_dir: str | Path, fact: Metric) -> Path:
    """Writes the fact to `run_dir/facts/ID.json` (replacing an older one at once, never half) and returns the path.

    DataError if facts is a link that leads out of the run.
    """
    plain = asdict(fact)
    plain["command"] = fact.command or command()
    plain["commit"] = fact.commit or commit()
    plain["hardware"] = fact.hardware or hardware()
    path = check_inside(Path(run_dir) / "facts", run_dir) / f"{fact.id}.json"
    write_text(path, json.dumps(plain, indent=2, ensure_ascii=False) + "\n")
    return path


def read_metrics(run_dir: str | Path) -> dict[str, Metric]:
    """All facts of a run by id, in the order of their ids.

    Raises:
        DataError: a file is no fact, or has an id that could not be the name of its file.
    """
    facts = {}
    for path in sorted((Path(run_dir) / "facts").glob("*.json")):
        fact = build(Metric, read_json(check_inside(path, run_dir)), path, finite=False)
        if not is_file_name(fact.id):
            raise DataError(f"{path}: id {short(fact.id)} is no name for a file")
        facts[fact.id] = fact
    return facts
