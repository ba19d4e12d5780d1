"""Times of two functions, measured in turns in one process, and their table."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from mossrepro.training import metrics
from mossrepro.utils.devices import best_device, synchronise


def race(runners: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every runner in every round. A round runs each once, so that a slow moment meets all.

    The clock stops when `best_device`, on which they run, has done its work.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runners}
    device = best_device()
    for run in runners.values():  # first calls allocate and compile
        run()
    synchronise(device)
    for _ in range(rounds):
        for name, run in runners.items():
            started = time.perf_counter()
            run()
            synchronise(device)
            seconds[name].append(time.perf_counter() - started)
    return seconds


@dataclass
class SpeedReport:
    """Collects comparisons: a fact in the folder `out` and a table row for each."""

    out: Path
    table: Table
    unit: str

    def note(self, id: str, title: str, times: dict[str, list[float]], count: float) -> None:
        """`times`: seconds for `count` units of "mine" and of "theirs", by rounds."""
        ratios = sorted(b / a for a, b in zip(times["mine"], times["theirs"], strict=True))
        speeds = {who: count / statistics.median(values) for who, values in times.items()}
        middle, low, high, n = statistics.median(ratios), ratios[0], ratios[-1], len(ratios)
        metrics.record(self.out, metrics.Metric(id, f"speed, {title}", middle, "x", low, high, "all rounds", n))
        for who, speed in speeds.items():
            metrics.record(self.out, metrics.Metric(f"{id}_{who}", f"{title}: {who}", speed, self.unit, n=n))
        numbers = (f"{speed:.1f}" for speed in speeds.values())
        self.table.add_row(title, *numbers, f"{middle:.2f} ({low:.2f}-{high:.2f})")
