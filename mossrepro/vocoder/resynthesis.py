"""Codes to sound in one call."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from mossrepro.errors import ConfigError, DataError
from mossrepro.vocoder.flow import FRAMES, FlowDecoder
from mossrepro.vocoder.generator import Vocoder


class Speaker:
    """The assistant's voice: flow decoder, then vocoder. The same codes always give the same samples.

    Raises ConfigError when the two do not speak the same mel.
    """

    def __init__(self, flow: FlowDecoder, vocoder: Vocoder):
        if flow.bands != vocoder.config["bands"]:
            raise ConfigError(f"bands: the flow makes {flow.bands}, the vocoder reads {vocoder.config['bands']}")
        self.flow, self.vocoder = flow.eval(), vocoder.eval()

    @classmethod
    def from_pretrained(cls, flow: str | Path, vocoder: str | Path) -> "Speaker":
        """Load both from their folders; CheckpointError when one does not fit."""
        return cls(FlowDecoder.from_pretrained(flow), Vocoder.from_pretrained(vocoder))

    @property
    def samples_per_code(self) -> int:
        """Samples that one code becomes: 1,920 at 24 kHz."""
        return FRAMES * self.vocoder.hop

    @torch.inference_mode()
    def speak(self, codes: Sequence[int]) -> tuple[np.ndarray, int]:
        """T codes -> (float32 samples (T * samples_per_code,) in [-1, 1], rate). DataError when there is no code."""
        if len(codes) == 0:
            raise DataError("no codes to speak")
        device = self.flow.mean.device
        mel = self.flow(torch.as_tensor(codes, dtype=torch.int64, device=device)[None])
        wave = self.vocoder(mel)[0].float().cpu().numpy()
        return np.clip(wave, -1.0, 1.0), self.vocoder.rate
