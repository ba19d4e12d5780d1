"""Prosody that survives in codes: a linear probe predicts pitch and energy from the vectors of the codes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from mossrepro.codec.model import SAMPLES_PER_CODE
from mossrepro.utils.audio import SAMPLE_RATE
from mossrepro.vocoder.pitch import measure_pitch

CONTEXT = 2  # codes on either side that the probe sees
_RIDGE = 10.0
_HOP = SAMPLES_PER_CODE // 4


class Prosody(NamedTuple):
    """Targets of the probe for every code of a clip; NaN where there is none."""

    pitch: np.ndarray  # (T,) natural logarithm of Hz, mean over voiced frames
    energy: np.ndarray  # (T,) natural logarithm of the mean power, of the louder codes


def measure(wave: np.ndarray, codes: int) -> Prosody:
    """Pitch and energy of a 16 kHz wave (n,) in each of its `codes` stretches of 80 ms."""
    padded = torch.from_numpy(np.pad(wave, (0, codes * SAMPLES_PER_CODE - len(wave))).astype(np.float32))
    hertz = measure_pitch(padded[None], SAMPLE_RATE, _HOP)[0].view(codes, 4)
    voiced = hertz > 0
    pitch = hertz.clamp(min=1).log().where(voiced, 0).sum(1) / voiced.sum(1)  # 0 / 0 is NaN
    power = padded.view(codes, -1).square().mean(1)
    energy = power.clamp(min=1e-12).log()
    return Prosody(pitch.numpy(), energy.where(power > 1e-4 * power.max(), torch.nan).numpy())


def beside(frames: np.ndarray) -> np.ndarray:
    """Vectors of a clip's codes (T, C) beside those of CONTEXT neighbours on either side: (T, 5 C), 0 at the ends."""
    padded = np.pad(frames, ((CONTEXT, CONTEXT), (0, 0)))
    return np.concatenate([padded[at : at + len(frames)] for at in range(2 * CONTEXT + 1)], axis=1)


def centred(rows: Sequence[np.ndarray], speakers: Sequence[str]) -> list[np.ndarray]:
    """The same numbers minus each speaker's own mean (NaN stays)."""
    means = {
        one: np.nanmean(np.concatenate([row for row, who in zip(rows, speakers, strict=True) if who == one]))
        for one in set(speakers)
    }
    return [row - means[who] for row, who in zip(rows, speakers, strict=True)]


def explained(frames: Sequence[np.ndarray], targets: Sequence[np.ndarray], held_out: Sequence[bool]) -> float:
    """R squared (at most 1) of a ridge regression from the codes' vectors to a target.

    frames: a (T, C) for every clip; targets: its (T,), NaN where nothing counts; held_out: whether the clip is for
    testing. The probe is fitted on the other clips.
    """
    parts = {True: ([], []), False: ([], [])}
    for vectors, target, test in zip(frames, targets, held_out, strict=True):
        counted = np.isfinite(target)
        parts[bool(test)][0].append(beside(vectors)[counted])
        parts[bool(test)][1].append(target[counted])
    (x, y), (x_new, y_new) = ((np.concatenate(a), np.concatenate(b)) for a, b in (parts[False], parts[True]))
    mean, level = x.mean(0), y.mean()
    scale = np.maximum(x.std(0), 1e-8)  # so that the ridge does not depend on the scale of the vectors
    x, x_new = (x - mean) / scale, (x_new - mean) / scale
    weights = np.linalg.solve(x.T @ x + _RIDGE * np.eye(x.shape[1]), x.T @ (y - level))
    left = y_new - level - x_new @ weights
    return float(1 - np.square(left).sum() / np.square(y_new - y_new.mean()).sum())
