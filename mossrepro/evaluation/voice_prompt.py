"""Whether voice prompts are followed, by measures that know nothing of the vector that conditions the decoder.

Pitch, and an embedding of timbre: mean and spread of the cepstrum, the classic of speaker recognition, with no network.
Both are measured of what is spoken in the voices of prompts (`spoken`), by their vectors alone (`vector`; the same
where the decoder has not learnt to go on from a prompt's sound), of other recordings by the same speakers, which is the
most that can be reached (`recorded`), and of what is spoken without a prompt, the least (`unprompted`).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mossrepro.data.corpus import Clip, load_clip
from mossrepro.evaluation.artifacts import RunArtifacts
from mossrepro.speech.roster import VOICES
from mossrepro.speech.speaker import SpeakerEncoder
from mossrepro.training.metrics import Metric, wilson
from mossrepro.training.step_data import announce
from mossrepro.utils.audio import MELS, SAMPLE_RATE, VOICE_HOP, VOICE_SAMPLE_RATE, mel24, resample
from mossrepro.vocoder.pitch import measure_pitch
from mossrepro.vocoder.prompt import end_of

COEFFICIENTS = 20  # of the cepstrum, without the loudness
QUIET = 4.0  # nats below the loudest frame, mean over bands, from which a frame counts as a pause
SECONDS = 6.0  # of recordings in a prompt, and again of those that it is compared with


class Likeness(NamedTuple):
    """How like the prompts sounds are.

    semitones: between the median pitches of a sound and its prompt, mean over pairs; NaN where none is voiced.
    timbre: cosine of their timbres, mean over pairs, -1 to 1; 0 where prompts make no difference.
    found: of each sound, whether the prompt whose timbre is nearest is its own; by chance one of so many is.
    """

    semitones: float
    timbre: float
    found: list[bool]


def timbre(wave: Tensor) -> Tensor:
    """Samples (n,) at 24 kHz -> mean and deviation of cepstral coefficients 1 to 20, without pauses: (40,)."""
    mel = mel24(wave[None])[0]
    loud = mel.mean(0)
    bands = (torch.arange(MELS, device=wave.device) + 0.5) * math.pi / MELS
    orders = torch.arange(1, COEFFICIENTS + 1, device=wave.device)
    cepstrum = torch.cos(orders[:, None] * bands) @ mel[:, loud > loud.max() - QUIET]  # (20, frames)
    return torch.cat([cepstrum.mean(1), cepstrum.std(1, correction=0)])


def median_pitch(wave: Tensor) -> float:
    """Samples (n,) at 24 kHz -> the median over voiced frames, in semitones above 100 Hz; NaN without any."""
    hertz = measure_pitch(wave[None], VOICE_SAMPLE_RATE, VOICE_HOP)[0]
    return 12 * math.log2(hertz[hertz > 0].median().item() / 100) if (hertz > 0).any() else math.nan


def likeness(sounds: Sequence[Tensor], prompts: Sequence[Tensor]) -> Likeness:
    """Compare sounds with recordings (n,) at 24 kHz of the voices that they should be in, one of each voice.

    Timbres are measured from the mean of the sounds and of the prompts each: what all sounds have in common, such as a
    vocoder's own colour, is no voice.
    """
    apart = np.array([median_pitch(a) - median_pitch(b) for a, b in zip(sounds, prompts, strict=True)])
    apart = np.abs(apart[np.isfinite(apart)])
    made, wanted = (torch.stack([timbre(wave) for wave in waves]) for waves in (sounds, prompts))
    scale = wanted.std(0, correction=0).clamp_min(1e-6)
    made, wanted = ((found - found.mean(0)) / scale for found in (made, wanted))
    cosines = torch.nn.functional.cosine_similarity(made[:, None], wanted[None], dim=-1)  # (sounds, prompts)
    own = torch.arange(len(cosines), device=cosines.device)
    semitones = float(apart.mean()) if len(apart) else math.nan
    return Likeness(semitones, cosines.diagonal().mean().item(), (cosines.argmax(1) == own).tolist())


def measure_prompts(artifacts: RunArtifacts, codes: Sequence[Tensor]) -> None:
    """Speak utterances, codes (T,) each, in the voices of the run's held-out users, and record how like they are.

    Nothing is recorded where fewer than two of them say enough, as in small sizes.
    """
    prompts, recorded = _held_out(artifacts)
    announce(f"voice prompts of {len(prompts)} held-out users with {2 * SECONDS:.0f} s of recordings")
    if len(prompts) < 2:
        return
    encoder, speaker = SpeakerEncoder.pretrained(), artifacts.speaker
    vectors = [encoder.embed(resample(wave, VOICE_SAMPLE_RATE, SAMPLE_RATE)) for wave in prompts]
    rows = [row.tolist() for row in codes]
    ends = [end_of(wave, artifacts.codec.codes_of) for wave in prompts]
    spoken, by_vector = (
        [np.concatenate(speaker.in_voice(*told).speak_all(rows)) for told in zip(vectors, said, strict=True)]
        for said in (ends, [None] * len(ends))
    )
    unprompted = [np.concatenate(speaker.speak_all(rows))] * len(prompts)
    sets = {"spoken": spoken, "vector": by_vector, "recorded": recorded, "unprompted": unprompted}
    wanted = [torch.from_numpy(wave) for wave in prompts]
    for name, waves in sets.items():
        _record(artifacts, name, likeness([torch.from_numpy(wave) for wave in waves], wanted))


def _record(artifacts: RunArtifacts, name: str, found: Likeness) -> None:
    id, title, n = f"voice_prompt_{name}", f"voice prompts, {name}", len(found.found)
    low, high = wilson(sum(found.found), n)
    bounds = {"low": 100 * low, "high": 100 * high, "interval": "Wilson 95 %", "n": n}
    share = 100 * sum(found.found) / n
    semitones = f"{title}: distance from the prompt's pitch"
    artifacts.record(Metric(f"{id}_semitones", semitones, found.semitones, "semitones", n=n))
    artifacts.record(Metric(f"{id}_timbre", f"{title}: likeness of timbre (cosine)", found.timbre, n=n))
    artifacts.record(Metric(f"{id}_found", f"{title}: nearest in timbre to its own of {n}", share, "%", **bounds))


def _held_out(artifacts: RunArtifacts) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """A prompt and other recordings, 24 kHz (n,) each, of about SECONDS, of every held-out user who says enough."""
    clips: dict[str, list[Clip]] = {}
    for clip in artifacts.clips.values():
        if clip.speaker in VOICES and VOICES[clip.speaker].role == "held-out":
            clips.setdefault(clip.speaker, []).append(clip)
    pairs = []
    for who in sorted(clips):
        ends = np.cumsum([clip.seconds for clip in clips[who]])
        half, end = (int(np.searchsorted(ends, seconds)) + 1 for seconds in (SECONDS, 2 * SECONDS))
        if end <= len(ends):
            pairs.append((clips[who][:half], clips[who][half:end]))
    folder = artifacts.parts["script"]
    joined = [[np.concatenate([load_clip(folder, c, VOICE_SAMPLE_RATE) for c in part]) for part in p] for p in pairs]
    return [prompt for prompt, _ in joined], [other for _, other in joined]
