"""An utterance as the tokenizer sees it: mel spectrogram, phones, and the codes with their numbers."""

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure

from mossrepro.codec.model import SAMPLES_PER_CODE
from mossrepro.data.alignment import Phone
from mossrepro.utils.audio import SAMPLE_RATE, whisper_mel


def draw(figure: Figure, wave: np.ndarray, phones: list[Phone], codes: np.ndarray, text: str) -> None:
    """Into an empty figure: wave (n,) at 16 kHz, its phones in seconds, its codes (T,), each in a colour of its own."""
    figure.set(size_inches=(max(6.0, 0.32 * len(codes)), 3.6), layout_engine="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    mel = whisper_mel(torch.from_numpy(wave)[None])[0].numpy()
    seconds = len(codes) * SAMPLES_PER_CODE / SAMPLE_RATE
    top.imshow(mel, origin="lower", aspect="auto", cmap="magma", extent=(0, mel.shape[1] / 100, 0, 80))
    for name, start, end in phones:
        top.axvline(start, color="white", linewidth=0.4, alpha=0.6)
        top.text((start + end) / 2, 84, name, ha="center", va="bottom", fontsize=7)
    top.set_title(text, fontsize=10, pad=22)
    top.set_ylabel("mel band")
    step = SAMPLES_PER_CODE / SAMPLE_RATE
    for i, code in enumerate(codes.tolist()):
        shade = matplotlib.colormaps["hsv"]((code * 0.618034) % 1.0, alpha=0.45)  # neighbours in number look unlike
        bottom.axvspan(i * step, (i + 1) * step, color=shade, linewidth=0)
        bottom.text((i + 0.5) * step, 0.5, str(code), ha="center", va="center", fontsize=7, rotation=90)
    bottom.set(yticks=[], ylim=(0, 1), xlim=(0, seconds), xlabel="seconds", ylabel="code")
    return figure
