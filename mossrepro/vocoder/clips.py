"""The clips that flow decoder and vocoder learn from: those of one speaker, or of everybody else, and their voices."""

import functools
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mossrepro.data.corpus import SPLITS, Clip, left_out, load_clip, read_manifest
from mossrepro.data.token_store import TokenStore
from mossrepro.speech.speaker import SpeakerEncoder
from mossrepro.training.step_data import announce
from mossrepro.utils.audio import SAMPLE_RATE, VOICE_HOP, VOICE_SAMPLE_RATE, mel24
from mossrepro.utils.errors import DataError
from mossrepro.vocoder.pitch import measure_pitch
from mossrepro.vocoder.sampling import FRAMES, whole_codes

KEPT = 4000  # clips in memory: about 4 hours of sentences, 1.5 GB
VECTORS = 8  # clips of a speaker whose vectors are taken: 10 ms of computing each


class Sound(NamedTuple):
    """A clip, padded with silence to whole codes: wave (T * 1920,), mel (80, 4T), pitch (4T,) in Hz."""

    wave: Tensor
    mel: Tensor
    pitch: Tensor


class Clips:
    """Clips of a corpus, read when first needed and kept in memory.

    Args:
        corpus: its folder.
        speaker: whose clips.
        others: the clips of everybody but the speaker instead.
        tokens: token store of the corpus; clips that it lacks are left out. None: no codes are needed.
    """

    def __init__(self, corpus: str | Path, speaker: str, others: bool = False, tokens: str | None = None) -> None:
        self.corpus, self.speaker, self.others, self.tokens = Path(corpus), speaker, others, tokens
        self._splits: dict[str, list[Clip]] = {}
        self._speakers: dict[str, dict[str, list[Clip]]] = {}
        self._fresh()

    def _fresh(self) -> None:
        self._sounds = functools.lru_cache(KEPT)(self._sound)
        self._voices: dict[str, Tensor] = {}
        self._encoder: SpeakerEncoder | None = None

    def __getstate__(self) -> dict:
        """What is kept in memory is not pickled: every loader process fills its own."""
        kept = ("_sounds", "_voices", "_encoder")
        return {key: value for key, value in self.__dict__.items() if key not in kept}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._fresh()

    def of(self, split: str) -> list[Clip]:
        """The clips of a split. DataError when there is none to train on."""
        if not self._splits:
            self._splits = self._read_clips()
        return self._splits[split]

    def by(self, split: str, speaker: str) -> list[Clip]:
        """Those of one of the speakers."""
        if split not in self._speakers:
            found: dict[str, list[Clip]] = {}
            for clip in self.of(split):
                found.setdefault(clip.speaker, []).append(clip)
            self._speakers[split] = found
        return self._speakers[split][speaker]

    def _read_clips(self) -> dict[str, list[Clip]]:
        wanted = [clip for clip in read_manifest(self.corpus) if (clip.speaker != self.speaker) == self.others]
        who = f"anyone but {self.speaker!r}" if self.others else f"speaker {self.speaker!r}"
        found = {name: [clip for clip in wanted if clip.split == name] for name in SPLITS}
        if not found["train"]:
            raise DataError(f"{self.corpus}: no training clip of {who}")
        if self.tokens is None:
            return found
        kept = {split: [clip for clip in clips if clip.id in self.store] for split, clips in found.items()}
        ours = found["train"] + found["valid"]
        if line := left_out(ours, {"without codes": [clip for clip in ours if clip.id not in self.store]}):
            announce(f"{self.tokens}: {line}")
        if not kept["train"]:
            raise DataError(f"{self.tokens}: holds no codes of {self.corpus}'s clips by {who}")
        return kept

    @functools.cached_property
    def store(self) -> TokenStore:
        """The codes, opened when first needed."""
        return TokenStore(self.tokens)

    def _sound(self, clip: Clip) -> Sound:
        wave = whole_codes(load_clip(self.corpus, clip, VOICE_SAMPLE_RATE))
        return Sound(wave, mel24(wave[None])[0], measure_pitch(wave[None], VOICE_SAMPLE_RATE, VOICE_HOP)[0])

    def sound(self, clip: Clip) -> Sound:
        """Wave, mel and pitch of a clip."""
        return self._sounds(clip)

    def pair(self, clip: Clip) -> tuple[Tensor, Tensor]:
        """codes (T,) and mel (80, 4T) of a clip, cut to the shorter when rounding made them differ by one code."""
        codes, mel = torch.from_numpy(self.store[clip.id]), self.sound(clip).mel
        if abs(len(codes) - mel.shape[-1] // FRAMES) > 1:
            raise DataError(f"{self.tokens}: {clip.id} has {len(codes)} codes for {mel.shape[-1]} mel frames")
        length = min(len(codes), mel.shape[-1] // FRAMES)
        return codes[:length], mel[:, : FRAMES * length]

    def voice(self, clip: Clip) -> Tensor:
        """The speaker vector (256,) of a clip."""
        if clip.id not in self._voices:
            self._encoder = self._encoder or SpeakerEncoder.pretrained()
            vector = self._encoder.embed(load_clip(self.corpus, clip, SAMPLE_RATE))
            self._voices[clip.id] = torch.from_numpy(vector).clone()
        return self._voices[clip.id]

    def another(self, clip: Clip, random: np.random.Generator) -> Clip:
        """Another clip of the same speaker and split, one of the first; the clip itself where there is no other.

        A vector of the very clip that is to be spoken would also tell what is said and how.
        """
        clips = self.by(clip.split, clip.speaker)[: VECTORS + 1]
        place = int(random.integers(max(len(clips) - 1, 1)))
        return clips[-1] if clips[place].id == clip.id else clips[place]
