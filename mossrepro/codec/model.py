"""The speech tokenizer: 16 kHz sound -> 12.5 codes a second -> phones and words, trained for recognition only.

    wave -> log-mel -> CausalEncoder -> linear map, norm -> Quantiser -> phones     (linear, the training signal)
            100 Hz      12.5 Hz, D       12.5 Hz, C         12.5 Hz   -> Recogniser -> phones -> Lexicon -> words

arXiv 2510.00499, section on the speech tokenizer: causal Whisper encoder, one codebook, recognition as the only
objective. Sizes differ (Whisper-base instead of large-v3, fewer codes), roles do not.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from mossrepro.codec.encoder import MELS_PER_CODE, CausalEncoder, EncoderState, MelStack
from mossrepro.codec.finite_scalar import FiniteScalarQuantiser
from mossrepro.codec.lexicon import Lexicon
from mossrepro.codec.quantiser import Quantiser
from mossrepro.codec.recogniser import LABELS, STEPS, Recogniser, ctc_labels
from mossrepro.speech.normalise import PHONES
from mossrepro.utils.audio import MelState, streaming_mel, whisper_mel
from mossrepro.utils.errors import AudioError, ConfigError
from mossrepro.utils.old_names import CODEC_CONFIG, CODEC_TENSORS
from mossrepro.utils.packed_linear import pack_linear_layers
from mossrepro.utils.pretrained import load_own
from mossrepro.utils.safetensors_io import save_whole

SAMPLES_PER_CODE = 1_280
SEGMENT = 250  # codes encoded at once (20 s): bounds the memory of a long recording


@dataclass(frozen=True)
class CodecConfig:
    """Everything needed to build the network; plain numbers only."""

    codes: int = 1024  # K, rows of the codebook
    code_dim: int = 64  # C, width of a row
    levels: tuple[int, ...] = ()  # of finite scalar quantisation; their product is `codes`; () for a learnt codebook
    dim: int = 512  # D of the encoder
    heads: int = 8
    ffn_dim: int = 2048
    layers: int = 3  # at 50 Hz
    slow_layers: int = 2  # at 12.5 Hz
    window: int = 100  # look-back of a 50 Hz layer, frames
    slow_window: int = 50  # look-back of a 12.5 Hz layer, codes
    mels: int = 80  # bands; Whisper large-v3 has 128
    plain: bool = False  # as in the released tokenizer: averages of four frames, quantised at the encoder's width
    causal: bool = True  # False: needs whole recordings, as Whisper does; for comparison
    front: str = "whisper"  # "mel": no encoder, for k-means on mel (`kmeans.py`); "none": can only read codes
    codebooks: int = 1  # codes per frame, one after the other; more in the residual stack of `codec/acoustic.py`
    recogniser_dim: int = 384
    recogniser_layers: int = 4
    recogniser_kernel: int = 7
    recogniser_dropout: float = 0.2


def _quantiser(config: CodecConfig) -> Quantiser | FiniteScalarQuantiser:
    """The module that snaps latents to codes. ConfigError when levels and codes do not fit."""
    if not config.levels:
        return Quantiser(config.codes, config.code_dim)
    if math.prod(config.levels) != config.codes:
        raise ConfigError(f"levels {list(config.levels)} make {math.prod(config.levels)} codes, not {config.codes}")
    return FiniteScalarQuantiser(config.levels, config.code_dim)


def _encoder(config: CodecConfig) -> CausalEncoder | MelStack | nn.Identity:
    """The module that turns mel into one vector per code. ConfigError for an unknown front."""
    if config.front == "mel":
        return MelStack()
    if config.front == "none":
        return nn.Identity()
    if config.front != "whisper":
        raise ConfigError(f"front={config.front!r}: choose whisper, mel or none")
    return CausalEncoder(
        config.dim,
        config.heads,
        config.layers,
        config.slow_layers,
        config.window,
        config.slow_window,
        config.ffn_dim,
        mels=config.mels,
        causal=config.causal,
        plain=config.plain,
    )


def _pre_quant_proj(config: CodecConfig) -> nn.Module:
    """Projection of encoder outputs to quantiser inputs. ConfigError when a plain codec has another code_dim."""
    if not config.plain:
        wide = MELS_PER_CODE * config.mels if config.front == "mel" else config.dim
        return nn.Linear(wide, config.code_dim)
    if config.code_dim != config.dim:
        raise ConfigError(f"plain=true quantises {config.dim} numbers as they are, but code_dim is {config.code_dim}")
    return nn.Identity()


class SpeechCodec(nn.Module):
    """Sound to codes, causally, and codes to text."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = _encoder(config)
        self.pre_quant_proj = _pre_quant_proj(config)
        self.quantiser = _quantiser(config)
        self.phones = nn.Linear(config.code_dim, STEPS * (1 + len(PHONES)))
        self.recogniser = Recogniser(
            config.code_dim,
            config.recogniser_dim,
            config.recogniser_layers,
            config.recogniser_kernel,
            config.recogniser_dropout,
        )

    def prepare_for_inference(self, device: torch.device | None = None) -> "SpeechCodec":
        """Move to a device (None: stay), and there pack weights if it is a CPU (`utils/packed_linear.py`).

        No training, saving, copying, moving after. It stays in float32: in another precision codes would differ.
        """
        pack_linear_layers(self.to(device or self.device).encoder)
        return self.eval()

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.phones.weight.device

    def features(self, wave: Tensor) -> Tensor:
        """wave (B, N) at 16 kHz, padded with silence to whole codes -> log-mel (B, mels, 8 ceil(N / 1280))."""
        padded = F.pad(wave, (0, -wave.shape[1] % SAMPLES_PER_CODE))
        return whisper_mel(padded, self.config.causal, self.config.mels)

    def latents(self, mel: Tensor, offsets: Tensor | None = None) -> Tensor:
        """mel (B, mels, 8 T) -> vectors to be quantised (B, T, C), each of length sqrt(C) unless the codec is plain."""
        hidden, _ = self.encoder(mel, offsets=offsets)
        return self.quantiser_input(hidden)

    def quantiser_input(self, hidden: Tensor) -> Tensor:
        """The encoder's output (B, T, D) -> vectors to be quantised (B, T, C)."""
        narrow = self.pre_quant_proj(hidden)
        if self.config.front == "mel" or self.config.plain:
            return narrow
        return F.layer_norm(narrow.to(torch.promote_types(narrow.dtype, torch.float32)), (self.config.code_dim,))

    def phone_logits(self, frames: Tensor) -> Tensor:
        """Quantised frames (B, T, C) -> (B, 4 T, 40): silence and the phones, every 20 ms, each frame on its own."""
        return rearrange(self.phones(frames), "b t (steps phones) -> b (t steps) phones", steps=STEPS)

    @torch.inference_mode()
    def code_phone_probs(self) -> np.ndarray:
        """Probabilities of silence and the phones for every code, (K, 40) float32, rows that sum to 1."""
        return self.phone_logits(self.quantiser.codebook[:, None]).softmax(-1).mean(1).cpu().numpy()

    @torch.inference_mode()
    def encode(self, wave: Tensor, lengths: Tensor | None = None) -> Tensor:
        """wave (B, N) at 16 kHz, lengths (B,) in samples -> codes (B, ceil(N / 1280)) int64.

        A causal codec's code depends on no sample after its own 1,280. The last partial code is padded with silence.
        Past a clip's length every code is -1, whatever the samples there.
        """
        if self.config.front == "none":
            raise ConfigError("this codec only decodes; encode with the codec that wrote the codes")
        device = self.device
        steps = math.ceil(wave.shape[1] / SAMPLES_PER_CODE)
        if steps == 0:
            return torch.zeros(len(wave), 0, dtype=torch.int64, device=device)
        if lengths is not None and not self.config.causal:  # clip by clip: padding would change the codes
            rows = [self.encode(one[None, :n])[0] for one, n in zip(wave, lengths.tolist(), strict=True)]
            rows = [F.pad(row, (0, steps - len(row)), value=-1) for row in rows]
            return torch.stack(rows)
        mel = self.features(wave.to(device))
        state, codes = None, []
        for chunk in mel.split(SEGMENT * MELS_PER_CODE if self.config.causal else mel.shape[2], dim=2):
            part, state = self._encode_mel(chunk, state)
            codes.append(part)
        out = torch.cat(codes, dim=1)
        if lengths is not None:
            ends = (lengths.to(device) + SAMPLES_PER_CODE - 1) // SAMPLES_PER_CODE
            out = out.masked_fill(torch.arange(steps, device=device)[None] >= ends[:, None], -1)
        return out

    def codes_of(self, wave: np.ndarray) -> np.ndarray:
        """`encode` for one recording: samples (n,) at 16 kHz -> codes (ceil(n / 1280),) int64, in main memory."""
        return self.encode(torch.from_numpy(np.asarray(wave, np.float32))[None])[0].cpu().numpy()

    def _encode_mel(self, mel: Tensor, state: EncoderState | None) -> tuple[Tensor, EncoderState]:
        """The next features of a stream (B, mels, 8 T) -> codes (B, T), and the state after them."""
        hidden, state = self.encoder(mel, state)
        return self.quantiser(self.quantiser_input(hidden)).codes, state

    def listen(self, batch: int = 1) -> "EncoderSession":
        """A session that encodes `batch` streams in parallel, chunk by chunk. ConfigError if it is not causal."""
        if self.config.front == "none":
            raise ConfigError("this codec only decodes; encode with the codec that wrote the codes")
        if not self.config.causal:
            raise ConfigError("this codec has causal=false and encodes whole recordings only")
        return EncoderSession(self, batch)

    def frames(self, codes: Tensor) -> Tensor:
        """Codebook rows of codes (B, T) -> (B, T, C); with several codebooks (B, T codebooks) -> their sums."""
        rows = F.embedding(codes.to(self.device).clamp(min=0), self.quantiser.codebook)
        return rows.unflatten(1, (-1, self.config.codebooks)).sum(2)

    def read(self, codes: Tensor, hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Recognise codes (B, T), -1 = padding: log-probabilities (B, 4 T, 40), and lengths (B,).

        With several codebooks T counts frames and codes are (B, T codebooks). hidden (B, T): frames to zero out.
        """
        frames = self.frames(codes)
        if hidden is not None:
            frames = frames.masked_fill(hidden[..., None], 0.0)
        lengths = (codes >= 0).sum(1) // self.config.codebooks
        return self.recogniser(frames, lengths), lengths

    @torch.inference_mode()
    def transcribe(self, codes: Tensor | np.ndarray | list[int], lexicon: Lexicon | None = None) -> list[str]:
        """Codes (B, T) or (T,), -1 = padding -> one text per row (with several codebooks as in `read`).

        With a lexicon: its words, lower case. Without one: the phones ("HH AH L OW").
        """
        rows = torch.as_tensor(codes, dtype=torch.int64, device=self.device)
        rows = rows[None] if rows.dim() == 1 else rows
        if rows.shape[1] == 0:
            return [""] * len(rows)
        scores, lengths = self.read(rows)
        heard = [row[: int(n) * STEPS].cpu() for row, n in zip(scores, lengths, strict=True)]
        if lexicon is None:
            return [" ".join(LABELS[label] for label in ctc_labels(row.argmax(-1))) for row in heard]
        return [" ".join(lexicon.read(row.numpy())) for row in heard]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write model.safetensors and config.json into `folder`, each in one atomic step."""
        save_whole(folder, self.state_dict(), asdict(self.config))

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "SpeechCodec":
        """Load what `save_pretrained` wrote, in evaluation mode. Raises CheckpointError if it does not fit.

        folder: or "pack:teach", as `utils.packs.find_folder` says.
        """
        make = lambda **settings: cls(CodecConfig(**settings))  # noqa: E731
        return load_own(CodecConfig, make, folder, CODEC_CONFIG, CODEC_TENSORS, "codec")


class EncoderSession:
    """Streaming encoder: every code is returned as soon as its 1,280 samples (80 ms) are complete.

    Any chunking gives the codes of `SpeechCodec.encode`. Between chunks it keeps fewer than 1,280 samples, the state of
    the features and that of the encoder, which its windows bound: a chunk costs the same after an hour.

        session = codec.listen()
        for chunk in microphone:  # (n,) float32 at 16 kHz, any n
            codes = session.push(chunk)
        codes = session.close()  # the last, partial one, padded with silence
    """

    def __init__(self, codec: SpeechCodec, batch: int = 1) -> None:
        weight = codec.phones.weight
        self.codec, self.closed = codec, False
        self._waiting = weight.new_zeros(batch, 0)
        self._mel: MelState | None = None
        self._encoder: EncoderState | None = None

    @torch.inference_mode()
    def push(self, chunk: Tensor | np.ndarray) -> Tensor:
        """Samples (n,) or (B, n) at 16 kHz -> the codes that they complete (B, m) int64, m may be 0.

        Raises AudioError for another number of streams, for samples that are not finite, and after `close`.
        """
        if self.closed:
            raise AudioError("this session is closed; open another with `codec.listen()`")
        chunk = torch.as_tensor(chunk)
        chunk = chunk[None] if chunk.dim() == 1 else chunk
        if chunk.dim() != 2 or len(chunk) != len(self._waiting):
            raise AudioError(f"a chunk of shape {tuple(chunk.shape)} for a session of {len(self._waiting)} streams")
        if not chunk.isfinite().all():
            raise AudioError("the chunk holds samples that are not finite numbers (NaN or infinity)")
        wave = torch.cat([self._waiting, chunk.to(self._waiting)], dim=1)
        whole = wave.shape[1] // SAMPLES_PER_CODE * SAMPLES_PER_CODE
        self._waiting = wave[:, whole:]
        parts = [self._codes(part) for part in wave[:, :whole].split(SEGMENT * SAMPLES_PER_CODE, dim=1) if whole]
        return torch.cat(parts, dim=1) if parts else torch.zeros(len(wave), 0, dtype=torch.int64, device=wave.device)

    def _codes(self, wave: Tensor) -> Tensor:
        mel, self._mel = streaming_mel(wave, self._mel, self.codec.config.mels)
        codes, self._encoder = self.codec._encode_mel(mel, self._encoder)
        return codes

    def close(self) -> Tensor:
        """The code of the remaining samples (B, 0 or 1); nothing can be pushed after that."""
        rest = -self._waiting.shape[1] % SAMPLES_PER_CODE
        codes = self.push(self._waiting.new_zeros(len(self._waiting), rest))
        self.closed = True
        return codes
