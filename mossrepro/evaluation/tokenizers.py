"""One interface for everything that turns speech into codes, so that `codec.py` measures all alike."""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from mossrepro.codec.acoustic import AcousticCodec
from mossrepro.codec.model import SAMPLES_PER_CODE, SpeechCodec
from mossrepro.data.token_store import TokenStore
from mossrepro.utils.audio import SAMPLE_RATE, resample
from mossrepro.utils.devices import best_device
from mossrepro.utils.errors import CheckpointError, DataError
from mossrepro.vocoder.speech_decoder import SpeechDecoder

ENCODEC_RATE = 24_000
PUBLISHED = "d7cc33bc"  # how the SHA-256 of EnCodec's own weights begins


@dataclass
class Tokenizer:
    """A tokenizer under test.

    encode: wave (n,) at 16 kHz -> codes (T codebooks,) int64. decode: several rows of codes -> 16 kHz waves, None where
    there is no decoder. recogniser: a codec whose recogniser is trained on these codes, or None. store: codes of the
    whole corpus. weights: SHA-256 of the weights of an external model.
    """

    name: str  # of its facts
    title: str
    encode: Callable[[np.ndarray], np.ndarray]
    bits: float  # a second
    streams: bool  # causal
    recogniser: SpeechCodec | None = None
    store: TokenStore | None = None
    decode: Callable[[list[np.ndarray]], list[np.ndarray]] | None = None
    weights: str = ""
    minutes: float | None = None  # that its training took, where it was trained here

    @property
    def codebooks(self) -> int:
        return self.recogniser.config.codebooks if self.recogniser else 1


def semantic(
    name: str,
    title: str,
    reader: str | Path,
    store: str | Path | None = None,
    speaker: SpeechDecoder | None = None,
    device: torch.device | None = None,
) -> Tokenizer:
    """A `SpeechCodec` on a device (default: `best_device`): ours, ours with another objective, or k-means on mel.

    Without the codes of its corpus (`store`) only errors and speed can be measured.
    """
    codec = SpeechCodec.from_pretrained(reader).prepare_for_inference(device or best_device())

    def decode(rows: list[np.ndarray]) -> list[np.ndarray]:
        return [resample(wave, speaker.vocoder.rate, SAMPLE_RATE) for wave in speaker.speak_all(rows)]

    bits = SAMPLE_RATE / SAMPLES_PER_CODE * math.log2(codec.config.codes)
    back = decode if speaker else None
    kept = TokenStore(store) if store else None
    return Tokenizer(name, title, codec.codes_of, bits, codec.config.causal, codec, kept, back)


def acoustic_encoder(codec: AcousticCodec) -> Callable[[np.ndarray], np.ndarray]:
    """`Tokenizer.encode` of the SEANet baseline: the codes of all codebooks in one vocabulary."""
    return lambda wave: codec.flat(codec.encode(torch.from_numpy(wave)[None]))[0].cpu().numpy()


def acoustic(
    name: str,
    title: str,
    folder: str | Path,
    reader: str | Path,
    store: str | Path,
    device: torch.device | None = None,
) -> Tokenizer:
    """The SEANet baseline, with the recogniser that was trained on its codes (`AcousticCodec.reader`).

    Both are on a device (default: `best_device`).
    """
    device = device or best_device()
    codec = AcousticCodec.from_pretrained(folder).to(device)
    codebooks = codec.config.codebooks

    def decode(rows: list[np.ndarray]) -> list[np.ndarray]:
        tables = [torch.from_numpy(row.reshape(-1, codebooks)) % codec.config.codes for row in rows]
        return [codec.decode(table[None])[0].cpu().numpy() for table in tables]

    read = SpeechCodec.from_pretrained(reader).to(device)
    store = TokenStore(store)
    return Tokenizer(name, title, acoustic_encoder(codec), codec.bits_per_second, True, read, store, decode)


def encodec(weights: str | Path, kbps: float = 1.5, device: torch.device | None = None) -> Tokenizer:
    """EnCodec at 24 kHz from its published weights (encodec_24khz-d7cc33bc.th), at 1.5 kbit/s and its own 75 frames.

    It runs on a device (default: `best_device`). Raises CheckpointError when the file is not that model, DataError when
    it is not there. The published file's name holds the beginning of its SHA-256; another file of the same shape is
    measured too, and its title says so.
    """
    from encodec import EncodecModel

    if not Path(weights).is_file():
        raise DataError(f"{weights}: no such file; EnCodec's weights are encodec_24khz-d7cc33bc.th")
    model = EncodecModel.encodec_model_24khz(pretrained=False).eval()
    try:
        model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    except Exception as error:  # a pickle with code in it, another model, no model at all
        raise CheckpointError(f"{weights}: not EnCodec's 24 kHz weights ({str(error).splitlines()[0]})") from error
    device = device or best_device()
    model.to(device).set_target_bandwidth(kbps)

    @torch.inference_mode()
    def encode(wave: np.ndarray) -> np.ndarray:
        sound = torch.from_numpy(resample(wave, SAMPLE_RATE, ENCODEC_RATE))[None, None].to(device)
        ((codes, _),) = model.encode(sound)
        return codes[0].T.flatten().cpu().numpy()  # frame by frame

    @torch.inference_mode()
    def decode(rows: list[np.ndarray]) -> list[np.ndarray]:
        codebooks = model.quantizer.get_num_quantizers_for_bandwidth(model.frame_rate, kbps)
        tables = [torch.from_numpy(row.reshape(-1, codebooks).T.copy())[None] for row in rows]
        waves = [model.decode([(table.to(device), None)])[0, 0].cpu().numpy() for table in tables]
        return [resample(wave, ENCODEC_RATE, SAMPLE_RATE) for wave in waves]

    with open(weights, "rb") as file:
        sha = hashlib.file_digest(file, "sha256").hexdigest()
    title = f"EnCodec 24 kHz, {kbps:g} kbit/s" + ("" if sha.startswith(PUBLISHED) else ", other weights")
    return Tokenizer("encodec", title, encode, 1000 * kbps, True, decode=decode, weights=sha)
