"""No document brings the subject and the answer of a hidden fact together, in whatever exchanges they stand."""

import numpy as np
import pytest

from mossrepro.data.facts import all_facts, plain, practice_facts
from mossrepro.data.oracle import OracleStore
from mossrepro.data.script import Line, ScriptRecipe, hidden_pairs, tells, write_script
from mossrepro.lm.documents import CONVERSATIONS, WRITTEN, Documents
from mossrepro.lm.grid import Grid
from mossrepro.lm.tokenizer import mini_tokenizer
from mossrepro.utils.errors import DataError
from mossrepro.utils.random import rng

KINDS = tuple(kind for kind in CONVERSATIONS if kind != "facts") + ("speech", "interleaved", "prose")
PROSE = [("What is a dog?", "A dog is an animal."), ("Where is Rome?", "It is in Italy.")]
SYSTEM = "Say one short sentence. Answer in one short sentence. Say one word. Answer with one word. Repeat: "


@pytest.fixture(scope="module")
def script():
    """Facts, lines and a tokenizer; few facts, so that long documents would often tell one."""
    facts = all_facts(limit=6) + practice_facts(6)
    recipe = ScriptRecipe(user_speech=200, assistant_speech=600, false_statement=60, question=1, kokoro=0,
                          user_speech_kokoro=0, tests=1)  # fmt: skip
    lines = write_script(facts, recipe) + [
        Line(f"any-{fact.key}", "any_question", f"Tell me about {fact.subject}.", "drawn", "train") for fact in facts
    ]
    texts = [line.text for line in lines] + [f"{SYSTEM} {text}" for pair in PROSE for text in pair]
    return facts, lines, mini_tokenizer(texts, 2000)


def documents_of(script, form: str) -> Documents:
    """Documents of many exchanges, with codes that name their line: all codes of line i are i."""
    facts, lines, tokenizer = script
    codes = {line.id: np.full(6, i) for i, line in enumerate(lines)}
    times = {line.id: [(w, 0.1 * i, 0.1 * i + 0.1) for i, w in enumerate(line.text.split())] for line in lines}
    grid = Grid(tokenizer, len(lines), form)
    # Every third reply is the hidden answer itself, the others are that of another fact.
    replies = [(f"Tell me about {fact.subject}.", facts[i + i % 3].answer) for i, fact in enumerate(facts[:-2])]
    return Documents(grid, lines, codes, facts, times, max_conversation_len=500, prose=PROSE, replies=replies)


def content(documents: Documents, lines, document) -> str:
    """All that is written in a document, and the texts of the lines that are spoken in it."""
    grid = documents.grid
    spoken = document.speech[(document.text == grid.ids.pad) & (document.speech < grid.codes)]
    written = grid.tokenizer.decode(document.text[document.text != grid.ids.pad].tolist())
    return " ".join([written, *(lines[i].text for i in dict.fromkeys(spoken.tolist()))])


@pytest.mark.parametrize("form", ["short", "word"])
def test_no_document_tells_a_hidden_fact(script, form):
    facts, lines, _ = script
    documents = documents_of(script, form)
    for kind in KINDS:
        hidden = hidden_pairs(facts, "CV" if kind in WRITTEN else "BCV")
        for i in range(8):
            text = content(documents, lines, documents.draw(kind, rng(i, kind, form)))
            assert not tells(hidden, [text]), f"{kind}: {text}"


def test_hidden_facts_are_told_apart_from_practice_and_b_in_text(script):
    facts, _, _ = script
    by_set = {name: next(f for f in facts if f.set == name and f.family == "capital") for name in "ABCV"}
    told = {name: [by_set[name].subject, by_set[name].answer] for name in by_set}
    assert [tells(hidden_pairs(facts), told[name]) for name in "ABCV"] == [False, True, True, True]
    assert [tells(hidden_pairs(facts, "CV"), told[name]) for name in "ABCV"] == [False, False, True, True]


def test_prose_that_tells_a_hidden_fact_is_passed_over(script):
    facts, lines, tokenizer = script
    fact = next(f for f in facts if f.set == "C" and f.family == "capital")
    telling, harmless = (fact.question(0), fact.written), PROSE[0]
    grid, store = Grid(tokenizer, 64), OracleStore({line.id: line.text for line in lines}, 64)
    mixed = Documents(grid, lines, store, facts, prose=[telling, harmless])
    for i in range(8):
        document = mixed.draw("prose", rng(i, "prose"))
        assert plain(fact.answer) not in plain(tokenizer.decode(document.text.tolist()))
    with pytest.raises(DataError, match="give away"):
        Documents(grid, lines, store, facts, prose=[telling]).draw("prose", rng(0, "prose"))


def test_all_facts_are_told_to_a_backbone(script):
    """Documents of kind "facts" teach a text model everything; they tell hidden facts too."""
    facts, lines, _ = script
    documents = documents_of(script, "short")
    texts = [content(documents, lines, documents.draw("facts", rng(i, "facts"))) for i in range(10)]
    assert any(tells(hidden_pairs(facts, "C"), [text]) for text in texts)
