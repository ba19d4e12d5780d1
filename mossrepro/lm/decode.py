"""The decoding automaton: two heads, one mouth (behaviour of the released MOSS-Speech inference code).

1. The mode starts from the last prompt row: speech if it is SOSP or a code, else text.
2. In text mode the text head is sampled; SOSP switches to speech. In speech mode the speech head is sampled; EOSP
   switches back to text.
3. Speech ids behind EOSP are never sampled, EOSP not before `speech.min_length` codes, the modality pad never as text.
4. In speech mode the text channel is written as modality pad; in text mode the speech channel as speech pad.
5. <|im_end|> or <|endoftext|> in the text channel ends the reply (it also follows EOSP).

A tail whose head is not asked is not run. What the trunk gave it is kept, and when its turn comes it reads all of that
in one pass: the keys and values, and so the answer, are the same as if it had run at every row.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mossrepro.lm.grid import Rows
from mossrepro.lm.model import LayerSplitLM
from mossrepro.lm.tokenizer import SpecialIds
from mossrepro.utils.random import seed_for

CHANNELS = ("text", "speech")


@dataclass(frozen=True)
class SamplingParams:
    """How to draw an id of one channel: temperature 0 is greedy; `top_k` 0 and `top_p` 1 keep everything.

    The channel cannot end before `min_length` ids.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    min_length: int = 0


@dataclass(frozen=True)
class GenerationConfig:
    """How to answer, at most `max_rows` rows long. Sequence i of a batch draws with seed + i: alone, with that seed, it
    says the same. The channels draw independently.
    """

    text: SamplingParams = SamplingParams()
    speech: SamplingParams = SamplingParams(min_length=1)
    max_rows: int = 120
    seed: int = 0


@dataclass
class Reply:
    """One answer: the text ids and the codes it holds, in order of their channels; `ended` is False if rows ran out."""

    text: list[int] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)
    ended: bool = False


def sample_token(
    logits: Tensor, how: SamplingParams, chance: list[torch.Generator], seen: list[list[int]]
) -> list[int]:
    """Draw one id a row: logits (B, V), a generator and the ids said so far for each row."""
    logits = logits.float()
    if how.repetition_penalty != 1.0:
        for row, ids in enumerate(seen):
            past = torch.tensor(sorted(set(ids)), dtype=torch.long, device=logits.device)
            values = logits[row, past]
            penalty = how.repetition_penalty
            logits[row, past] = torch.where(values > 0, values / penalty, values * penalty)
    if how.temperature == 0.0:
        return logits.argmax(-1).tolist()
    probability, order = (logits / how.temperature).softmax(-1).sort(dim=-1, descending=True, stable=True)
    if how.top_k:
        probability[:, how.top_k :] = 0.0
        probability = probability / probability.sum(-1, keepdim=True)
    before = probability.cumsum(-1) - probability
    reached = probability.masked_fill(before > how.top_p, 0.0).cumsum(-1)
    drawn = torch.stack([torch.rand((), generator=one) for one in chance]).to(logits)
    place = torch.searchsorted(reached, (drawn * reached[:, -1])[:, None], right=True)
    last = (reached < reached[:, -1:]).sum(-1, keepdim=True)  # rounding must not lead beyond what is allowed
    return order.gather(-1, torch.minimum(place, last)).squeeze(-1).tolist()


class DecodingState:
    """Modes and replies of a batch. `on_code(i, code)` is called for every code as soon as sequence i has said it."""

    def __init__(
        self,
        prompts: list[Rows],
        ids: SpecialIds,
        how: GenerationConfig,
        on_code: Callable[[int, int], None] | None = None,
    ) -> None:
        self.ids, self.how, self.on_code = ids, how, on_code
        last = [(int(p.text[-1]), int(p.speech[-1])) for p in prompts]
        self.speaking = [t == ids.sosp or (t == ids.pad and s != ids.eosp) for t, s in last]
        self.replies = [Reply() for _ in prompts]
        self.chance = {
            channel: [torch.Generator().manual_seed(seed_for(how.seed + i, channel)) for i in range(len(prompts))]
            for channel in CHANNELS
        }

    def wanted(self) -> dict[str, list[int]]:
        """Channel -> the sequences that go on in it; channels without any are left out."""
        rows = {channel: [] for channel in CHANNELS}
        for i, reply in enumerate(self.replies):
            if not reply.ended:
                rows[CHANNELS[self.speaking[i]]].append(i)
        return {channel: found for channel, found in rows.items() if found}

    def step(self, logits: dict[str, Tensor]) -> Tensor:
        """Move on by the logits (B, V) of the wanted channels: the next row of every sequence, (B, 2)."""
        rows = [(self.ids.end, self.ids.speech_pad)] * len(self.replies)
        for channel, sequences in self.wanted().items():
            allowed = self._allowed(channel, logits[channel][sequences], sequences)
            said = [getattr(self.replies[i], "codes" if channel == "speech" else "text") for i in sequences]
            chance = [self.chance[channel][i] for i in sequences]
            for i, id in zip(sequences, sample_token(allowed, getattr(self.how, channel), chance, said), strict=True):
                rows[i] = self._speak(i, id) if channel == "speech" else self._write(i, id)
        return torch.tensor(rows)

    def _allowed(self, channel: str, logits: Tensor, sequences: list[int]) -> Tensor:
        """A copy of logits, -inf where the automaton must not go."""
        ids, logits = self.ids, logits.clone()
        for row, i in enumerate(sequences):
            reply = self.replies[i]
            if channel == "speech" and len(reply.codes) < self.how.speech.min_length:
                logits[row, ids.eosp] = -torch.inf
            if channel == "text" and len(reply.text) < self.how.text.min_length:
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


def pad_left(prompts: list[Rows], ids: SpecialIds) -> tuple[Tensor, Tensor]:
    """Right-align prompts: -> grid (B, L, 2) and the number of padding rows before each, (B,)."""
    longest = max(len(p) for p in prompts)
    grid = torch.tensor([ids.end, ids.speech_pad]).repeat(len(prompts), longest, 1)
    for i, p in enumerate(prompts):
        grid[i, longest - len(p) :, 0] = torch.from_numpy(p.text)
        grid[i, longest - len(p) :, 1] = torch.from_numpy(p.speech)
    return grid, torch.tensor([longest - len(p) for p in prompts])


class IncrementalDecoder:
    """A model with its caches, reading a batch of left-padded sequences; see the module's text for the idle tails.

    `defer=False` runs both tails at every row, to compare.
    """

    def __init__(self, model: LayerSplitLM, padding: Tensor, capacity: int, defer: bool = True) -> None:
        self.model, self.defer = model, defer
        self.cache = model.new_cache(len(padding), capacity)
        self.place = torch.arange(capacity, device=padding.device)
        self.table = model.rotary((self.place[None] - padding[:, None]).clamp(min=0))
        self.real = (self.place[None] >= padding[:, None]) if padding.any() else None
        self.used = dict.fromkeys(("trunk", *CHANNELS), 0)
        self.missed: dict[str, list[Tensor]] = {channel: [] for channel in CHANNELS}

    def read(self, grid: Tensor) -> None:
        """Read rows (B, n, 2) with the trunk."""
        x = self._run("trunk", self.model.embed(grid))
        for rows in self.missed.values():
            rows.append(x)

    def logits(self, channels: list[str]) -> dict[str, Tensor]:
        """What the heads of these channels say next, (B, V) each."""
        return {name: self._head(name) for name in CHANNELS if name in channels or not self.defer}

    def _head(self, channel: str) -> Tensor:
        model = self.model
        norm, head = getattr(model, f"{channel}_norm"), getattr(model, f"{channel}_head")
        x = self._run(channel, torch.cat(self.missed[channel], 1))
        self.missed[channel] = []
        return head(norm(x[:, -1]))

    def _run(self, part: str, x: Tensor) -> Tensor:
        start, end = self.used[part], self.used[part] + x.shape[1]
        self.used[part] = end
        table = self.table[0][:, :, start:end], self.table[1][:, :, start:end]
        run = self.model.run if part == "trunk" else self.model.channel
        return run(part, x, table, self._mask(start, end), self.cache)

    def _mask(self, start: int, end: int) -> Tensor | None:
        """Where rows start..end may look, (B, 1, n, end); None without padding: plain causal. Padding sees itself."""
        if self.real is None:
            return None
        keys, rows = self.place[:end], self.place[start:end, None]
        return ((keys <= rows) & (self.real[:, None, :end] | (keys == rows)))[:, None]


@torch.inference_mode()
def generate(
    model: LayerSplitLM,
    prompts: list[Rows],
    ids: SpecialIds,
    how: GenerationConfig | None = None,
    on_code: Callable[[int, int], None] | None = None,
    defer: bool = True,
) -> list[Reply]:
    """Answer a batch of prompts of any lengths. Greedy by default, so the same prompt gives the same answer.

    `on_code` and `defer`: see `Automaton` and `Reader`.
    """
    if not prompts:
        return []
    how = how or GenerationConfig()
    device = model.text_embed.weight.device
    grid, padding = (t.to(device) for t in pad_left(prompts, ids))
    reader = IncrementalDecoder(model, padding, grid.shape[1] + how.max_rows, defer)
    state = DecodingState(prompts, ids, how, on_code)
    for _ in range(how.max_rows):
        reader.read(grid)
        grid = state.step(reader.logits([*state.wanted()])).to(device)[:, None]
        if not state.wanted():
            break
    return state.replies
