"""Speaker similarity of two recordings: Resemblyzer's GE2E speaker encoder (arXiv 1710.10467), reimplemented.

Same voice about 0.9, other voices 0.4 to 0.7; numbers of another encoder (the paper's SIM) have another scale.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mossrepro.utils import assets
from mossrepro.utils.audio import SAMPLE_RATE, WHISPER_FFT, WHISPER_HOP, mel_filters
from mossrepro.utils.spectral import hann

BANDS, FRAMES, STRIDE = 40, 160, 80  # a window of 1.6 s, every 0.8 s
VOICE_DIM = 256  # numbers of an embedding
LOUDNESS = -30.0  # dB of full scale, to which every recording is brought (Resemblyzer only makes quiet ones louder)


class SpeakerEncoder(nn.Module):
    """Mel power (B, 160, 40) -> unit vectors (B, 256)."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(BANDS, VOICE_DIM, 3, batch_first=True)
        self.linear = nn.Linear(VOICE_DIM, VOICE_DIM)

    @classmethod
    def pretrained(cls) -> "SpeakerEncoder":
        """The embedded weights. AssetError when their package is missing."""
        state = torch.load(assets.get("speaker"), map_location="cpu", weights_only=True)["model_state"]
        model = cls()
        model.load_state_dict({name: value for name, value in state.items() if not name.startswith("similarity")})
        return model.eval().requires_grad_(False)

    def forward(self, mel: Tensor) -> Tensor:
        """The last layer's state after the last frame, through a linear map and ReLU, of length 1."""
        _, (hidden, _) = self.lstm(mel)
        return F.normalize(F.relu(self.linear(hidden[-1])), dim=-1)

    @torch.inference_mode()
    def embed(self, wave: np.ndarray) -> np.ndarray:
        """A recording (n,) at 16 kHz -> its speaker embedding (256,), the mean over windows, of length 1."""
        samples = torch.from_numpy(np.asarray(wave, np.float32))
        level = 10 * torch.log10(samples.square().mean().clamp(min=1e-12))
        samples = samples * 10 ** ((LOUDNESS - float(level)) / 20)
        power = mel(samples.to(self.linear.weight.device))
        power = F.pad(power, (0, 0, 0, max(0, FRAMES - len(power))))
        starts = range(0, len(power) - FRAMES + 1, STRIDE)
        windows = torch.stack([power[at : at + FRAMES] for at in starts])
        return F.normalize(self(windows).mean(0), dim=0).cpu().numpy()


def mel(wave: Tensor) -> Tensor:
    """Power in 40 slaney bands, 100 frames a second, centred: (n,) -> (frames, 40)."""
    window = hann(WHISPER_FFT, wave.device)
    spectrum = torch.stft(wave, WHISPER_FFT, WHISPER_HOP, window=window, pad_mode="constant", return_complex=True)
    return (mel_filters(SAMPLE_RATE, WHISPER_FFT, BANDS, wave.device) @ spectrum.abs().square()).T


def similarity(encoder: SpeakerEncoder, waves: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> list[float]:
    """Cosine of the speaker embeddings of each pair of 16 kHz recordings."""
    return [float(encoder.embed(one) @ encoder.embed(other)) for one, other in zip(waves, others, strict=True)]
