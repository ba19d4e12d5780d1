"""A small acoustic codec of encodec's parts, at the semantic codec's rate: what `codec/` is measured against.

    wave 16 kHz -> SEANet encoder, strides 8 5 8 4 -> 12.5 Hz -> residual vector quantiser -> SEANet decoder -> wave

High Fidelity Neural Audio Compression (arXiv 2210.13438), without its discriminators and language model.
"""

import json
import math
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from encodec.modules import SEANetDecoder, SEANetEncoder
from encodec.quantization import ResidualVectorQuantizer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from mossrepro.codec.model import RATE, SAMPLES_PER_CODE, CodecConfig, SpeechCodec
from mossrepro.errors import CheckpointError

RATIOS = (4, 8, 5, 8)  # of the decoder, in encodec's order; their product is one code


@dataclass(frozen=True)
class AcousticConfig:
    """Shape of the rival; `books` stages of the residual quantiser with `codes` entries each."""

    codes: int = 1024
    books: int = 1
    dim: int = 64
    filters: int = 24


class AcousticCodec(nn.Module):
    """Sound to codes and back, causally; trained to give back the wave."""

    def __init__(self, config: AcousticConfig) -> None:
        super().__init__()
        self.config = config
        shape = {"dimension": config.dim, "n_filters": config.filters, "ratios": list(RATIOS)}
        shape |= {"causal": True, "lstm": 0}
        self.encoder = SEANetEncoder(**shape)
        self.quantiser = ResidualVectorQuantizer(config.dim, config.books, config.codes)
        self.decoder = SEANetDecoder(**shape)

    @property
    def bits_per_second(self) -> float:
        return RATE / SAMPLES_PER_CODE * self.config.books * math.log2(self.config.codes)

    def forward(self, wave: Tensor) -> tuple[Tensor, Tensor]:
        """wave (B, N), N a multiple of 1,280 -> the wave given back (B, N), and the commitment loss ()."""
        quantised, _, commitment = self.quantiser.vq(self.encoder(wave[:, None]), n_q=self.config.books)
        return self.decoder(quantised)[:, 0, : wave.shape[1]], commitment.mean()

    @torch.inference_mode()
    def encode(self, wave: Tensor) -> Tensor:
        """wave (B, N) at 16 kHz -> codes (B, ceil(N / 1280), books) int64."""
        padded = F.pad(wave, (0, -wave.shape[1] % SAMPLES_PER_CODE))
        return self.quantiser.vq.encode(self.encoder(padded[:, None]), n_q=self.config.books).permute(1, 2, 0)

    @torch.inference_mode()
    def frames(self, codes: Tensor) -> Tensor:
        """Codes (B, T, books) -> the vectors that they stand for (B, T, dim)."""
        return self.quantiser.vq.decode(codes.permute(2, 0, 1)).transpose(1, 2)

    def flat(self, codes: Tensor) -> Tensor:
        """Codes (B, T, books) -> (B, T books) of one alphabet of books * codes, for a token store and `reader`."""
        return (codes + self.config.codes * torch.arange(self.config.books, device=codes.device)).flatten(1)

    def reader(self, like: CodecConfig) -> SpeechCodec:
        """A codec that can only read this one's `flat` codes, its recogniser untrained and shaped as that of `like`.

        Its codebook holds the tables of all books, so that the sum over a frame's codes is `frames`.
        """
        config = self.config
        books = replace(
            like, front="none", codes=config.codes * config.books, books=config.books, code_dim=config.dim, levels=()
        )
        shell = SpeechCodec(books).eval()
        tables = [layer._codebook.embed for layer in self.quantiser.vq.layers[: config.books]]
        with torch.no_grad():
            shell.quantiser.codebook.copy_(torch.cat(tables))
            shell.quantiser.started.fill_(True)
        return shell

    @torch.inference_mode()
    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, T, books) -> wave (B, 1280 T)."""
        return self.decoder(self.frames(codes).transpose(1, 2))[:, 0, : codes.shape[1] * SAMPLES_PER_CODE]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write model.safetensors and config.json."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: value.contiguous() for name, value in self.state_dict().items()}
        save_file(state, folder / ".model.partial")
        os.replace(folder / ".model.partial", folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(asdict(self.config), indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "AcousticCodec":
        """Load what `save_pretrained` wrote, in evaluation mode; CheckpointError when something is amiss."""
        folder = Path(folder)
        try:
            model = cls(AcousticConfig(**json.loads((folder / "config.json").read_text())))
            model.load_state_dict(load_file(folder / "model.safetensors"))
        except (OSError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{folder}: not an acoustic codec that fits this version ({error})") from error
        return model.eval()
