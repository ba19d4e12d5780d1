"""Open questions, heard: how near is the model to what it would write, had it read the question?

Nats a token of the model's own reply to the written question (greedy, the system turn for sentences), given the
question in writing, spoken by a held-out English voice, or another question in writing. Share closed:
(another - spoken) / (another - written); 0 % is a model that hears nothing, 100 % one that hears as it reads.
"""

import numpy as np
import torch
import torch.nn.functional as F

from mossrepro.data.open_questions import TESTS
from mossrepro.data.script import Line
from mossrepro.evaluation.artifacts import RunArtifacts
from mossrepro.lm import checkpoint
from mossrepro.lm.decode import GenerationConfig, generate
from mossrepro.lm.grid import PROSE, Grid, Positions
from mossrepro.lm.inference import prepare_for_inference
from mossrepro.lm.model import LayerSplitLM
from mossrepro.training import metrics
from mossrepro.utils.io import write_json
from mossrepro.utils.random import rng

_LONGEST, _BATCH, _DRAWS = 48, 16, 2000
_TITLES = {"heard": "heard words in new sentences", "any": "any words"}


def open_answers(artifacts: RunArtifacts) -> None:
    """The share closed on both lists, the nats behind it, and answers.json: question, reply when read, when heard."""
    model, tokenizer = checkpoint.from_pretrained(artifacts.parts["sft"])
    model = prepare_for_inference(model, artifacts.device)
    grid, shown = model.grid(tokenizer), []
    for which in TESTS:
        lines = [line for line in artifacts.lines if line.role == "open_test" and line.set == which]
        if not lines:
            continue
        written = [_prompt(grid, grid.turn("user", text=line.text)) for line in lines]
        spoken = [_prompt(grid, grid.turn("user", codes=artifacts.codes[line.id])) for line in lines]
        replies, heard = (_replies(model, grid, prompts) for prompts in (written, spoken))
        given = {"written": written, "spoken": spoken, "another": written[1:] + written[:1]}
        nats = {name: _nats(model, grid, prompts, replies) for name, prompts in given.items()}
        _record(artifacts, which, nats, lines)
        shown += [
            {"test": which, "question": line.text, "voice": line.voice, "read": read, "heard": listened}
            for line, read, listened in zip(lines, replies, heard, strict=True)
        ]
    write_json(artifacts.out / "answers.json", shown)


def _record(artifacts: RunArtifacts, which: str, nats: dict[str, np.ndarray], lines: list[Line]) -> None:
    title = f"open questions, English strangers, {_TITLES[which]}"
    for name, rows in nats.items():
        value = float(rows[:, 0].sum() / rows[:, 1].sum())
        text = f"{title}: nats a token of the reply, question {name}"
        artifacts.record(metrics.Metric(f"open_{which}_{name}", text, value, "nats", n=len(lines)))

    def closed(rows: np.ndarray) -> float:
        written, spoken, another = (
            nats[n][rows, 0].sum() / nats[n][rows, 1].sum() for n in ("written", "spoken", "another")
        )
        return 100 * float((another - spoken) / (another - written))

    every = np.arange(len(lines))
    random = rng(0, "bootstrap")
    low, high = np.quantile([closed(random.choice(every, len(every))) for _ in range(_DRAWS)], (0.025, 0.975))
    interval = "bootstrap over questions, 95 %"
    text = f"{title}: share of the gap closed"
    artifacts.record(
        metrics.Metric(f"open_{which}_closed", text, closed(every), "%", float(low), float(high), interval, len(lines))
    )


def _prompt(grid: Grid, user: Positions) -> Positions:
    return grid.join(grid.system(False, PROSE), user, grid.reply_prefix(False))


def _replies(model: LayerSplitLM, grid: Grid, prompts: list[Positions]) -> list[str]:
    config, found = GenerationConfig(max_positions=_LONGEST), []
    for i in range(0, len(prompts), _BATCH):
        found += [grid.tokenizer.decode(r.text) for r in generate(model, prompts[i : i + _BATCH], grid.ids, config)]
    return found


@torch.inference_mode()
def _nats(model: LayerSplitLM, grid: Grid, prompts: list[Positions], replies: list[str]) -> np.ndarray:
    """Negative log-likelihood and number of tokens of every reply after its prompt, its end included: (n, 2)."""
    out, device = [], model.text_embed.weight.device
    for prompt, reply in zip(prompts, replies, strict=True):
        whole = grid.join(prompt, grid.text(f"{reply}<|im_end|>"))
        x = torch.from_numpy(np.stack([whole.text, whole.speech], -1))[None].to(device)
        hidden = model(x, tails=("text",)).text[0, len(prompt) - 1 : -1]
        target = x[0, len(prompt) :, 0]
        out.append((float(F.cross_entropy(model.text_head(hidden).float(), target, reduction="sum")), len(target)))
    return np.array(out)
