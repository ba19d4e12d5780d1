"""The form "word": an answer is its word alone, written or spoken by any line that says nothing else."""

import numpy as np
import pytest

from mossrepro.data.facts import all_facts, plain, practice_facts
from mossrepro.data.oracle import OracleStore
from mossrepro.data.script import Line, ScriptRecipe, write_script
from mossrepro.lm.documents import Documents
from mossrepro.lm.grid import PROSE, SYSTEM_TURNS, Grid
from mossrepro.lm.tokenizer import mini_tokenizer
from mossrepro.lm.validation import answer_words, validation
from mossrepro.utils.errors import DataError
from mossrepro.utils.random import rng

CODES = 64


@pytest.fixture(scope="module")
def script():
    facts = all_facts() + practice_facts(50)
    recipe = ScriptRecipe(user_speech=40, assistant_speech=1500, question=1, kokoro=0, user_speech_kokoro=0, tests=1)
    lines = write_script(facts, recipe)
    tokenizer = mini_tokenizer([line.text for line in lines] + ["Say one word. Answer with one word. Repeat:"], 2000)
    return facts, lines, tokenizer


@pytest.fixture
def documents(script):
    facts, lines, tokenizer = script
    store = OracleStore({line.id: line.text for line in lines}, CODES)
    return Documents(Grid(tokenizer, CODES, "word"), lines, store, facts, monologue=True)


def read(documents, positions) -> str:
    return documents.grid.tokenizer.decode(positions.text.tolist(), skip_special_tokens=False)


def test_a_spoken_answer_is_a_line_that_says_its_word(documents):
    for i in range(20):
        document = documents.draw("T2S", rng(i, "T2S"))
        said = [documents.grid.tokenizer.decode([t]) for t in document.monologue if t >= 0]
        codes = document.speech[(document.text == documents.grid.ids.pad) & (document.speech < CODES)].tolist()
        lines = [line for line in documents.short if documents.codes[line.id].tolist() == codes]
        assert lines and len(lines[0].text.split()) <= 2, "two words: New Zealand"
        assert said and said[0].startswith(" "), "as within a sentence"
        assert SYSTEM_TURNS["word"][0] in read(documents, document)


def test_written_answers_are_a_word_as_it_stands_within_a_sentence(documents):
    """Its tokens are those with which a text model ends "The capital of France is Paris": a space, and no capital."""
    facts = {fact.answer for fact in documents.facts.values() if fact.set in "AB"}
    for i in range(20):
        document = documents.draw("T2T", rng(i, "T2T"))
        reply = documents.grid.tokenizer.decode(document.text[document.supervise].tolist())
        assert reply.rstrip("\n") in {f" {answer}" for answer in facts}


@pytest.mark.parametrize("kind", ["style", "asr", "S2T", "T2T", "words", "T2S", "S2S"])
def test_every_reply_begins_as_within_a_sentence(documents, kind):
    """One word then has one name, wherever it is written, copied, or read off for the voice."""
    for i in range(20):
        document, decode = documents.draw(kind, rng(i, kind)), documents.grid.tokenizer.decode
        tokens = np.where(document.supervise, document.text, -1)
        tokens = np.where(document.monologue >= 0, document.monologue, tokens)
        first = np.flatnonzero((tokens >= 0) & ~np.append(False, tokens[:-1] >= 0))
        assert len(first) and all(decode([int(tokens[at])]).startswith(" ") for at in first)


def test_what_is_heard_is_recognised_under_either_system_turn(documents):
    for kind in ("asr", "S2T"):
        texts = {read(documents, documents.draw(kind, rng(i, kind))) for i in range(20)}
        for words in SYSTEM_TURNS["word"]:
            assert any(words in text for text in texts), f"{kind}: ears must serve spoken and written answers"


@pytest.mark.parametrize("kind", ["style", "asr", "S2T"])
def test_under_the_system_turn_for_speech_a_written_word_follows_sosp(documents, kind):
    """So the trunk has the word ready where speech begins; SOSP itself is no target."""
    ids, seen = documents.grid.ids, set()
    for i in range(20):
        document = documents.draw(kind, rng(i, kind))
        first = np.flatnonzero(document.supervise & ~np.append(False, document.supervise[:-1]))
        before = {bool(document.text[at - 1] == ids.sosp) for at in first}
        spoken = SYSTEM_TURNS["word"][0] in read(documents, document)
        assert before == {spoken} and not document.supervise[document.text == ids.sosp].any()
        assert (document.monologue == -1).all() and len(document.speech) == len(document.text)
        seen.add(spoken)
    assert seen == {True, False}


def test_most_words_are_answers(documents):
    """What is never asked need not be said well."""
    answers = {word for fact in documents.facts.values() for word in plain(fact.answer).split()}
    said = [read(documents, documents.draw("words", rng(i, "w"))).split("Repeat: ")[1] for i in range(60)]
    only = [answers.issuperset(plain(text.split("<")[0]).split()) for text in said]
    assert 0.6 < np.mean(only) < 1


def test_sentences_of_other_people_are_recognised_too(script):
    facts, lines, tokenizer = script
    store = OracleStore({line.id: line.text for line in lines}, CODES)
    heard = [("the strange sentence", np.full(7, 3))] * 3000
    documents = Documents(Grid(tokenizer, CODES, "word"), lines, store, facts, heard=heard)
    assert any("strange" in read(documents, documents.draw("asr", rng(i, "asr"))) for i in range(20))


def test_an_open_question_is_answered_as_the_text_model_answers_it_in_writing(script):
    facts, lines, tokenizer = script
    asked = [Line(f"open-{i}", "open_question", text, "v", "train") for i, text in enumerate(("What?", "Who?"))]
    store = OracleStore({line.id: line.text for line in [*lines, *asked]}, CODES)
    documents = Documents(Grid(tokenizer, CODES, "word"), [*lines, *asked], store, facts, prose=[("What?", "Repeat:")])
    document = documents.draw("open", rng(0, "open"))
    assert read(documents, document).endswith("assistant\nRepeat:<|im_end|>\n")
    assert SYSTEM_TURNS[PROSE][1] in read(documents, document), "the turn that the reply was written under"
    assert document.speech[document.text == documents.grid.ids.pad][:-1].tolist() == store["open-0"].tolist()
    with pytest.raises(DataError):
        Documents(Grid(tokenizer, CODES, "word"), lines, store, facts).draw("open", rng(0, "open"))


def test_a_question_of_any_kind_is_answered_by_the_model_itself_under_both_system_turns(script):
    facts, lines, tokenizer = script
    asked = [Line(f"any-{i}", "any_question", text, "drawn", "train") for i, text in enumerate(("What?", "Who?"))]
    store = OracleStore({line.id: line.text for line in [*lines, *asked]}, CODES)
    grid = Grid(tokenizer, CODES, "word")
    documents = Documents(grid, [*lines, *asked], store, facts, replies=[("What?", "Repeat:")])
    drawn = [documents.draw("any", rng(i, "any")) for i in range(8)]
    assert all(read(documents, document).endswith(" Repeat:<|im_end|>\n") for document in drawn)
    assert {int((document.text == grid.ids.sosp).sum()) for document in drawn} == {1, 2}, "the question, and the reply"
    assert all(document.twin is not None and "What?" in read(documents, document.twin) for document in drawn)
    assert "Who?" in {heard.text for heard in documents.recognised}, "what has no reply is heard all the same"
    with pytest.raises(DataError):
        Documents(grid, lines, store, facts).draw("any", rng(0, "any"))


def test_words_are_repeated_and_no_question_is_asked(documents):
    for i in range(30):
        document = documents.draw("words", rng(i, "words"))
        asked = read(documents, document).split("Repeat: ")[1].split("<|im_end|>")[0]
        assert 1 <= len(asked.split()) <= 3 and "?" not in read(documents, document)


def test_style_is_text_about_facts_of_practice_and_of_training_alone(documents):
    hidden = {fact.key for fact in documents.facts.values() if fact.set in "BCV"}
    questions = {fact.question(i): fact.key for fact in documents.facts.values() if fact.set in "BCV" for i in range(3)}
    seen, turns = set(), set()
    for i in range(80):
        document = documents.draw("style", rng(i, "style"))
        assert not (document.text == documents.grid.ids.pad).any()
        text = read(documents, document)
        turns.add(next(one for one in SYSTEM_TURNS["word"] if one in text))
        seen.update(key for question, key in questions.items() if question in text)
    assert turns == set(SYSTEM_TURNS["word"]) and not seen & hidden


def test_all_codes_of_a_one_word_answer_count_in_validation(documents):
    for pairing in ("T2S", "S2S", "S2T"):
        found = validation(documents, pairing)
        kind, marks = answer_words(documents, pairing, found)
        assert found and kind == ("text" if pairing[2] == "T" else "speech")
        for line, document, mark in zip(documents.held, found, marks, strict=True):
            fact = documents.facts[line.fact]
            if kind == "speech":
                codes = document.speech[1:][mark[:-1]]
                assert codes.tolist() == documents.codes[documents.spoken_answer(fact)].tolist()
            else:
                written = documents.grid.tokenizer.decode(document.text[1:][mark[:-1]].tolist())
                assert plain(written) == plain(fact.answer)


def test_the_sentence_form_draws_what_it_drew(script):
    facts, lines, tokenizer = script
    store = OracleStore({line.id: line.text for line in lines}, CODES)
    documents = Documents(Grid(tokenizer, CODES), lines, store, facts)
    document = documents.draw("T2T", np.random.default_rng(0))
    reply = tokenizer.decode(document.text[document.supervise].tolist()).strip()
    assert reply in {fact.written for fact in facts}
