"""The claims of `configs/claims.yaml`: which range a measured number is expected in."""

from dataclasses import dataclass, field
from pathlib import Path

from mossrepro.training.config import configs_folder, load_yaml
from mossrepro.training.metrics import Metric
from mossrepro.utils.errors import ConfigError, DataError
from mossrepro.utils.records import build

CLAIMS = configs_folder() / "claims.yaml"
PASSED, FAILED, MISSING, SHOWN = "passed", "failed", "not measured", ""
MARK = {PASSED: "✓", FAILED: "✗", MISSING: "–", SHOWN: " "}
COLOUR = {PASSED: "green", FAILED: "bold red", MISSING: "dim", SHOWN: ""}


@dataclass
class Claim:
    """One row of `configs/claims.yaml`: a fact's id and the range it is expected in.

    above: what the whole interval is expected to lie above; a fact without an interval fails.
    """

    id: str
    name: str
    unit: str = ""
    low: float | None = None
    high: float | None = None
    above: float | None = None
    paper: float | str | None = None
    minutes: float = 0.0
    sizes: list[str] = field(default_factory=list)
    controls: bool = False

    def judge(self, fact: Metric | None, size: str) -> str:
        """PASSED, FAILED, MISSING, or SHOWN where nothing is expected (another size, or no range)."""
        expected = bool(self.expectation(size))
        if fact is None:
            return FAILED if expected and not self.controls else MISSING
        if not expected:
            return SHOWN
        inside = (self.low is None or fact.value >= self.low) and (self.high is None or fact.value <= self.high)
        certain = self.above is None or (fact.low is not None and fact.low > self.above)
        return PASSED if inside and certain else FAILED  # a NaN compares false and fails

    def expectation(self, size: str) -> str:
        """The range in words, empty where nothing is expected of this size."""
        if self.sizes and size not in self.sizes:
            return ""
        if self.low is not None and self.high is not None:
            ends = [f"= {self.low:g}" if self.low == self.high else f"{self.low:g} to {self.high:g}"]
        else:
            ends = [f"{sign} {end:g}" for sign, end in (("≥", self.low), ("≤", self.high)) if end is not None]
        return ", ".join(ends + ([f"interval above {self.above:g}"] if self.above is not None else []))


def read_claims(path: Path = CLAIMS) -> list[Claim]:
    """The claims of a YAML file.

    Raises:
        ConfigError: the file is missing, a row has an unknown or missing key, or two rows share an id.
    """
    try:
        rows = load_yaml(path)
        if not isinstance(rows, list):
            raise DataError(f"{path}: not a list of claims")
        claims = [build(Claim, row, f"{path}: claim {number}") for number, row in enumerate(rows, 1)]
    except DataError as error:
        raise ConfigError(str(error)) from error
    ids = [claim.id for claim in claims]
    double = {i for i in ids if ids.count(i) > 1}
    if double:
        raise ConfigError(f"{path}: id {', '.join(sorted(double))} is used twice")
    return claims
