"""A voice prompt: a recording of a speaker, from which a flow decoder that was trained with others takes its voice.

Two things are taken from it, as in the paper's decoder: a speaker vector, and codes and mel of how it ends, as if what
is to be spoken followed.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from mossrepro.speech.speaker import SpeakerEncoder
from mossrepro.utils import audio, sound_file
from mossrepro.utils.audio import SAMPLE_RATE, VOICE_SAMPLE_RATE, mel24
from mossrepro.utils.errors import AudioError
from mossrepro.vocoder.sampling import FRAMES, Said, whole_codes

SHORTEST, LONGEST = 1.6, 60.0  # seconds of sound: a window of the speaker encoder; it needs no more than the other
GONE_ON_FROM = 20  # codes, 1.6 s: half a row of the training, of which at most so much is shown
LEVEL = 0.055  # root mean square of the assistant's recordings, to which a prompt is brought before it is shown


class Prompt(NamedTuple):
    """A recording as `read_prompt` gives it: speaker vector (256,) of length 1, samples (n,) at 24 kHz without pauses
    at the ends.
    """

    voice: np.ndarray
    wave: np.ndarray


def read_prompt(path: str | Path) -> Prompt:
    """The voice prompt of a recording.

    Raises:
        AudioError: names the file: it is no sound, holds NaN, is silent or too long, or has too little sound in it.
        AssetError: the speaker encoder's package is missing.
    """
    seconds = sound_file.header(path).seconds  # before it is decoded
    if seconds > LONGEST:
        raise AudioError(f"{path}: {seconds:.0f} s long; a voice prompt may last {LONGEST:.0f} s, cut the recording")
    wave = audio.trim(audio.load(path, VOICE_SAMPLE_RATE), VOICE_SAMPLE_RATE)
    if len(wave) < SHORTEST * VOICE_SAMPLE_RATE:
        said = f"{len(wave) / VOICE_SAMPLE_RATE:.1f} s of sound"
        raise AudioError(f"{path}: {said}; a voice prompt needs {SHORTEST} s of speech, better ten, record more")
    return Prompt(SpeakerEncoder.pretrained().embed(audio.resample(wave, VOICE_SAMPLE_RATE, SAMPLE_RATE)), wave)


def end_of(wave: np.ndarray, listen: Callable[[np.ndarray], np.ndarray]) -> Said:
    """The last 1.6 s of a recording, samples (n,) at 24 kHz, as codes with their mel, as loud as the assistant's.

    listen: samples (m,) at 16 kHz -> codes (T,), of the codec that the flow decoder was trained with.
    """
    wave = wave * np.float32(LEVEL / max(float(np.sqrt(np.mean(np.square(wave)))), 1e-9))
    codes = torch.from_numpy(np.asarray(listen(audio.resample(wave, VOICE_SAMPLE_RATE, SAMPLE_RATE)), np.int64))
    mel = mel24(whole_codes(wave)[None])[0]
    count = min(len(codes), mel.shape[-1] // FRAMES)  # rounding may make them differ by one
    first = max(0, count - GONE_ON_FROM)
    return Said(codes[first:count], mel[:, FRAMES * first : FRAMES * count])
