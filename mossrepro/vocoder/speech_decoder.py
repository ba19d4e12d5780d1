"""Codes to sound in one call."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from mossrepro.utils.devices import CPU
from mossrepro.utils.errors import ConfigError, DataError
from mossrepro.utils.packed_linear import pack_linear_layers
from mossrepro.vocoder.flow import FRAMES, FlowDecoder
from mossrepro.vocoder.generator import Vocoder


class SpeechDecoder:
    """The assistant's voice: flow decoder, then vocoder. The same codes always give the same samples.

    Raises ConfigError when the two differ in mel bands.
    """

    def __init__(self, flow: FlowDecoder, vocoder: Vocoder):
        if flow.bands != vocoder.config["bands"]:
            raise ConfigError(f"bands: the flow makes {flow.bands}, the vocoder reads {vocoder.config['bands']}")
        self.flow, self.vocoder = flow.eval(), vocoder.eval()

    @classmethod
    def from_pretrained(cls, flow: str | Path, vocoder: str | Path, device: torch.device = CPU) -> "SpeechDecoder":
        """Load both from their folders onto a device, for inference only; CheckpointError when one does not fit."""
        parts = FlowDecoder.from_pretrained(flow), Vocoder.from_pretrained(vocoder)
        return cls(*(pack_linear_layers(part.to(device)) for part in parts))

    @property
    def samples_per_code(self) -> int:
        """Samples that one code becomes: 1,920 at 24 kHz."""
        return FRAMES * self.vocoder.hop

    def speak(self, codes: Sequence[int]) -> tuple[np.ndarray, int]:
        """T codes -> (float32 samples (T * samples_per_code,) in [-1, 1], rate). DataError when there is no code."""
        return self.speak_all([codes])[0], self.vocoder.rate

    @torch.inference_mode()
    def speak_all(self, many: Sequence[Sequence[int]], batch: int = 16) -> list[np.ndarray]:
        """Several sequences of codes, decoded in batches -> the samples of each, as `speak` makes them.

        Raises DataError when one of them holds no code, or one that is not in the codebook.
        """
        if not all(len(codes) for codes in many):
            raise DataError("no codes to speak")
        device, waves = self.flow.mean.device, {}
        order = sorted(range(len(many)), key=lambda i: len(many[i]))
        for at in range(0, len(order), batch):
            rows = [torch.as_tensor(many[i], dtype=torch.int64).cpu() for i in order[at : at + batch]]
            lengths = torch.tensor([len(row) for row in rows], device=device)
            mels = self.flow(pad_sequence(rows, batch_first=True), lengths)
            for i, row, mel in zip(order[at:], rows, mels, strict=False):
                wave = self.vocoder(mel[None, :, : FRAMES * len(row)])[0]
                waves[i] = np.clip(wave.float().cpu().numpy(), -1.0, 1.0)
        return [waves[i] for i in range(len(many))]
