"""The decoding automaton: two heads, one mouth (behaviour of the released MOSS-Speech inference code).

1. The mode starts from the last prompt row: speech if it is SOSP or a code, else text.
2. In text mode the text head is sampled; SOSP switches to speech. In speech mode the speech head is sampled; EOSP
   switches back to text.
3. Speech ids behind EOSP are never sampled, EOSP not before `min_codes` codes.
4. In speech mode the text channel is written as modality pad; in text mode the speech channel as speech pad.
5. <|im_end|> or <|endoftext|> in the text channel ends the reply (it also follows EOSP).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mossrepro.lm.model import LayerSplitLM
from mossrepro.training import fast_bfloat16
from mossrepro.vocab import Rows, SpecialIds


def ready(model: LayerSplitLM) -> LayerSplitLM:
    """A model that is to answer: on the accelerator if there is one, in bfloat16 where that is fast."""
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    fast = device.type != "cpu" or fast_bfloat16()
    return model.eval().to(device, torch.bfloat16 if fast else torch.float32)


@dataclass
class Sampling:
    """How to draw a token: temperature 0 is greedy; `top_k` 0 and `top_p` 1 keep everything."""

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    repetition_penalty: float = 1.0
    min_codes: int = 1
    max_rows: int = 120
    seed: int = 0


@dataclass
class Reply:
    """One answer: the text ids and the codes it holds, in order of their channels; `ended` is False if rows ran out."""

    text: list[int]
    codes: list[int]
    ended: bool


def pick(logits: Tensor, how: Sampling, generator: torch.Generator, seen: list[list[int]]) -> Tensor:
    """Draw one id a row: logits (B, V) -> (B,)."""
    logits = logits.float()
    if how.repetition_penalty != 1.0:
        for row, ids in enumerate(seen):
            past = torch.tensor(sorted(set(ids)), dtype=torch.long)
            values = logits[row, past]
            logits[row, past] = torch.where(
                values > 0, values / how.repetition_penalty, values * how.repetition_penalty
            )
    if how.temperature == 0.0:
        return logits.argmax(-1)
    logits = logits / how.temperature
    if how.top_k:
        logits = logits.masked_fill(logits < logits.topk(how.top_k).values[:, -1:], -torch.inf)
    probability, order = logits.softmax(-1).sort(-1, descending=True)
    beyond = probability.cumsum(-1) - probability > how.top_p
    choice = torch.multinomial(probability.masked_fill(beyond, 0.0), 1, generator=generator)
    return order.gather(-1, choice).squeeze(-1)


class _State:
    """The automaton of one batch: modes, what was said so far, and the next input row of every sequence."""

    def __init__(self, prompts: list[Rows], ids: SpecialIds, how: Sampling) -> None:
        self.ids, self.how = ids, how
        last = [(int(p.text[-1]), int(p.speech[-1])) for p in prompts]
        self.speaking = [t == ids.sosp or (t == ids.pad and s != ids.eosp) for t, s in last]
        self.replies = [Reply([], [], False) for _ in prompts]

    def step(
        self, text_logits: Tensor, speech_logits: Tensor, generators: tuple[torch.Generator, torch.Generator]
    ) -> Tensor:
        """Choose the next row of every sequence, (B, 2), and move the modes on."""
        ids = self.ids
        speech_logits = speech_logits.clone()
        speech_logits[:, ids.eosp + 1 :] = -torch.inf
        for row, reply in enumerate(self.replies):
            if len(reply.codes) < self.how.min_codes:
                speech_logits[row, ids.eosp] = -torch.inf
        text = pick(text_logits.clone(), self.how, generators[0], [r.text for r in self.replies]).tolist()
        speech = pick(speech_logits, self.how, generators[1], [r.codes for r in self.replies]).tolist()
        rows = []
        for i, reply in enumerate(self.replies):
            if reply.ended:
                rows.append((ids.end, ids.speech_pad))
            elif self.speaking[i]:
                rows.append((ids.pad, speech[i]))
                if speech[i] == ids.eosp:
                    self.speaking[i] = False
                else:
                    reply.codes.append(speech[i])
            else:
                rows.append((text[i], ids.speech_pad))
                if text[i] in (ids.im_end, ids.end):
                    reply.ended = True
                elif text[i] == ids.sosp:
                    self.speaking[i] = True
                else:
                    reply.text.append(text[i])
        return torch.tensor(rows)


def pad_left(prompts: list[Rows], ids: SpecialIds) -> tuple[Tensor, Tensor]:
    """Right-align prompts: -> grid (B, L, 2) and the number of padding rows before each, (B,)."""
    longest = max(len(p) for p in prompts)
    grid = torch.tensor([ids.end, ids.speech_pad]).repeat(len(prompts), longest, 1)
    for i, p in enumerate(prompts):
        grid[i, longest - len(p) :, 0] = torch.from_numpy(p.text)
        grid[i, longest - len(p) :, 1] = torch.from_numpy(p.speech)
    return grid, torch.tensor([longest - len(p) for p in prompts])


@torch.inference_mode()
def generate(model: LayerSplitLM, prompts: list[Rows], ids: SpecialIds, how: Sampling | None = None) -> list[Reply]:
    """Answer a batch of prompts of any lengths. Greedy by default, so the same prompt gives the same answer."""
    how = how or Sampling()
    device = model.text_embed.weight.device
    grid, padding = (t.to(device) for t in pad_left(prompts, ids))
    b, n, _ = grid.shape
    cache = model.new_cache(b, n + how.max_rows)
    generators = tuple(torch.Generator(device).manual_seed(how.seed + channel) for channel in (0, 1))
    state = _State(prompts, ids, how)
    key = torch.arange(n + how.max_rows, device=device)
    real = key[None] >= padding[:, None]  # (B, keys): rows that are not padding
    row = key[:n]
    causal = (key[None, :n] <= row[:, None])[None] & (real[:, None, :n] | (key[None, :n] == row[:, None])[None])
    hidden = model(grid, (row[None] - padding[:, None]).clamp(min=0), causal[:, None], cache)
    for _ in range(how.max_rows):
        logits = model.text_head(hidden.text[:, -1]), model.speech_head(hidden.speech[:, -1])
        rows = state.step(*logits, generators).to(device)
        if all(reply.ended for reply in state.replies):
            break
        end = cache.used + 1
        if end > n + how.max_rows:
            break
        position = (end - 1 - padding)[:, None]
        hidden = model(rows[:, None], position, real[:, None, None, :end], cache)
    return state.replies
