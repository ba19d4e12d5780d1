"""Look for known vulnerabilities of the locked packages: `make audit` (needs pip-audit and a network).

    python requirements/audit.py [FILE ...]        (without files: every lock beside this one)

pip-audit ends well when its service could tell it nothing of any package: behind an index that has files and no
reports, for one. So a release whose faults are known is looked up first, and a package that could not be looked up
counts as a failure.

Exit codes: 0: every package was looked up and none has a known vulnerability; 1: some have; 2: not all were looked up.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
SERVICES = ("pypi", "osv")  # of pip-audit; the second is asked where the first one tells nothing
KNOWN = "urllib3==1.24.1"  # CVE-2019-11324 and others: who does not tell them tells nothing


def look_up(service: str, file: Path, *flags: str) -> tuple[list[dict], str]:
    """pip-audit's answer for every package of a file; what it said instead, in a line, where it gave none."""
    words = [sys.executable, "-m", "pip_audit", "--disable-pip", "--format", "json", "--progress-spinner", "off"]
    words += ["--vulnerability-service", service, "--requirement", str(file), *flags]
    done = subprocess.run(words, capture_output=True, text=True)
    try:
        return json.loads(done.stdout)["dependencies"], ""
    except (ValueError, KeyError, TypeError):
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode} and no answer"]
        return [], said[-1]


def working_service() -> tuple[str, str]:
    """The first service that knows what is wrong with KNOWN; "" and why, where none does."""
    reasons = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "known.txt"
        file.write_text(KNOWN + "\n")
        for service in SERVICES:
            answers, said = look_up(service, file, "--no-deps")
            if any(answer.get("vulns") for answer in answers):
                return service, ""
            said = said or next((answer["skip_reason"] for answer in answers if "skip_reason" in answer), "no fault")
            reasons.append(f"{service}: {said[:200]}")
    return "", "; ".join(reasons)


def audit(file: Path, service: str) -> tuple[int, int]:
    """Print what is known of the packages of a file: numbers of faults and of packages that were not looked up."""
    answers, said = look_up(service, file, "--require-hashes")
    faults = [(answer, fault) for answer in answers for fault in answer.get("vulns", ())]
    for answer, fault in faults:
        mended = ", ".join(fault["fix_versions"]) or "no version"
        print(f"{file.name}: {answer['name']} {answer['version']}: {fault['id']}, mended in {mended}")
    missed = [answer["name"] for answer in answers if "vulns" not in answer]
    if missed or not answers:
        print(f"audit: {file.name}: not looked up at {service}: {', '.join(missed) or said}", file=sys.stderr)
    print(f"audit: {file.name}: {len(answers) - len(missed)} of {len(answers)} packages were looked up at {service}")
    return len(faults), len(missed) if answers else 1


def main(files: list[Path]) -> int:
    service, why = working_service()
    if not service:
        print(f"audit: nothing was audited: no service tells the known faults of {KNOWN} ({why})", file=sys.stderr)
        return 2
    counts = [audit(file, service) for file in files]
    return 1 if any(faults for faults, _ in counts) else 2 if any(missed for _, missed in counts) else 0


if __name__ == "__main__":
    raise SystemExit(main([Path(word) for word in sys.argv[1:]] or sorted(HERE.glob("*.txt"))))
