"""From text to codes in the manner of a speaker: heard sentences without sound.

A model that is to hear needs every word in many voices, and clips that it meets twice it learns by heart. Synthesis
takes half a second of a core for a second of speech; here a small network draws the codes themselves, some hundred
seconds of speech a second, so that no training step need repeat another's sentence. (Large systems train on synthetic
speech tokens too: GLM-4-Voice, arXiv 2412.02612.) It is trained on what the codec makes of recordings, and nobody ever
listens to what it says.

    phones, four a code -> convolutions -> + speaker -> recurrent layer that reads the codes drawn so far -> next code
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from mossrepro.codec.recogniser import LABELS, STEPS, labels
from mossrepro.speech.normalise import normalise
from mossrepro.speech.sphinx import pronunciations
from mossrepro.utils.pretrained import load_own
from mossrepro.utils.safetensors_io import save_whole

SILENCE = 0
FRAME = 0.02  # seconds
_TEMPO = 0.2  # spread of the logarithm of a sentence's pace: lists of words are said slowly, sentences fast
Word = tuple[str, float, float]  # and its start and end in seconds
_KERNEL = 5  # codes: with three layers every code sees half a second to either side


@dataclass(frozen=True)
class TextToCodeConfig:
    """codes: size of the codebook. speakers: voices that it was trained on. dim, layers: of the network."""

    codes: int
    speakers: int
    dim: int = 256
    layers: int = 3


class TextToCode(nn.Module):
    """The network, and how long phones last: log-normal durations of each, and the pace of each speaker."""

    def __init__(self, config: TextToCodeConfig) -> None:
        super().__init__()
        self.config, dim = config, config.dim
        self.phone = nn.Embedding(len(LABELS), dim)
        self.gather = nn.Linear(STEPS * dim, dim)
        self.mix = nn.ModuleList([nn.Conv1d(dim, dim, _KERNEL, padding=_KERNEL // 2) for _ in range(config.layers)])
        self.speaker = nn.Embedding(config.speakers, dim)
        self.previous = nn.Embedding(config.codes + 1, dim)  # the last row: the beginning
        self.recurrent = nn.GRU(dim, dim, batch_first=True)
        self.head = nn.Linear(2 * dim, config.codes)
        # Of the logarithm of a phone's 20 ms frames: mean and standard deviation; row 0: the silence at either end.
        self.register_buffer("durations", torch.zeros(len(LABELS), 2))
        self.register_buffer("pace", torch.zeros(config.speakers))  # mean of it, less what the phones would have
        self.register_buffer("trained", torch.zeros(config.speakers, dtype=torch.bool))  # rows that are somebody's

    def context(self, phones: Tensor, speakers: Tensor) -> Tensor:
        """phones (B, 4 T) int64, speakers (B,) int64 -> what is to be said in every code: (B, T, D)."""
        x = self.gather(rearrange(self.phone(phones), "b (t s) d -> b t (s d)", s=STEPS))
        for layer in self.mix:
            x = x + F.gelu(layer(x.transpose(1, 2))).transpose(1, 2)
        return x + self.speaker(speakers)[:, None]

    def forward(self, phones: Tensor, speakers: Tensor, codes: Tensor) -> Tensor:
        """Logits of every code given those before it: phones (B, 4 T), speakers (B,), codes (B, T) -> (B, T, codes)."""
        wanted = self.context(phones, speakers)
        before = F.pad(codes[:, :-1], (1, 0), value=self.config.codes)
        drawn, _ = self.recurrent(wanted + self.previous(before))
        return self.head(torch.cat((wanted, drawn), -1))

    @torch.inference_mode()
    def sample(self, phones: Sequence[np.ndarray], speakers: Sequence[int], seed: int) -> list[np.ndarray]:
        """Draw the codes of several sentences: phones (4 T,) of each -> its codes (T,) int64."""
        lengths, device = [len(row) // STEPS for row in phones], self.head.weight.device
        rows = nn.utils.rnn.pad_sequence([torch.from_numpy(row).to(device) for row in phones], batch_first=True)
        wanted = self.context(rows, torch.tensor(speakers, device=device))
        generator = torch.Generator().manual_seed(seed)  # in main memory: the same sentences on every device
        code = torch.full((len(rows), 1), self.config.codes, device=device)
        state, out = None, []
        for t in range(wanted.shape[1]):
            now = wanted[:, t : t + 1]
            drawn, state = self.recurrent(now + self.previous(code), state)
            chance = self.head(torch.cat((now, drawn), -1))[:, 0].float().softmax(-1).cpu()
            code = torch.multinomial(chance, 1, generator=generator).to(device)
            out.append(code)
        found = torch.cat(out, 1).cpu().numpy()
        return [row[:length] for row, length in zip(found, lengths, strict=True)]

    def frames(self, text: str, speaker: int, random: np.random.Generator) -> tuple[np.ndarray, list[Word]]:
        """The phone in every 20 ms of a sentence as a speaker might say it: (4 T,) int64, silence at both ends.

        And every word with its start and end in seconds.
        """
        words = normalise(text).split()
        ways = [pronunciations([word])[word] for word in words]
        # Half of the time as the synthesisers say it, else in any way, which may be theirs again.
        said = [labels(way[max(0, int(random.integers(-len(way), len(way))))]) for way in ways]
        phones = np.array([SILENCE, *(phone for word in said for phone in word), SILENCE])
        mean, spread = self.durations.numpy()[phones].T
        pace = float(self.pace[speaker]) + _TEMPO * float(random.standard_normal())
        length = np.exp(mean + pace * (phones != SILENCE) + spread * random.standard_normal(len(phones)))
        ends = np.cumsum(length)
        count = STEPS * max(1, round(ends[-1] / STEPS))
        last = np.cumsum([0, *map(len, said)])  # silence stands before the first phone
        times = [round(float(at), 3) for at in FRAME * ends[last]]
        found = [(word, *times[i : i + 2]) for i, word in enumerate(words)]
        return phones[np.searchsorted(ends, np.arange(count) + 0.5).clip(max=len(phones) - 1)], found

    def save_pretrained(self, folder: str | Path) -> None:
        """Write model.safetensors and config.json into `folder`, each in one atomic step."""
        save_whole(folder, self.state_dict(), asdict(self.config))

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "TextToCode":
        """Load what `save_pretrained` wrote, in evaluation mode. CheckpointError if it does not fit."""
        make = lambda **settings: cls(TextToCodeConfig(**settings))  # noqa: E731
        return load_own(TextToCodeConfig, make, folder, {}, {}).eval()
