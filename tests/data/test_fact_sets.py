"""Facts, sets, script and documents: what must never meet does not meet."""

import numpy as np
import pytest

from mossrepro.data import script
from mossrepro.data.documents import PAIRINGS, Documents, question_prompt
from mossrepro.data.facts import FAMILIES, all_facts, answered, plain
from mossrepro.data.lm_data import collate
from mossrepro.data.oracle import OracleStore, oracle_codes
from mossrepro.data.script import ScriptRecipe, write_script
from mossrepro.errors import ConfigError
from mossrepro.order import rng
from mossrepro.vocab import Grid, mini_tokenizer
from mossrepro.voices import VOICES

RECIPE = ScriptRecipe(hear=40, say=40, ask=1, kokoro=5, hear_kokoro=2, tests=2, test_facts=50)


@pytest.fixture(scope="module")
def facts():
    return all_facts()


@pytest.fixture(scope="module")
def lines(facts):
    return write_script(facts, RECIPE)


@pytest.fixture(scope="module")
def grid(lines):
    return Grid(mini_tokenizer([line.text for line in lines], 600), 64)


@pytest.fixture(scope="module")
def documents(facts, lines, grid):
    texts = {line.id: line.text for line in lines}
    words = {line.id: [(w, 0.4 * i, 0.4 * i + 0.3) for i, w in enumerate(line.text.split())]
             for line in lines if line.role == "say"}  # fmt: skip
    return Documents(grid, lines, OracleStore(texts, 64), facts, words)


def test_sets_are_disjoint_and_hold_every_family(facts) -> None:
    assert len({fact.key for fact in facts}) == len(facts)
    for name in "ABVC":
        assert {fact.family for fact in facts if fact.set == name} == set(FAMILIES)


def test_facts_that_share_a_word_share_a_set(facts) -> None:
    home = {}
    for fact in facts:
        if fact.family == "opposite":
            for word in (fact.subject, fact.answer):
                assert home.setdefault(word, fact.set) == fact.set


def test_the_draw_depends_on_what_is_kept_but_not_on_its_order(facts) -> None:
    keep = [(fact.family, fact.subject) for fact in facts[::2]]
    assert all_facts(keep=keep) == all_facts(keep=keep[::-1])
    assert {(fact.family, fact.subject) for fact in all_facts(keep=keep)} == set(keep)


def test_no_sentence_of_another_set_is_trained_on_in_speech(facts, lines) -> None:
    hidden = {f.question(i, unseen) for f in facts if f.set != "A" for unseen, n in ((False, 3), (True, 2))
              for i in range(n)} | {f.spoken for f in facts if f.set != "A"}  # fmt: skip
    hidden = {plain(text) for text in hidden}
    spoken = {plain(line.text) for line in lines if line.split == "train"}
    public = {plain(f.spoken) for f in facts if f.set == "A"}  # Spanish is the answer to a question of A too
    assert not (hidden & spoken) - public


def test_tests_use_unseen_phrasings_and_held_out_voices(lines) -> None:
    tests = [line for line in lines if line.role == "test"]
    asked = {line.text for line in lines if line.split == "train"}
    assert tests and not asked & {line.text for line in tests}
    assert {VOICES[line.voice].role for line in tests} == {"held-out"}
    assert "held-out" not in {VOICES[line.voice].role for line in lines if line.split == "train"}


def test_every_answer_is_said_and_every_subject_heard_in_random_sentences(facts) -> None:
    lines = write_script(facts, ScriptRecipe(hear=250, say=250, ask=0, kokoro=0, hear_kokoro=0, tests=0))
    said, heard = (" ".join(line.text for line in lines if line.role == role) for role in ("say", "hear"))
    assert all(fact.answer in said and fact.subject in heard for fact in facts)
    assert {line.voice for line in lines if line.role == "say"} == {"assistant"}


def test_every_second_sentence_of_the_assistant_is_short(facts) -> None:
    lines = write_script(facts, ScriptRecipe(hear=20, say=3000, ask=0, kokoro=0, hear_kokoro=0, tests=0, words=12))
    sentences = {role: [line.text for line in lines if line.role == role] for role in ("say", "hear")}
    spaces = {role: [len(text.split()) for text in texts] for role, texts in sentences.items()}
    assert min(spaces["say"][::2]) >= 5 and max(spaces["say"][1::2]) <= 4  # "Mexico City" counts as two here
    assert min(spaces["hear"]) >= 5


def test_a_random_sentence_that_states_a_fact_is_drawn_again(facts, monkeypatch) -> None:
    drawn = []

    def sentence(_random, _words, _low, _high, must) -> str:  # states a fact at the first try of every line
        drawn.append(tuple(must))
        return f"it is {must[0]}" if drawn.count(tuple(must)) == 1 else " ".join(must)

    monkeypatch.setattr(script, "random_sentence", sentence)
    lines = write_script(facts, ScriptRecipe(hear=0, say=20, ask=0, kokoro=0, hear_kokoro=0, tests=0))
    said = {plain(line.text) for line in lines if line.role == "say"}
    assert said and not said & {plain(fact.spoken) for fact in facts}


def test_a_spoken_span_begins_as_late_as_the_codec_answers(facts, lines, grid) -> None:
    line = next(line for line in lines if line.role == "say" and len(line.text.split()) >= 5)
    codes, times = np.arange(60), [(word, 0.8 * i, 0.8 * i + 0.8) for i, word in enumerate(line.text.split()[:5])]
    documents = Documents(grid, [line], {line.id: codes}, facts, {line.id: times})
    starts = set()
    for i in range(40):
        doc = documents.draw("interleaved", rng(0, "late", i))
        first = np.flatnonzero((doc.text == grid.ids.pad) & (doc.speech < 60))[0]
        starts.add(int(doc.speech[first]))
    assert starts <= {1, 11, 21, 31, 41} and len(starts) > 2  # word i begins with code 10 i, heard one code later


def test_text_of_documents_never_names_a_fact_of_c(documents, facts, grid) -> None:
    forbidden = [plain(f.written) for f in facts if f.set in "CV"]
    for kind in ("text", "T2T", "S2T", "recognise", "interleaved"):
        for i in range(150):
            doc = documents.draw(kind, rng(0, kind, i))
            text = plain(grid.tokenizer.decode(doc.text[doc.text != grid.ids.pad].tolist()))
            assert not any(sentence in text for sentence in forbidden)


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_pairings(documents, grid, pairing: str) -> None:
    doc = documents.draw(pairing, rng(1, pairing))
    spoken = doc.text == grid.ids.pad
    start = int(np.flatnonzero(doc.supervise)[0])
    assert spoken[:start].any() == (pairing[0] == "S")
    assert spoken[start] == (pairing[2] == "S")
    assert doc.text[np.flatnonzero(doc.supervise)[-1]] == grid.ids.im_end
    assert not doc.supervise[:start].any()


def test_prompts_are_the_beginning_of_documents(documents, grid) -> None:
    doc = documents.draw("T2S", rng(1, 0))
    text = grid.tokenizer.decode(doc.text[doc.text != grid.ids.pad].tolist(), skip_special_tokens=False)
    question = text.split("user\n")[1].split("<|im_end|>")[0]
    prompt = question_prompt(grid, "T2S", question)
    assert np.array_equal(prompt.text, doc.text[: len(prompt)])
    assert prompt.text[-1] == grid.ids.sosp


def test_interleaving_keeps_every_word_once(documents, grid) -> None:
    doc = documents.draw("interleaved", rng(0, 3))
    assert doc.supervise.any() and (doc.text == grid.ids.sosp).any()
    with pytest.raises(ConfigError, match="unknown kind"):
        documents.draw("songs", rng(0, 0))


def test_collate_shifts_and_separates_channels(documents, grid) -> None:
    docs = [documents.draw(kind, rng(2, kind)) for kind in ("S2S", "S2T", "speech")]
    batch = collate(docs, grid, 256)
    for i, doc in enumerate(docs):
        n = len(doc)
        text, speech = batch["text_target"][i], batch["speech_target"][i]
        assert int((text >= 0).sum() + (speech >= 0).sum()) == int(doc.supervise[1:].sum())
        assert not ((text >= 0) & (speech >= 0)).any()
        rows = np.flatnonzero(speech[: n - 1].numpy() >= 0)
        assert np.array_equal(speech[rows].numpy(), doc.speech[rows + 1])
        assert (text[n - 1 :] == -100).all()


def test_judging_ignores_case_and_punctuation_but_not_word_ends(facts) -> None:
    paris = next(fact for fact in facts if fact.answer == "Paris")
    assert answered(paris, "it is PARIS!") and not answered(paris, "It is Parish.")


def test_oracle_codes_are_deterministic_and_jitter_by_name() -> None:
    one = oracle_codes("It is Paris.", "a", 64)
    assert np.array_equal(one, oracle_codes("It is Paris.", "a", 64))
    assert any(not np.array_equal(one, oracle_codes("It is Paris.", name, 64)) for name in "bcdef")
