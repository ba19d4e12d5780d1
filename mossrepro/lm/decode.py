"""Decoding: one sequence, sampled from the text head or the speech head (as the released inference code does).

1. The mode starts from the last position of the prompt: speech if it is SOSP or a code, else text.
2. In text mode the text head is sampled; SOSP switches to speech. In speech mode the speech head is sampled; EOSP
   switches back to text.
3. Speech ids after EOSP are never sampled, EOSP not before `speech.min_length` codes, the modality pad never as text.
4. In speech mode the text channel is written as modality pad; in text mode the speech channel as speech pad.
5. <|im_end|> or <|endoftext|> in the text channel ends the reply (it also follows EOSP).

A tail is run only when its head is sampled. The trunk's outputs since its last run are kept until then, and the tail
processes all of them in one pass: its keys and values, and so the answer, are those of a tail run at every position.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mossrepro.lm.grid import Positions
from mossrepro.lm.model import LayerSplitLM
from mossrepro.lm.mouth import reply_starts
from mossrepro.lm.tokenizer import SpecialIds
from mossrepro.utils.random import seed_for

CHANNELS = ("text", "speech")


@dataclass(frozen=True)
class SamplingParams:
    """How to sample one channel: temperature 0 is greedy; `top_k` 0 and `top_p` 1 keep every candidate.

    The channel cannot end before it has `min_length` ids.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    min_length: int = 0


@dataclass(frozen=True)
class GenerationConfig:
    """How to sample an answer of at most `max_positions` positions.

    Sequence i of a batch is sampled with seed + i, so that it gives the same answer alone with that seed. The two
    channels have random streams of their own.
    """

    text: SamplingParams = SamplingParams()
    speech: SamplingParams = SamplingParams(min_length=1)
    max_positions: int = 120
    seed: int = 0


@dataclass
class Reply:
    """One answer: its text ids and its codes, each in order.

    `ended` is False if it was cut off at `max_positions`, before EOSP in speech or <|im_end|> in text.
    """

    text: list[int] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    ended: bool = False


def sample_token(
    logits: Tensor, sampling: SamplingParams, chance: list[torch.Generator], seen: list[list[int]]
) -> list[int]:
    """Sample one id for each sequence: logits (B, V), a generator and the ids so far for each -> B ids."""
    logits = logits.float()
    if sampling.repetition_penalty != 1.0:
        for row, ids in enumerate(seen):
            past = torch.tensor(sorted(set(ids)), dtype=torch.long, device=logits.device)
            values = logits[row, past]
            penalty = sampling.repetition_penalty
            logits[row, past] = torch.where(values > 0, values / penalty, values * penalty)
    if sampling.temperature == 0.0:
        return logits.argmax(-1).tolist()
    probability, order = (logits / sampling.temperature).softmax(-1).sort(dim=-1, descending=True, stable=True)
    if sampling.top_k:
        probability[:, sampling.top_k :] = 0.0
        probability = probability / probability.sum(-1, keepdim=True)
    before = probability.cumsum(-1) - probability
    reached = probability.masked_fill(before > sampling.top_p, 0.0).cumsum(-1)
    drawn = torch.stack([torch.rand((), generator=one) for one in chance]).to(logits)
    place = torch.searchsorted(reached, (drawn * reached[:, -1])[:, None], right=True)
    last = (reached < reached[:, -1:]).sum(-1, keepdim=True)  # rounding must not lead past the last candidate
    return order.gather(-1, torch.minimum(place, last)).squeeze(-1).tolist()


class DecodingState:
    """Modes and replies of a batch. `on_code(i, code)` is called for every code that sequence i samples, at once."""

    def __init__(
        self,
        prompts: list[Positions],
        ids: SpecialIds,
        config: GenerationConfig,
        on_code: Callable[[int, int], None] | None = None,
    ) -> None:
        self.ids, self.config, self.on_code = ids, config, on_code
        last = [(int(p.text[-1]), int(p.speech[-1])) for p in prompts]
        self.speaking = [t == ids.sosp or (t == ids.pad and s != ids.eosp) for t, s in last]
        self.replies = [Reply() for _ in prompts]
        self.chance = {
            channel: [torch.Generator().manual_seed(seed_for(config.seed + i, channel)) for i in range(len(prompts))]
            for channel in CHANNELS
        }

    def wanted(self) -> dict[str, list[int]]:
        """Channel -> the sequences that are sampled from it next; channels without any are left out."""
        wanted = {channel: [] for channel in CHANNELS}
        for i, reply in enumerate(self.replies):
            if not reply.ended:
                wanted[CHANNELS[self.speaking[i]]].append(i)
        return {channel: found for channel, found in wanted.items() if found}

    def step(self, logits: dict[str, Tensor]) -> Tensor:
        """Sample from the logits (B, V) of the wanted channels: text and speech id of every sequence's next position.

        Returns (B, 2) int64. A sequence that has ended gets padding.
        """
        following = [(self.ids.end, self.ids.speech_pad)] * len(self.replies)
        for channel, sequences in self.wanted().items():
            allowed = self._allowed(channel, logits[channel][sequences], sequences)
            so_far = [getattr(self.replies[i], "codes" if channel == "speech" else "text") for i in sequences]
            chance = [self.chance[channel][i] for i in sequences]
            sampling = getattr(self.config, channel)
            for i, id in zip(sequences, sample_token(allowed, sampling, chance, so_far), strict=True):
                following[i] = self._speak(i, id) if channel == "speech" else self._write(i, id)
        return torch.tensor(following)

    def _allowed(self, channel: str, logits: Tensor, sequences: list[int]) -> Tensor:
        """A copy of the logits with -inf for the ids that rules 3 and `min_length` forbid."""
        ids, logits = self.ids, logits.clone()
        for row, i in enumerate(sequences):
            reply = self.replies[i]
            if channel == "speech" and len(reply.codes) < self.config.speech.min_length:
                logits[row, ids.eosp] = -torch.inf
            if channel == "text" and len(reply.text) < self.config.text.min_length:
                logits[row, [ids.im_end, ids.end]] = -torch.inf
        if channel == "speech":
            logits[:, ids.eosp + 1 :] = -torch.inf
        else:
            logits[:, ids.pad] = -torch.inf
        return logits

    def _speak(self, i: int, code: int) -> tuple[int, int]:
        if code == self.ids.eosp:
            self.speaking[i] = False
        else:
            self.replies[i].codes.append(code)
            if self.on_code:
                self.on_code(i, code)
        return self.ids.pad, code

    def _write(self, i: int, id: int) -> tuple[int, int]:
        if id in (self.ids.im_end, self.ids.end):
            self.replies[i].ended = True
        elif id == self.ids.sosp:
            self.speaking[i] = True
        else:
            self.replies[i].text.append(id)
        return id, self.ids.speech_pad


def pad_left(prompts: list[Positions], ids: SpecialIds) -> tuple[Tensor, Tensor]:
    """Right-align prompts: -> grid (B, L, 2) and the number of padding positions before each, (B,)."""
    longest = max(len(p) for p in prompts)
    grid = torch.tensor([ids.end, ids.speech_pad]).repeat(len(prompts), longest, 1)
    for i, p in enumerate(prompts):
        grid[i, longest - len(p) :, 0] = torch.from_numpy(p.text)
        grid[i, longest - len(p) :, 1] = torch.from_numpy(p.speech)
    return grid, torch.tensor([longest - len(p) for p in prompts])


class IncrementalDecoder:
    """A model with its key-value caches, on a batch of left-padded sequences.

    A tail is run only when its head is sampled; `defer=False` runs both at every position, to compare.
    """

    def __init__(self, model: LayerSplitLM, padding: Tensor, capacity: int, defer: bool = True) -> None:
        self.model, self.defer = model, defer
        self.cache = model.new_cache(len(padding), capacity)
        self.place = torch.arange(capacity, device=padding.device)
        self.real = self.place[None] >= padding[:, None]  # (B, capacity): what is looked at
        self.plain = not padding.any()  # all of it is
        self.table = model.rotary(self._positions())
        self.used = dict.fromkeys(("trunk", *CHANNELS, "mouth"), 0)
        self.missed: dict[str, list[Tensor]] = {channel: [] for channel in CHANNELS}
        self.unsaid: list[Tensor] = []  # the positions that a mouth has not seen yet
        self.starts = torch.full((len(padding), capacity), -1, device=padding.device)  # see `reply_starts`

    def read(self, grid: Tensor) -> None:
        """Run the trunk on the next positions, grid (B, n, 2), and keep its outputs for the tails."""
        if self.model.mouth is not None:
            first, sosp = self.used["trunk"], self.model.config.speech_from
            before = self.starts[:, first - 1] if first else None
            found = reply_starts(grid[..., 0], sosp, first, before)
            self.starts[:, first : first + found.shape[1]] = found
            self.unsaid.append(grid)
        x = self.model.embed(grid)
        if (passed := self.model.passed()) is not None:  # codes at which an inner ear names nothing are like padding
            first = self.used["trunk"]
            self.real[:, first : first + grid.shape[1]] &= ~passed
            self.plain, self.table = False, self.model.rotary(self._positions())
        x = self._run("trunk", x)
        for waiting in self.missed.values():
            waiting.append(x)

    def logits(self, channels: list[str]) -> dict[str, Tensor]:
        """The logits of these channels for the next position, (B, V) each."""
        return {name: self._head(name) for name in CHANNELS if name in channels or not self.defer}

    def _head(self, channel: str) -> Tensor:
        model = self.model
        norm, head = getattr(model, f"{channel}_norm"), getattr(model, f"{channel}_head")
        x = self._run(channel, torch.cat(self.missed[channel], 1))
        self.missed[channel] = []
        if channel == "speech" and model.mouth is not None:
            grid, self.unsaid = torch.cat(self.unsaid, 1), []
            x = self._run("mouth", x, grid)
        return head(norm(x[:, -1]))

    def _run(self, part: str, x: Tensor, grid: Tensor | None = None) -> Tensor:
        start, end = self.used[part], self.used[part] + x.shape[1]
        self.used[part] = end
        table = self.table[0][:, :, start:end], self.table[1][:, :, start:end]
        mask = self._mask(start, end, part)
        if grid is not None:
            return self.model.say(x, grid, table, mask, self.cache)
        run = self.model.run if part == "trunk" else self.model.channel
        return run(part, x, table, mask, self.cache)

    def _positions(self) -> Tensor:
        """(B, capacity): what is looked at, counted from 0."""
        return (self.real.cumsum(1) - 1).clamp(min=0)

    def _mask(self, start: int, end: int, part: str) -> Tensor | None:
        """The attention mask of positions start..end, (B, 1, n, end); None without padding, which is plain causal.

        Padding attends to itself, so that its softmax is defined.
        """
        if self.plain and part != "mouth":
            return None
        keys, queries = self.place[:end], self.place[start:end, None]
        seen = (keys <= queries)[None]
        if not self.plain:
            seen = seen & (self.real[:, None, :end] | (keys == queries))
        if part == "mouth":
            seen = seen & (keys >= self.starts[:, start:end, None])
        return seen[:, None]


@torch.inference_mode()
def generate(
    model: LayerSplitLM,
    prompts: list[Positions],
    ids: SpecialIds,
    config: GenerationConfig | None = None,
    on_code: Callable[[int, int], None] | None = None,
    defer: bool = True,
) -> list[Reply]:
    """Answer a batch of prompts of any lengths. Greedy by default, so the same prompt gives the same answer.

    `on_code`: see `DecodingState`; `defer`: see `IncrementalDecoder`.
    """
    if not prompts:
        return []
    config = config or GenerationConfig()
    device = model.text_embed.weight.device
    grid, padding = (t.to(device) for t in pad_left(prompts, ids))
    decoder = IncrementalDecoder(model, padding, grid.shape[1] + config.max_positions, defer)
    state = DecodingState(prompts, ids, config, on_code)
    for _ in range(config.max_positions):
        decoder.read(grid)
        grid = state.step(decoder.logits([*state.wanted()])).to(device)[:, None]
        if not state.wanted():
            break
    for reply, code in zip(state.replies, grid[:, -1, 1].tolist(), strict=True):
        reply.ended |= code == ids.eosp  # all was said, only <|im_end|> found no place
    return state.replies
