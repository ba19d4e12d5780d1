"""The documents on which training is validated, and where in them the word stands that answers the question."""

import numpy as np

from mossrepro.data.facts import Fact
from mossrepro.lm.documents import SPOKEN, Documents
from mossrepro.lm.grid import LATE, Positions


def validation(source: Documents, pairing: str) -> list[Positions]:
    """The test questions of set V with their answers, a document each."""
    grid, documents = source.grid, []
    for line in source.held:
        heard = {"codes": source.codes[line.id]} if pairing[0] == "S" else {"text": line.text}
        answer = source.answer(pairing, source.facts[line.fact])
        documents.append(grid.join(grid.system(pairing in SPOKEN), grid.turn("user", **heard), answer))
    return documents


def answer_words(source: Documents, pairing: str, documents: list[Positions]) -> tuple[str, list[np.ndarray]]:
    """Where the word that answers the question stands in each of `validation`'s documents.

    Returns the kind of target and, for every document, (L,) bool: whether the target at this position is of that
    word. In written replies it is its tokens ("text"), in spoken ones the codes between its times ("speech"; none
    of a reply without times). Where no reply has times: its tokens in the monologues ("monologue"), or kind "".
    """
    facts, spoken = [source.facts[line.fact] for line in source.held[: len(documents)]], pairing[2] == "S"
    kind, words = "text", [_codes(source, fact) if spoken else _tokens(source, fact) for fact in facts]
    if spoken:
        kind = "speech" if any(map(any, words)) else "monologue" if source.monologue else ""
    if kind == "monologue":
        words = [_tokens(source, fact, monologue=True) for fact in facts]
    grid = source.grid
    closing, out = len(grid.text("<|im_end|>")) + len(grid.text("\n")) + spoken, []  # spoken: EOSP
    for document, word in zip(documents, words, strict=True):
        first = len(document) - closing - len(word)
        out.append(np.zeros(len(document), dtype=bool))
        out[-1][first - 1 : first - 1 + len(word)] = word  # targets stand one position before what they predict
    return kind, out


def _tokens(source: Documents, fact: Fact, monologue: bool = False) -> np.ndarray:
    """Which tokens of the written answer, or of its monologue at each code, are of the answer word: (n,) bool."""
    text = source.as_written(source.answer_text(fact))
    start = text.rindex(fact.answer)
    marks = source.grid.tokens_within(text, start, start + len(fact.answer))
    if not monologue:
        return marks
    name = source.spoken_answer(fact)
    index = source.grid.spread(text, len(source.codes[name]), source.text_lookahead, source.starts(name))
    return np.append(marks, False)[index]


def _codes(source: Documents, fact: Fact) -> np.ndarray:
    """Which codes of the spoken answer are of the answer word: (n,) bool, none of them where it has no times."""
    name = source.spoken_answer(fact)
    if source.one_word:
        return np.ones(len(source.codes[name]), dtype=bool)
    marks, times = np.zeros(len(source.codes[name]), dtype=bool), source.words.get(name, ())
    if len(times) == len(fact.written.split()):
        first = len(fact.written[: fact.written.rindex(fact.answer)].split())
        last = first + len(fact.answer.split()) - 1
        start, end = (round(at * 12.5) + LATE for at in (times[first][1], times[last][2]))
        marks[start : max(end, start + 1)] = True
    return marks
