"""The table and the map of word errors by groups of voices and conditions."""

import io

from rich.console import Console

from mossrepro.report.codec_tables import draw_robustness, robustness_table, word_errors
from mossrepro.training.metrics import Metric


def facts(**values: float) -> dict[str, Metric]:
    return {f"rival_ours_{id}": Metric(f"rival_ours_{id}", id, value) for id, value in values.items()}


FOUND = facts(
    wer_strangers=30.0, wer_english=20.0, wer_noise_at_10_dB=50.0, wer_english_noise_at_10_dB=40.0,
    wer_recorded_speech=70.0, whisper_wer_english=3.0, whisper_wer_english_noise_at_10_dB=9.0,
)  # fmt: skip


def test_word_errors_are_found_by_condition_and_group():
    rates = {place: metric.value for place, metric in word_errors(FOUND).items()}
    assert rates == {
        ("clean", "strangers"): 30.0, ("clean", "english"): 20.0, ("noise at 10 dB", "strangers"): 50.0,
        ("noise at 10 dB", "english"): 40.0, ("recorded speech", "strangers"): 70.0,
    }  # fmt: skip


def test_table_and_map():
    out = Console(file=io.StringIO(), width=120)
    out.print(robustness_table(FOUND))
    text = out.file.getvalue()
    assert "40.0 (9)" in text and "20.0 (3)" in text and "accents" not in text
    figure = draw_robustness(FOUND)
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["english", "strangers"]
    assert {text.get_text() for text in axes.texts} == {"30", "20", "50", "40", "70"}
    figure.savefig(io.BytesIO())
