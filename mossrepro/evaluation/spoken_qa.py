"""Spoken question answering in the four pairings on the sets A, B, V and C (paper, table on spoken QA)."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from mossrepro.data.facts import Fact, answered, family_of
from mossrepro.data.script import Line
from mossrepro.lm.decode import GenerationConfig, Reply, generate
from mossrepro.lm.grid import Grid, question_prompt
from mossrepro.lm.model import LayerSplitLM
from mossrepro.speech.roster import group_of
from mossrepro.speech.voices import pronounced
from mossrepro.training.metrics import Metric as Measured
from mossrepro.training.metrics import wilson
from mossrepro.utils.random import rng

BATCH = 32
ROWS = {"T": 16, "S": 50}  # at most, of a reply
GROUPS = {"english": "English voices", "accents": "voices with an accent", "strangers": "the other held-out voices"}
NO_STEMS = "no_stems"  # a part of the questions: those of families whose answers do not keep the subject's stem
UNDERSTOOD = "understood"  # another part: those whose answer is read right off its recording (`one_word.understood`)
_PARTS = {group: f", asked by {who}" for group, who in GROUPS.items()}
_PARTS |= {NO_STEMS: ", stem families left out", UNDERSTOOD: ", answers that are read right when recorded"}
INTERVAL = "Wilson 95 %, questions about one fact together"
HEADLINE = {"S2S": "speech → speech", "S2T": "speech → text", "T2S": "text → speech", "T2T": "text → text"}


@dataclass
class Asked:
    """One question with what came back: `heard` is the reply's text, or what was made out of its codes."""

    line: Line
    fact: Fact
    reply: Reply
    heard: str
    right: bool


def ask(
    model: LayerSplitLM,
    grid: Grid,
    lines: list[Line],
    facts: Mapping[str, Fact],
    codes: Mapping[str, np.ndarray],
    pairing: str,
    hear: Callable[[list[list[int]]], list[str]] | None = None,
    text_guidance: bool = False,
) -> list[Asked]:
    """Ask the model and judge its spoken answers by free transcription.

    `codes` maps line ids to (n,) arrays. `hear`, for spoken answers only, makes text of the codes of several: the judge
    on their sound, or the codec's recogniser. `text_guidance`: the model writes a spoken answer before it says it; what
    it says is judged all the same.
    """
    config, out = GenerationConfig(max_positions=ROWS[pairing[2]] + text_guidance * ROWS["T"]), []
    for i in range(0, len(lines), BATCH):
        part = lines[i : i + BATCH]
        prompts = [
            question_prompt(grid, pairing, line.text, codes[line.id] if pairing[0] == "S" else None, text_guidance)
            for line in part
        ]
        for line, reply in zip(part, generate(model, prompts, grid.ids, config), strict=True):
            heard = grid.tokenizer.decode(reply.text).strip() if pairing[2] == "T" else ""
            out.append(Asked(line, facts[line.fact], reply, heard, False))
    return listened(out, facts, hear) if pairing[2] == "S" else judged(out, pairing, facts)


def listened(
    asked: list[Asked], facts: Mapping[str, Fact], hear: Callable[[list[list[int]]], list[str]]
) -> list[Asked]:
    """The same spoken replies as `hear` makes them out, right or wrong; a reply without a code is wrong."""
    voiced = [one for one in asked if one.reply.codes]
    texts = hear([one.reply.codes for one in voiced]) if voiced else []
    heard = {id(one): text for one, text in zip(voiced, texts, strict=True)}
    return judged([replace(one, heard=heard.get(id(one), "")) for one in asked], "T2S", facts)


def judged(asked: list[Asked], pairing: str, facts: Mapping[str, Fact]) -> list[Asked]:
    """The same replies, right or wrong by `facts`."""
    right = said if pairing[2] == "S" else answered
    known = [(one, facts[one.line.fact]) for one in asked]
    return [replace(one, fact=fact, right=right(fact, one.heard)) for one, fact in known]


def said(fact: Fact, heard: str) -> bool:
    """Is the answer in what the judge wrote down? Homophones count as right: cell for sell, Sophia for Sofia."""
    if answered(fact, heard):
        return True
    wanted, words = "".join(pronounced(fact.answer)), pronounced(heard)
    runs = ("".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, len(words) + 1))
    return any(run == wanted for run in runs)


def interval(asked: list[Asked]) -> tuple[float, float, float]:
    """Share of right answers and its Wilson interval, as fractions, with the effective number of questions.

    Questions about one fact go together, so n is divided by the design effect: the variance between facts over that of
    independent questions. Where all answers are right, or all wrong, that cannot be seen and each fact counts once.
    """
    by_fact = defaultdict(list)
    for one in asked:
        by_fact[one.fact.key].append(one.right)
    n, groups = len(asked), len(by_fact)
    share = sum(one.right for one in asked) / max(n, 1)
    worth = float(groups)
    if 0 < share < 1 and groups > 1:
        apart = sum((sum(rights) - share * len(rights)) ** 2 for rights in by_fact.values())
        between = groups / (groups - 1) * apart / n**2
        worth = n / max(1.0, between / (share * (1 - share) / n))
    return share, *wilson(share * worth, worth)


def by_group(asked: list[Asked]) -> dict[str, list[Asked]]:
    """The same replies by the group of voices that asked (`speech.roster`); nothing where there is only one group."""
    groups = defaultdict(list)
    for one in asked:
        groups[group_of(one.line.voice)].append(one)
    return dict(groups) if len(groups) > 1 else {}


def without_stems(asked: list[Asked]) -> list[Asked]:
    """The replies to questions of families whose answers do not keep the stem of their subject (`Family.stem`)."""
    return [one for one in asked if not family_of(one.fact).stem]


def by_family(name: str, pairing: str, asked: list[Asked]) -> list[dict]:
    """The rows of families.json: set, pairing, family, stem, and how many facts, questions and right answers."""
    rows = defaultdict(list)
    for one in asked:
        rows[one.fact.family].append(one)
    return [
        {
            "set": name,
            "pairing": pairing,
            "family": family,
            "stem": family_of(some[0].fact).stem,
            "facts": len({one.fact.key for one in some}),
            "questions": len(some),
            "right": sum(one.right for one in some),
        }
        for family, some in sorted(rows.items())
    ]


def score(name: str, pairing: str, asked: list[Asked], part: str = "") -> Measured:
    """Share of right answers with its interval, in per cent; `part`: see _PARTS."""
    share, low, high = interval(asked)
    return Measured(
        id="_".join(filter(None, (pairing.lower(), name.lower(), part))),
        name=f"{HEADLINE[pairing]} on {name}{_PARTS[part] if part else ''}",
        value=100 * share,
        unit="%",
        low=100 * low,
        high=100 * high,
        interval=INTERVAL,
        n=len(asked),
    )


def chance(lines: list[Line], facts: Mapping[str, Fact]) -> float:
    """Majority baseline: the share right when the most frequent answer of a question's family is always given."""
    answers = defaultdict(Counter)
    for line in lines:
        answers[facts[line.fact].family][facts[line.fact].answer] += 1
    return sum(counter.most_common(1)[0][1] for counter in answers.values()) / max(len(lines), 1)


def difference(id: str, pairing: str, more: list[Asked], less: list[Asked]) -> Measured:
    """Accuracy of the same replies by one set of facts minus that by another, in points.

    The interval is a paired bootstrap over facts; ± 3 / number of facts where no reply is right by either.
    """
    by_fact = defaultdict(list)
    for one, other in zip(more, less, strict=True):
        by_fact[one.fact.key].append(one.right - other.right)
    sums, counts = (np.array([f(v) for v in by_fact.values()], float) for f in (sum, len))
    chosen = rng(0, "bootstrap").integers(len(sums), size=(2000, len(sums)))
    low, high = np.quantile(sums[chosen].sum(1) / counts[chosen].sum(1), (0.025, 0.975))
    if not any(one.right or other.right for one, other in zip(more, less, strict=True)):
        low, high = -3 / len(sums), 3 / len(sums)
    return Measured(
        id=id,
        name=f"its own answers less the true ones, {HEADLINE[pairing]} on C",
        value=100 * float(sums.sum() / counts.sum()),
        unit="points",
        low=100 * float(low),
        high=100 * float(high),
        interval="bootstrap over facts, 95 %",
        n=len(more),
    )


def gain(name: str, pairing: str, asked: list[Asked], baseline: float, part: str = "") -> Measured:
    """Points above chance; `part` as for `score`."""
    share, low, high = interval(asked)
    whole = score(name, pairing, asked, part)
    return Measured(
        id=f"{whole.id}_gain",
        name=f"{whole.name}, points above chance",
        value=100 * (share - baseline),
        unit="points",
        low=100 * (low - baseline),
        high=100 * (high - baseline),
        interval=INTERVAL,
        n=len(asked),
    )
