"""Spoken question answering in the four pairings on the sets A, B, V and C (paper, table on spoken QA)."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from mossrepro.data.documents import question_prompt
from mossrepro.data.facts import Fact, answered
from mossrepro.data.script import Line
from mossrepro.facts import Fact as Measured
from mossrepro.facts import wilson
from mossrepro.lm.decode import Reply, Sampling, generate
from mossrepro.lm.model import LayerSplitLM
from mossrepro.order import rng
from mossrepro.vocab import Grid
from mossrepro.voices import pronounced

BATCH = 32
ROWS = {"T": 16, "S": 50}  # the longest reply that is waited for
HEADLINE = {"S2S": "speech → speech", "S2T": "speech → text", "T2S": "text → speech", "T2T": "text → text"}


@dataclass
class Asked:
    """One question with what came back: `heard` is the reply's text, or what the judge heard of its sound."""

    line: Line
    fact: Fact
    reply: Reply
    heard: str
    right: bool
    wave: np.ndarray | None = None


def ask(
    model: LayerSplitLM,
    grid: Grid,
    lines: list[Line],
    facts: Mapping[str, Fact],
    codes: Mapping[str, np.ndarray],
    pairing: str,
    speak: Callable[[list[list[int]]], list[np.ndarray]] | None = None,
    transcribe: Callable[[list[np.ndarray]], list[str]] | None = None,
) -> list[Asked]:
    """Put questions to the model and judge the answers by free transcription.

    `codes` maps line ids to (n,) arrays; `speak` turns the codes of several answers into 16 kHz samples; `transcribe`
    is the judge. The last two are needed for spoken answers only.
    """
    how, out = Sampling(max_rows=ROWS[pairing[2]]), []
    for i in range(0, len(lines), BATCH):
        part = lines[i : i + BATCH]
        prompts = [
            question_prompt(grid, pairing, line.text, codes[line.id] if pairing[0] == "S" else None) for line in part
        ]
        for line, reply in zip(part, generate(model, prompts, grid.ids, how), strict=True):
            heard = grid.tokenizer.decode(reply.text) if pairing[2] == "T" else ""
            out.append(Asked(line, facts[line.fact], reply, heard, False))
    if pairing[2] == "S":
        voiced = [one for one in out if one.reply.codes]
        waves = speak([one.reply.codes for one in voiced]) if voiced else []
        for one, wave, heard in zip(voiced, waves, transcribe(waves) if voiced else [], strict=True):
            one.wave, one.heard = wave, heard
    for one in out:
        one.right = (said if pairing[2] == "S" else answered)(one.fact, one.heard)
    return out


def said(fact: Fact, heard: str) -> bool:
    """Is the answer in what the judge wrote down? Sound has no spelling: cell is right for sell, Sophia for Sofia."""
    if answered(fact, heard):
        return True
    wanted, words = "".join(pronounced(fact.answer)), pronounced(heard)
    runs = ("".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, len(words) + 1))
    return any(run == wanted for run in runs)


def score(name: str, pairing: str, asked: list[Asked]) -> Measured:
    """Share of right answers with its Wilson interval, in per cent."""
    k, n = sum(one.right for one in asked), len(asked)
    low, high = wilson(k, n)
    return Measured(
        id=f"{pairing.lower()}_{name.lower()}",
        name=f"{HEADLINE[pairing]} on {name}",
        value=100 * k / max(n, 1),
        unit="%",
        low=100 * low,
        high=100 * high,
        interval="Wilson 95 %",
        n=n,
    )


def chance(lines: list[Line], facts: Mapping[str, Fact]) -> float:
    """What always giving the most frequent answer of a question's family would score, as a share."""
    answers = defaultdict(Counter)
    for line in lines:
        answers[facts[line.fact].family][facts[line.fact].answer] += 1
    return sum(counter.most_common(1)[0][1] for counter in answers.values()) / max(len(lines), 1)


def gain(name: str, pairing: str, asked: list[Asked], baseline: float) -> Measured:
    """Points above chance; the interval is a bootstrap over *facts*, since questions about one fact go together."""
    by_fact = defaultdict(list)
    for one in asked:
        by_fact[one.fact.key].append(one.right)
    shares = [np.mean(v) for v in by_fact.values()]
    random = rng(0, "bootstrap", pairing, name)
    means = [np.mean(random.choice(shares, len(shares))) for _ in range(2000)] if shares else [0.0]
    low, high = np.quantile(means, (0.025, 0.975))
    return Measured(
        id=f"{pairing.lower()}_{name.lower()}_gain",
        name=f"{HEADLINE[pairing]} on {name}, points above chance",
        value=100 * (float(np.mean([one.right for one in asked])) - baseline),
        unit="points",
        low=100 * (float(low) - baseline),
        high=100 * (float(high) - baseline),
        interval="bootstrap over facts 95 %",
        n=len(asked),
    )
