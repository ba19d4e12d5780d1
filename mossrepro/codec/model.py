"""The speech tokenizer: 16 kHz sound -> 12.5 codes a second -> text, trained for recognition only.

    wave -> log-mel -> CausalEncoder -> linear map, norm -> Quantiser -> phones      (linear, the training signal)
            100 Hz      12.5 Hz, D       12.5 Hz, C         12.5 Hz   -> Recogniser -> characters (50 Hz, CTC)

arXiv 2510.00499, section on the speech tokenizer: causal Whisper encoder, one codebook, recognition as the only
objective. Sizes differ (Whisper-base instead of large-v3, fewer codes), roles do not.
"""

import json
import math
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from mossrepro.audio import whisper_mel
from mossrepro.codec.encoder import MELS_PER_CODE, CausalEncoder
from mossrepro.codec.quantiser import Quantiser
from mossrepro.codec.recogniser import STEPS, Recogniser, ctc_text
from mossrepro.errors import CheckpointError
from mossrepro.spoken import PHONES

RATE = 16_000
SAMPLES_PER_CODE = 1_280
SEGMENT = 250  # codes encoded at once (20 s): bounds the memory of a long recording


@dataclass(frozen=True)
class CodecConfig:
    """Everything needed to build the network; plain numbers only."""

    codes: int = 1024  # K, rows of the codebook
    code_dim: int = 64  # C, width of a row
    width: int = 512  # D of the encoder
    heads: int = 8
    feedforward: int = 2048
    layers: int = 3  # at 50 Hz
    slow_layers: int = 2  # at 12.5 Hz
    window: int = 100  # look-back of a 50 Hz layer, frames
    slow_window: int = 50  # look-back of a 12.5 Hz layer, codes
    reader_width: int = 384
    reader_layers: int = 4
    reader_kernel: int = 7
    reader_dropout: float = 0.2


class SpeechCodec(nn.Module):
    """Sound to codes, causally, and codes to text."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = CausalEncoder(
            config.width,
            config.heads,
            config.layers,
            config.slow_layers,
            config.window,
            config.slow_window,
            config.feedforward,
        )
        self.narrow = nn.Linear(config.width, config.code_dim)
        self.quantiser = Quantiser(config.codes, config.code_dim)
        self.phones = nn.Linear(config.code_dim, STEPS * (1 + len(PHONES)))
        self.recogniser = Recogniser(
            config.code_dim, config.reader_width, config.reader_layers, config.reader_kernel, config.reader_dropout
        )

    def latents(self, mel: Tensor, offsets: Tensor | None = None) -> Tensor:
        """mel (B, 80, 8 T) -> vectors to be quantised (B, T, C), each of length sqrt(C)."""
        hidden, _ = self.encoder(mel, offsets=offsets)
        return self._narrowed(hidden)

    def _narrowed(self, hidden: Tensor) -> Tensor:
        return F.layer_norm(self.narrow(hidden).float(), (self.config.code_dim,))

    def phone_logits(self, frames: Tensor) -> Tensor:
        """Quantised frames (B, T, C) -> (B, 4 T, 40): silence and the phones, every 20 ms, each frame on its own."""
        return self.phones(frames).unflatten(-1, (STEPS, -1)).flatten(1, 2)

    @torch.inference_mode()
    def code_sounds(self) -> np.ndarray:
        """What every code sounds like: shares of silence and of the phones, (K, 40) float32, rows that sum to 1."""
        return self.phone_logits(self.quantiser.codebook[:, None]).softmax(-1).mean(1).cpu().numpy()

    @torch.inference_mode()
    def encode(self, wave: Tensor, lengths: Tensor | None = None) -> Tensor:
        """wave (B, N) at 16 kHz, lengths (B,) in samples -> codes (B, ceil(N / 1280)) int64.

        A code depends on no sample after its own 1,280. The last partial code is filled up with silence; past a
        clip's own `lengths` every code is -1.
        """
        device = self.narrow.weight.device
        steps = math.ceil(wave.shape[1] / SAMPLES_PER_CODE)
        if steps == 0:
            return torch.zeros(len(wave), 0, dtype=torch.int64, device=device)
        mel = whisper_mel(F.pad(wave.to(device), (0, steps * SAMPLES_PER_CODE - wave.shape[1])))
        state, codes = self.encoder.start(len(wave), device), []
        for chunk in mel.split(SEGMENT * MELS_PER_CODE, dim=2):
            hidden, state = self.encoder(chunk, state)
            codes.append(self.quantiser(self._narrowed(hidden)).codes)
        out = torch.cat(codes, dim=1)
        if lengths is not None:
            ends = (lengths.to(device) + SAMPLES_PER_CODE - 1) // SAMPLES_PER_CODE
            out = out.masked_fill(torch.arange(steps, device=device)[None] >= ends[:, None], -1)
        return out

    @torch.inference_mode()
    def transcribe(self, codes: Tensor | np.ndarray | list[int]) -> list[str]:
        """Codes (B, T) or (T,), -1 = padding -> one lower-case text per row, from the codes alone."""
        rows = torch.as_tensor(codes, dtype=torch.int64, device=self.narrow.weight.device)
        rows = rows[None] if rows.dim() == 1 else rows
        if rows.shape[1] == 0:
            return [""] * len(rows)
        lengths = (rows >= 0).sum(1)
        frames = F.embedding(rows.clamp(min=0), self.quantiser.codebook)
        best = self.recogniser(frames, lengths).argmax(-1)  # (B, 4 T)
        return [ctc_text(row[: int(n) * STEPS]) for row, n in zip(best, lengths, strict=True)]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write model.safetensors and config.json into `folder`, each in one atomic step."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, write in (
            ("model.safetensors", lambda path: save_file(self.state_dict(), path)),
            ("config.json", lambda path: path.write_text(json.dumps(asdict(self.config), indent=2) + "\n")),
        ):
            partial = folder / f".{name}.partial"
            write(partial)
            os.replace(partial, folder / name)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "SpeechCodec":
        """Load what `save_pretrained` wrote, in evaluation mode; CheckpointError when something is amiss."""
        folder = Path(folder)
        try:
            config = CodecConfig(**json.loads((folder / "config.json").read_text()))
            model = cls(config)
            model.load_state_dict(load_file(folder / "model.safetensors"))
        except (OSError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{folder}: not a speech codec that fits this version ({error})") from error
        return model.eval()
