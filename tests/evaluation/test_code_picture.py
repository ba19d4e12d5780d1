"""The picture shows every phone and every code of an utterance."""

import io

import numpy as np
from matplotlib.figure import Figure

from mossrepro.evaluation.code_picture import draw


def test_every_phone_and_every_code_has_its_place() -> None:
    wave = 0.1 * np.sin(np.arange(1280 * 4 - 100) * 0.3).astype(np.float32)
    figure = Figure()
    draw(figure, wave, [("AA", 0.02, 0.1), ("B", 0.1, 0.2)], np.array([5, 5, 7, 1023]), "ab")
    top, bottom = figure.axes[:2]
    assert [text.get_text() for text in top.texts] == ["AA", "B"] and top.get_title() == "ab"
    assert [text.get_text() for text in bottom.texts] == ["5", "5", "7", "1023"]
    colours = [patch.get_facecolor() for patch in bottom.patches]
    assert colours[0] == colours[1] != colours[2] and bottom.get_xlim() == (0, 0.32)
    file = io.BytesIO()
    figure.savefig(file, format="png")
    assert len(file.getvalue()) > 5_000
