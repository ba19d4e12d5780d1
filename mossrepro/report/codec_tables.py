"""Tables and the picture of `mossrepro eval codec`."""

import re

import numpy as np
from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from mossrepro.data.degrade import CONDITIONS
from mossrepro.speech.roster import HELD_OUT
from mossrepro.training.metrics import Metric

BACK = {"back_wer": "WER", "similarity": "voice", "stoi": "STOI", "pesq": "PESQ", "mos": "MOS"}
TABLES: dict[str, dict[str, str]] = {  # title: {fact: heading}
    "words, by a recogniser on the codes": {
        "bits": "bit/s", "wer_strangers": "WER", "wer_assistant": "WER asst.", "per_strangers": "PER", "used": "used",
        "perplexity": "perplex.", "streams": "streams", "speed": "speed", "minutes": "minutes",
    },
    "what codes tell": {
        "pnmi": "PNMI", "purity": "purity", "spread": "spread", "pitch": "pitch", "melody": "melody",
        "energy": "loudness",
    },
    "what comes back: held-out voices, then the assistant": {
        f"{what}_{who}": heading for who in ("strangers", "assistant") for what, heading in BACK.items()
    },
}  # fmt: skip
ORDER = ("ours", "finite", "distilled", "reconstruction", "kmeans", "acoustic", "acoustic_stack", "encodec", "original")
LEGEND = (
    "WER, PER, used, PNMI, purity, prosody in per cent. WER: of words that are one in 5,000; asst.: the assistant. "
    "speed: times real time. PNMI: share of the phones' entropy that a code tells; spread: edit distance of a text in "
    "two voices; pitch, melody (pitch around the speaker's mean), loudness: variance that a linear probe reads off the "
    "codes. Of several codebooks, used, perplexity, PNMI, purity and spread are the first's. Our decoder has one "
    "voice, the assistant's."
)


def tables(found: dict[str, Metric]) -> list[Table]:
    """One row for each tokenizer; a dash where something cannot be measured."""
    views = []
    for title, columns in TABLES.items():
        view = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        view.add_column("", no_wrap=True)
        for heading in columns.values():
            view.add_column(heading, justify="right", no_wrap=True)
        for name in ORDER:
            cells = [found.get(f"rival_{name}_{column}") for column in columns]
            if any(cells):
                view.add_row(name, *(f"{cell.value:.3g}" if cell else "–" for cell in cells))
        views.append(view)
    return views


GROUPS = ("assistant", *HELD_OUT)


def word_errors(found: dict[str, Metric], kind: str = "wer") -> dict[tuple[str, str], Metric]:
    """(condition, group of voices) -> our word error rate; kind "whisper_wer": Whisper's on the same clips."""
    rates = {}
    for condition in ("clean", *CONDITIONS):
        for group in GROUPS:
            parts = ([group] if group != "strangers" else []) + ([condition] if condition != "clean" else [])
            id = re.sub(r"\W+", "_", f"rival_ours_{kind}_{' '.join(parts) or 'strangers'}").strip("_")
            if id in found:
                rates[condition, group] = found[id]
    if f"rival_ours_{kind}_recorded_speech" in found:
        rates["recorded speech", "strangers"] = found[f"rival_ours_{kind}_recorded_speech"]
    return rates


def robustness_table(found: dict[str, Metric]) -> Table:
    """Our word error rate by condition and group of voices, beside Whisper base's on the same clips."""
    ours, whisper = word_errors(found), word_errors(found, "whisper_wer")
    groups = [group for group in GROUPS if ("clean", group) in ours]
    title = "our codec: word error rate in per cent (Whisper base on the same clips)"
    view = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for heading in ("", *groups):
        view.add_column(heading, justify="right" if heading else "left", no_wrap=True)
    for condition in dict.fromkeys(condition for condition, _ in ours):
        cells = []
        for group in groups:
            one, other = ours.get((condition, group)), whisper.get((condition, group))
            cells.append("–" if one is None else f"{one.value:.1f}" + (f" ({other.value:.0f})" if other else ""))
        view.add_row(condition, *cells)
    return view


def draw_robustness(found: dict[str, Metric]) -> Figure:
    """Word error rates as a map, groups of voices by conditions."""
    ours = word_errors(found)
    conditions = list(dict.fromkeys(condition for condition, _ in ours))
    groups = [group for group in GROUPS if ("clean", group) in ours]
    values = np.full((len(groups), len(conditions)), np.nan)
    for (condition, group), metric in ours.items():
        values[groups.index(group), conditions.index(condition)] = metric.value
    figure = Figure(figsize=(1.1 * len(conditions) + 1.5, 0.7 * len(groups) + 1.6), layout="constrained")
    axes = figure.subplots()
    axes.imshow(values, cmap="RdYlGn_r", vmin=0, vmax=100, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            axes.text(column, row, f"{value:.0f}", ha="center", va="center")
    axes.set_xticks(range(len(conditions)), conditions, rotation=30, ha="right")
    axes.set_yticks(range(len(groups)), groups)
    axes.set_title("words of the codes that are wrong, per cent")
    return figure
