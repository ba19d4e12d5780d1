"""A small acoustic codec with encodec's networks at the semantic codec's rate: the baseline for `codec/`.

    wave 16 kHz -> SEANet encoder, strides 8 5 8 4 -> 12.5 Hz -> residual vector quantiser -> SEANet decoder -> wave

High Fidelity Neural Audio Compression (arXiv 2210.13438), without its discriminators and language model. The codebooks
are our own quantiser: encodec 0.1.1 initialises them from one batch (here 450 latents for 1,024 codes), and undoes its
restart of dead codes in the same step.
"""

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from encodec.modules import SEANetDecoder, SEANetEncoder
from torch import Tensor, nn
from torch.nn import functional as F

from mossrepro.codec.model import SAMPLES_PER_CODE, CodecConfig, SpeechCodec
from mossrepro.codec.quantiser import Quantised, Quantiser
from mossrepro.utils.audio import SAMPLE_RATE
from mossrepro.utils.old_names import CODEC_CONFIG, CODEC_TENSORS
from mossrepro.utils.pretrained import load_own
from mossrepro.utils.safetensors_io import save_whole

LOUD = 0.05  # of full scale, about the level of speech; the networks' input and output are near 1
RATIOS = (4, 8, 5, 8)  # upsampling factors of the decoder, in encodec's order; their product is the samples of one code


@dataclass(frozen=True)
class AcousticConfig:
    """Sizes of the baseline: a residual quantiser of `codebooks` stages with `codes` entries each."""

    codes: int = 1024
    codebooks: int = 1
    dim: int = 64
    filters: int = 24


def _awaken(network: nn.Module) -> None:
    """Scale the initial weights so that activations keep their size.

    PyTorch's defaults shrink them by 1.7 at every convolution: after twenty, latents differ by 0.0002 and are nearly
    all bias. The minutes of training here never recover from that (one code for everything; docs/LOG.md).
    """
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("weight_g"):
                parameter.mul_(3**0.5)
            elif name.endswith("bias"):
                parameter.zero_()


class ResidualQuantiser(nn.Module):
    """A stack of codebooks: each quantises what those before it left over."""

    def __init__(self, codebooks: int, codes: int, dim: int) -> None:
        super().__init__()
        self.codebooks = nn.ModuleList([Quantiser(codes, dim) for _ in range(codebooks)])

    @property
    def started(self) -> bool:
        return bool(self.codebooks[0].started)

    @property
    def lacking(self) -> int:
        """Latents to remember before it can start."""
        return self.codebooks[0].lacking

    def forward(self, x: Tensor) -> Quantised:
        """x (B, T, C) -> sum of the chosen rows (B, T, C), codes (B, T, codebooks), mean commitment over codebooks.

        The rows taken from the residual are detached, so that later codebooks' commitments reach the encoder too.
        """
        rest, total, codes, commitments = x, torch.zeros_like(x), [], []
        for book in self.codebooks:
            found = book(rest)
            hard = found.vectors.detach()
            rest, total = rest - hard, total + hard
            codes.append(found.codes)
            commitments.append(found.commitment)
        return Quantised(x + (total - x).detach(), torch.stack(codes, -1), torch.stack(commitments).mean())

    @torch.no_grad()
    def remember(self, x: Tensor) -> None:
        """Keep latents (N, C) for `start`."""
        self.codebooks[0].remember(x)

    @torch.no_grad()
    def start(self, generator: torch.Generator) -> None:
        """Initialise each codebook in turn, by k-means on what those before it leave of the remembered latents."""
        rest = self.codebooks[0].remembered()
        for i, book in enumerate(self.codebooks):
            if i:
                book.remember(rest)
            book.start(generator)
            rest = rest - book(rest[None]).vectors[0]

    @torch.no_grad()
    def update(self, x: Tensor, codes: Tensor, generator: torch.Generator, replace: bool = True) -> Tensor:
        """Move all codebooks towards latents x (N, C) with codes (N, codebooks); returns how many rows it replaced, ().

        On several ranks x and codes are those of all of them. `replace`: whether dead codes are replaced. A codebook
        without dead codes leaves its random order to the next one.
        """
        self.codebooks[0].remember(x)
        orders = torch.stack([self.codebooks[0].shuffled(generator) for _ in self.codebooks])
        replaced, taken = codes.new_zeros(()), codes.new_zeros(1)
        for i, book in enumerate(self.codebooks):
            rows = F.embedding(codes[:, i], book.codebook)
            if i:
                book.remember(x)
            dead = book.move(x, codes[:, i], orders.index_select(0, taken)[0], replace)
            replaced, taken, x = replaced + dead, taken + (dead > 0), x - rows
        return replaced

    def rows(self, codes: Tensor) -> Tensor:
        """Codes (B, T, codebooks) -> the sums of their rows (B, T, C)."""
        return torch.stack([F.embedding(codes[..., i], book.codebook) for i, book in enumerate(self.codebooks)]).sum(0)


class AcousticCodec(nn.Module):
    """Sound to codes and back, causally; trained to reconstruct the wave."""

    def __init__(self, config: AcousticConfig) -> None:
        super().__init__()
        self.config = config
        shape = {"dimension": config.dim, "n_filters": config.filters, "ratios": list(RATIOS)}
        shape |= {"causal": True, "lstm": 0}
        self.encoder = SEANetEncoder(**shape)
        self.quantiser = ResidualQuantiser(config.codebooks, config.codes, config.dim)
        self.decoder = SEANetDecoder(**shape)
        _awaken(self)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.quantiser.codebooks[0].codebook.device

    @property
    def bits_per_second(self) -> float:
        return SAMPLE_RATE / SAMPLES_PER_CODE * self.config.codebooks * math.log2(self.config.codes)

    def latents(self, wave: Tensor) -> Tensor:
        """wave (B, N) at 16 kHz, padded with silence -> one vector per code (B, ceil(N / 1280), dim)."""
        padded = F.pad(wave, (0, -wave.shape[1] % SAMPLES_PER_CODE))
        return F.layer_norm(self.encoder(padded[:, None] / LOUD).transpose(1, 2), (self.config.dim,))

    def sound(self, vectors: Tensor) -> Tensor:
        """Vectors (B, T, dim) -> wave (B, 1280 T)."""
        return LOUD * self.decoder(vectors.transpose(1, 2))[:, 0, : vectors.shape[1] * SAMPLES_PER_CODE]

    @torch.inference_mode()
    def encode(self, wave: Tensor) -> Tensor:
        """wave (B, N) at 16 kHz -> codes (B, ceil(N / 1280), codebooks) int64."""
        return self.quantiser(self.latents(wave.to(self.device))).codes

    @torch.inference_mode()
    def frames(self, codes: Tensor) -> Tensor:
        """Codes (B, T, codebooks) -> the vectors that they stand for (B, T, dim)."""
        return self.quantiser.rows(codes.to(self.device))

    def flat(self, codes: Tensor) -> Tensor:
        """Codes (B, T, codebooks) -> (B, T codebooks) in one vocabulary of codebooks * codes, for a token store."""
        return (codes + self.config.codes * torch.arange(self.config.codebooks, device=codes.device)).flatten(1)

    def reader(self, like: CodecConfig) -> SpeechCodec:
        """A `SpeechCodec` for `flat` codes that cannot encode; its recogniser is untrained and has the sizes of `like`.

        Its codebook stacks all codebooks, so that the sum over a frame's codes equals `frames`.
        """
        config = self.config
        codebooks = replace(
            like,
            front="none",
            codes=config.codes * config.codebooks,
            codebooks=config.codebooks,
            code_dim=config.dim,
            levels=(),
        )
        shell = SpeechCodec(codebooks).eval()
        tables = [book.codebook for book in self.quantiser.codebooks]
        with torch.no_grad():
            shell.quantiser.codebook.copy_(torch.cat(tables))
            shell.quantiser.started.fill_(True)
        return shell

    @torch.inference_mode()
    def decode(self, codes: Tensor) -> Tensor:
        """Codes (B, T, codebooks) -> wave (B, 1280 T)."""
        return self.sound(self.frames(codes))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write model.safetensors and config.json."""
        save_whole(folder, self.state_dict(), asdict(self.config))

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "AcousticCodec":
        """Load what `save_pretrained` wrote, in evaluation mode. Raises CheckpointError if it does not fit."""
        make = lambda **settings: cls(AcousticConfig(**settings))  # noqa: E731
        return load_own(AcousticConfig, make, folder, CODEC_CONFIG, CODEC_TENSORS)
