"""Answers of one word: what judges can make out, what the mouth says after Stage 1, and what of that is written too.

The headline is what a recogniser of single words makes of the codes, all words equally likely. Whisper on the sound
stands beside it, also as a share of what it makes of the right answers, recorded and then resynthesised from their
codes: without a sentence around it, it takes many a well-spoken word for another.
"""

from collections import defaultdict
from dataclasses import replace

import numpy as np

from mossrepro.data.facts import Fact, plain
from mossrepro.data.script import Line
from mossrepro.evaluation import spoken_qa
from mossrepro.evaluation.artifacts import RunArtifacts, ask_questions
from mossrepro.evaluation.spoken_qa import Asked, said
from mossrepro.lm import checkpoint
from mossrepro.lm.documents import REPEAT
from mossrepro.lm.grid import Grid
from mossrepro.lm.inference import prepare_for_inference
from mossrepro.lm.model import LayerSplitLM
from mossrepro.training import metrics
from mossrepro.utils.random import rng

_DRAWS = 2000
_RESYNTHESIS = "word_judge_resynthesis"


def bare_words(artifacts: RunArtifacts) -> None:
    """What the judges make of the assistant's own recordings of the answers of A, B, V and C, a word each.

    The recogniser on their codes (the ceiling of the headline, and its floor: codes of another answer of the family),
    Whisper on the recordings, where there are any, and on what flow decoder and vocoder make of the codes (of all, of
    each set, and of another answer of the family).
    """
    facts, lines = _recorded(artifacts)
    codes = [artifacts.codes[line.id] for line in lines]
    read = artifacts.read(codes)
    artifacts.share(
        "word_ceiling", "recogniser: bare answers, recorded", [said(*one) for one in zip(facts, read, strict=True)]
    )
    wrong = [said(*one) for one in _of_others(facts, read)]
    artifacts.share("word_floor", "recogniser: the answer is heard in another one's codes", wrong)
    if artifacts.recorded:
        heard = artifacts.judge.transcribe([artifacts.wave(line.id) for line in lines])
        hits = [said(*one) for one in zip(facts, heard, strict=True)]
        artifacts.share("word_judge_ceiling", "Whisper: bare answers, recorded", hits)
    heard = artifacts.hear(codes)
    again = [said(*one) for one in zip(facts, heard, strict=True)]
    artifacts.share(_RESYNTHESIS, "Whisper: bare answers, wave → codes → wave", again)
    for name in "ABVC":
        if hits := [hit for fact, hit in zip(facts, again, strict=True) if fact.set == name]:
            title = f"Whisper: bare answers of {name}, wave → codes → wave"
            artifacts.share(f"{_RESYNTHESIS}_{name.lower()}", title, hits)
    wrong = [said(*one) for one in _of_others(facts, heard)]
    artifacts.share("word_judge_floor", "Whisper: the answer is heard in another one's codes → wave", wrong)


def understood(artifacts: RunArtifacts) -> set[str]:
    """The keys of the facts whose answer the recogniser reads right off the codes of its recording.

    Of no other one could it tell that a right answer was said: what is lost there is lost by the judge and the codes.
    """
    facts, lines = _recorded(artifacts)
    read = artifacts.read([artifacts.codes[line.id] for line in lines])
    return {fact.key for fact, text in zip(facts, read, strict=True) if said(fact, text)}


def of_understood(
    name: str, pairing: str, voice: list[Asked], written: list[Asked], keys: set[str]
) -> list[metrics.Metric]:
    """`kept` of the questions about facts of `keys`: what the language model itself loses; none if there are none."""
    some, same = ([one for one in asked if one.fact.key in keys] for asked in (voice, written))
    return [kept(name, pairing, some, same, spoken_qa.UNDERSTOOD)] if some else []


def _of_others(facts: list[Fact], read: list[str]) -> list[tuple[Fact, str]]:
    """Every fact with what was made of another answer of its family; a fact without one is left out."""
    by_family, pairs = defaultdict(list), []
    for fact, text in zip(facts, read, strict=True):
        by_family[fact.family].append((plain(fact.answer), text))
    for fact in facts:
        wrong = [text for answer, text in by_family[fact.family] if answer != plain(fact.answer)]
        pairs += [(fact, wrong[len(pairs) % len(wrong)])] if wrong else []
    return pairs


def _recorded(artifacts: RunArtifacts) -> tuple[list[Fact], list[Line]]:
    """The tested facts whose answer the assistant says by itself somewhere, and the first such line of each."""
    saying: dict[str, Line] = {}
    for line in artifacts.lines:
        if line.role == "assistant_speech" and line.id in artifacts.codes:
            saying.setdefault(plain(line.text), line)
    facts = [fact for fact in artifacts.known.values() if fact.set != "P" and plain(fact.answer) in saying]
    return facts, [saying[plain(fact.answer)] for fact in facts]


def mouth(artifacts: RunArtifacts) -> None:
    """Written questions answered by voice right after Stage 1: no question has been spoken, no fact been taught."""
    model, tokenizer = checkpoint.from_pretrained(artifacts.parts["stage1"])
    model = prepare_for_inference(model, artifacts.device)
    grid, keys = model.grid(tokenizer), understood(artifacts)
    for name in "ABVC":
        lines = [line for line in artifacts.lines if line.role == "test" and line.set == name]
        asked = {pairing: ask_questions(artifacts, model, grid, lines, pairing) for pairing in ("T2T", "T2S")}
        for part in ("", spoken_qa.NO_STEMS):
            voice, written = (
                spoken_qa.without_stems(asked[pairing]) if part else asked[pairing] for pairing in ("T2S", "T2T")
            )
            if not voice:
                continue
            for fact in (spoken_qa.score(name, "T2S", voice, part), kept(name, "T2S", voice, written, part)):
                fact.id, fact.name = f"{fact.id}_stage1", f"{fact.name}, after Stage 1"
                artifacts.record(fact)
        for fact in of_understood(name, "T2S", asked["T2S"], asked["T2T"], keys):
            fact.id, fact.name = f"{fact.id}_stage1", f"{fact.name}, after Stage 1"
            artifacts.record(fact)
        if name == "C":
            _table(artifacts, asked["T2S"], asked["T2T"])


def _table(artifacts: RunArtifacts, voice: list[Asked], written: list[Asked]) -> None:
    """How many questions of C are answered right by voice and in writing, by one alone, and by neither."""
    cells = {"both": (True, True), "voice": (True, False), "writing": (False, True), "neither": (False, False)}
    pairs = [(one.right, other.right) for one, other in zip(voice, written, strict=True)]
    for cell, wanted in cells.items():
        title = f"T2S beside T2T on C after Stage 1, questions answered right: {cell}"
        artifacts.record(metrics.Metric(f"stage1_table_{cell}", title, float(pairs.count(wanted)), "", n=len(pairs)))


def kept(name: str, pairing: str, asked: list[Asked], written: list[Asked], part: str = "") -> metrics.Metric:
    """Right answers in a pairing as a share of the right ones in writing to the same questions; bootstrap over facts.

    `part`: as for `spoken_qa.score`.
    """
    by_fact = defaultdict(lambda: [0, 0])
    for one, other in zip(asked, written, strict=True):
        by_fact[one.fact.key][0] += one.right
        by_fact[one.fact.key][1] += other.right
    sums = np.array([*by_fact.values()], float)
    chosen = rng(0, "bootstrap").integers(len(sums), size=(_DRAWS, len(sums)))
    drawn = sums[chosen].sum(1)
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1].clip(1), (0.025, 0.975))
    whole = spoken_qa.score(name, pairing, asked, part)
    title = f"{whole.name}, share of text → text in the same form"
    value = sums[:, 0].sum() / max(sums[:, 1].sum(), 1)
    interval = "bootstrap over facts, 95 %"
    return metrics.Metric(f"{whole.id}_kept", title, 100 * value, "%", 100 * low, 100 * high, interval, len(asked))


def guided(
    artifacts: RunArtifacts, model: LayerSplitLM, grid: Grid, name: str, pairing: str, written: list[Asked]
) -> None:
    """What is said if the answer is written first: the replies of T2T or S2T, repeated aloud by the same model.

    The paper does without (its title); what this gains is what saying an answer unwritten loses.
    """
    lines = [replace(one.line, text=REPEAT + one.heard) for one in written]
    fact = spoken_qa.score(name, f"{pairing[0]}2S", ask_questions(artifacts, model, grid, lines, "T2S"))
    fact.id, fact.name = f"{fact.id}_guided", f"{fact.name}, if the answer is written first and then repeated"
    artifacts.record(fact)


def by_sound(artifacts: RunArtifacts, name: str, pairing: str, asked: list[Asked]) -> None:
    """What Whisper makes of the sound of the same replies, also as a share of what it makes of resynthesised answers.

    The share is left out where `bare_words` has not measured these for the set. Its interval is that of the replies:
    what they are divided by is taken as it is.
    """
    fact = spoken_qa.score(name, pairing, spoken_qa.listened(asked, artifacts.known, artifacts.hear))
    fact.id, fact.name = f"{fact.id}_sound", f"{fact.name}, Whisper on the sound"
    artifacts.record(fact)
    best = metrics.read_metrics(artifacts.out).get(f"{_RESYNTHESIS}_{name.lower()}")
    if best and best.value:
        share = [100 * value / best.value for value in (fact.value, fact.low, fact.high)]
        title = f"{fact.name}, share of what it makes of resynthesised answers"
        artifacts.record(metrics.Metric(f"{fact.id}_kept", title, share[0], "%", *share[1:], fact.interval, fact.n))
