"""Table of `mossrepro eval vocoder`."""

from rich import box
from rich.table import Table

from mossrepro.training.metrics import Metric

COLUMNS = {
    "mos": "MOS", "wer": "WER", "words": "words", "stoi": "STOI", "pesq": "PESQ", "mel": "mel", "stft": "STFT",
    "pitch": "cents", "voicing": "voicing",
}  # fmt: skip
LEGEND = (
    "40 sentences and 100 bare words in the assistant's voice. MOS: predicted, of sentences; WER: of sentences, words: "
    "bare ones understood, in per cent (Whisper); mel, STFT: distances from the recordings; cents: error of the pitch; "
    "voicing: frames in which it is right, in per cent."
)


def voice_ways(found: dict[str, Metric]) -> list[tuple[str, str]]:
    """(name, title) of every way to sound that was measured, in the order of the list, others behind."""
    ends = [(id.removesuffix("_wer").removeprefix("voice_"), one) for id, one in found.items() if id.endswith("_wer")]
    named = {name: one.name.rpartition(": ")[0] for name, one in ends if f"voice_{name}_words" in found}
    order = ["original", "griffin_lim", "copy", "coarse", "flow", "euler_1", "euler_2", "euler_4", "euler_10"]
    order += ["chunk_5", "chunk_25", "whole"]
    return [(name, named[name]) for name in [*order, *sorted(set(named) - set(order))] if name in named]


def voice_table(found: dict[str, Metric]) -> Table:
    """One row for each way to sound; a dash where something was not measured."""
    view = Table(title="where the voice is lost", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    view.add_column("", no_wrap=True)
    for heading in COLUMNS.values():
        view.add_column(heading, justify="right", no_wrap=True)
    for name, title in voice_ways(found):
        cells = [found.get(f"voice_{name}_{key}") for key in COLUMNS]
        view.add_row(title, *(f"{cell.value:.3g}" if cell else "–" for cell in cells))
    return view
