"""A voice prompt: a recording of a speaker, from which a flow decoder that was trained with others takes its voice."""

from pathlib import Path

import numpy as np

from mossrepro.speech.speaker import SpeakerEncoder
from mossrepro.utils import audio, sound_file
from mossrepro.utils.audio import SAMPLE_RATE
from mossrepro.utils.errors import AudioError

SHORTEST, LONGEST = 1.6, 60.0  # seconds of sound: a window of the speaker encoder; it needs no more than the other


def read_prompt(path: str | Path) -> np.ndarray:
    """The speaker vector (256,) of a recording, of length 1.

    Raises:
        AudioError: names the file: it is no sound, holds NaN, is silent or too long, or has too little sound in it.
        AssetError: the speaker encoder's package is missing.
    """
    seconds = sound_file.header(path).seconds  # before it is decoded
    if seconds > LONGEST:
        raise AudioError(f"{path}: {seconds:.0f} s long; a voice prompt may last {LONGEST:.0f} s, cut the recording")
    wave = audio.trim(audio.load(path, SAMPLE_RATE), SAMPLE_RATE)
    if len(wave) < SHORTEST * SAMPLE_RATE:
        said = f"{len(wave) / SAMPLE_RATE:.1f} s of sound"
        raise AudioError(f"{path}: {said}; a voice prompt needs {SHORTEST} s of speech, better ten, record more")
    return SpeakerEncoder.pretrained().embed(wave)
