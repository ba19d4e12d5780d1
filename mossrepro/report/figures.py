"""The figures of a report."""

import base64
import io
import re

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mossrepro.report.run_data import Run
from mossrepro.training import sizes
from mossrepro.training.metrics import Metric
from mossrepro.utils.errors import visible

INK, MUTED, GRID, BLUE, GREEN, RED = "#1c2430", "#667085", "#e4e7ec", "#2563c9", "#157f3c", "#c22f2f"
SERIES = (BLUE, "#d97706", "#7c3aed")
LOSSES = re.compile(r"loss|ctc|flat|mel|spectral|pitch|flow|sketch|text|speech", re.I)
PAIRED = re.compile(r"val(id)?/[ST]2[ST]$")  # the validation of the language model, by pairing
ANSWERED = re.compile(r"val/[ST]2[ST]_answer$")  # the same of the words that answer alone
RATES = re.compile(r"(?<!ans)wer|cer|acc|correct", re.I)
GROWING = {"t2t_c": "T2T on C", "s2t_a": "S2T on A", "s2t_c": "S2T on C", "s2s_a": "S2S on A"}


def pairings(run: Run) -> Figure | None:
    """Correct answers in the four pairings on sets A and C, with intervals and chance level; None without any."""
    found = {row.claim.id: row.fact for row in run.rows if row.fact}
    ways = {"T2T": "text → text", "S2T": "speech → text", "T2S": "text → speech", "S2S": "speech → speech"}
    sets = {"a": "A, trained on", "c": "C, never trained on"}
    if not any(f"{way.lower()}_{name}" in found for way in ways for name in sets):
        return None
    figure = Figure(figsize=(7.4, 2.6), layout="constrained")
    axes = figure.subplots()
    for i, (name, label) in enumerate(sets.items()):
        for j, way in enumerate(ways):
            fact = found.get(f"{way.lower()}_{name}")
            if fact is None:
                continue
            at, known = j + 0.38 * (i - 0.5), axes.get_legend_handles_labels()[1]
            axes.bar(at, fact.value, 0.34, color=SERIES[i], label=None if label in known else label)
            if fact.low is not None and fact.high is not None:
                axes.plot([at, at], [fact.low, fact.high], color=INK, linewidth=1)
            axes.text(at, max(fact.value, fact.high or 0) + 1, f"{fact.value:.0f}", ha="center", fontsize=8, color=INK)
            if f"chance_{name}" in found:
                chance = found[f"chance_{name}"].value
                axes.plot([at - 0.17, at + 0.17], [chance, chance], color=RED, linewidth=1, linestyle=":")
    axes.set_xticks(range(len(ways)), ways.values(), fontsize=9)
    axes.set_ylim(0, 112)
    axes.set_ylabel("right answers, %\n(dotted: chance)", fontsize=8, color=MUTED)
    axes.legend(frameon=False, fontsize=8, loc="upper right", bbox_to_anchor=(1, 1.12), ncols=2)
    _clean(axes)
    return figure


def growth(run: Run) -> Figure | None:
    """Correct answers against the share of the run's steps, and of the facts spoken about, from `mossrepro ablate`.

    The ablations' baseline, trained for a share of the steps, is a point of both; the run itself is one of the first.
    None if neither a `length_N` nor a `facts_N` was measured.
    """
    found = {row.claim.id: row.fact for row in run.rows if row.fact}
    base = sizes.load_size(run.size).control.share * 100
    panels = {"length": ("steps, % of the run's", base), "facts": ("facts of A spoken about, %", 100.0)}
    points: dict[str, dict[float, str]] = {}
    for what, (_, at) in panels.items():
        numbers = {int(m[1]) for id in found if (m := re.fullmatch(rf"ablation_{what}_(\d+)_s2t_c", id))}
        if numbers:
            points[what] = {at: "ablation_baseline_"} | {float(n): f"ablation_{what}_{n}_" for n in numbers}
    if not points:
        return None
    if "length" in points:
        points["length"].setdefault(100.0, "")  # the run itself
    figure = Figure(figsize=(3.7 * len(points), 2.8), layout="constrained")
    for axes, (what, prefixes) in zip(figure.subplots(1, len(points), squeeze=False)[0], points.items(), strict=True):
        for (id, label), colour in zip(GROWING.items(), (*SERIES, GREEN), strict=True):
            some = sorted((x, found[prefix + id]) for x, prefix in prefixes.items() if prefix + id in found)
            _with_intervals(axes, [x for x, _ in some], [fact for _, fact in some], label, colour)
        axes.set_xlabel(panels[what][0], fontsize=8, color=MUTED)
        axes.set_ylim(0, 102)
        _clean(axes)
    figure.axes[0].set_ylabel("right answers, %", fontsize=8, color=MUTED)
    figure.axes[0].legend(frameon=False, fontsize=7)
    return figure


def _with_intervals(axes: Axes, xs: list[float], facts: list[Metric], label: str, colour: str) -> None:
    axes.plot(xs, [fact.value for fact in facts], marker="o", markersize=3, linewidth=1.2, color=colour, label=label)
    for x, fact in zip(xs, facts, strict=True):
        if fact.low is not None and fact.high is not None:
            axes.plot([x, x], [fact.low, fact.high], color=colour, linewidth=0.8, alpha=0.5)


def label(text: str) -> str:
    """A text of others as a figure shows it: `$` begins no formula, and a leading `_` hides nothing."""
    text = visible(text).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def _clean(axes: Axes) -> None:
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#c5cad3")
    axes.tick_params(colors=MUTED, labelsize=8)


def _spectrogram(axes: Axes, wave: np.ndarray, rate: int) -> None:
    """Log power up to 8 kHz, 25 ms windows, 70 dB of range."""
    size, hop = int(0.025 * rate), int(0.01 * rate)
    padded = np.pad(wave, (size // 2, size))
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop] * np.hanning(size)
    power = 20 * np.log10(np.abs(np.fft.rfft(frames, 512 if size <= 512 else 1024)) + 1e-6).T
    top = power.max()
    extent = (0, len(wave) / rate, 0, rate / 2000)
    axes.imshow(power, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=top - 70, vmax=top)
    axes.set_ylim(0, min(8, rate / 2000))
    axes.set_ylabel("kHz", fontsize=8, color=MUTED)
    _clean(axes)


def _panel(axes: Axes, stage: str, rows: list[dict[str, float]], keys: list[str]) -> None:
    for key, colour in zip(keys, SERIES, strict=False):
        points = [(row["step"], row[key]) for row in rows if key in row and np.isfinite(row[key])]
        if not points:
            continue
        step, value = np.array(points, dtype=float).T
        if len(step) > 30:  # the raw line behind its running mean
            axes.plot(step, value, color=colour, alpha=0.25, linewidth=0.8)
            width = max(3, len(step) // 20)
            sums = np.cumsum(np.insert(value, 0, 0.0))
            value = (sums[width:] - sums[:-width]) / width
            step = step[width // 2 :][: len(value)]
        axes.plot(step, value, color=colour, linewidth=1.8, label=label(key), marker="o" if len(step) < 4 else None)
    axes.set_title(label(stage), fontsize=10, color=INK, loc="left", fontweight="bold")
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(fontsize=7, frameon=False, labelcolor=MUTED)
    axes.set_xlabel("step", fontsize=8, color=MUTED)
    _clean(axes)
