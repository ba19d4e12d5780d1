"""Facts, sets, script and documents: what must never meet does not meet."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from mossrepro.data import script
from mossrepro.data.facts import all_facts, answered, family_of, plain, practice_facts
from mossrepro.data.families import FAMILIES, PRACTICE, RECALL
from mossrepro.data.oracle import OracleStore, oracle_codes
from mossrepro.data.script import ScriptRecipe, write_script
from mossrepro.lm.data import collate
from mossrepro.lm.documents import PAIRINGS, Documents
from mossrepro.lm.grid import Grid, question_prompt
from mossrepro.lm.tokenizer import mini_tokenizer
from mossrepro.speech.voices import VOICES
from mossrepro.utils.errors import ConfigError
from mossrepro.utils.random import rng

RECIPE = ScriptRecipe(
    user_speech=40, assistant_speech=40, question=1, kokoro=5, user_speech_kokoro=2, tests=2, test_facts=50
)


@pytest.fixture(scope="module")
def facts():
    return all_facts() + practice_facts(1000)


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
             for line in lines if line.role == "assistant_speech"}  # fmt: skip
    return Documents(grid, lines, OracleStore(texts, 64), facts, words)


def test_sets_are_disjoint_and_hold_every_family(facts) -> None:
    assert len({fact.key for fact in facts}) == len(facts)
    for name in "ABVC":
        assert {fact.family for fact in facts if fact.set == name} == set(FAMILIES)


def test_practice_asks_nothing_that_is_tested(facts) -> None:
    asked = [fact for fact in facts if fact.set == "P"]
    assert {fact.family for fact in asked} == set(PRACTICE) and not set(PRACTICE) & set(FAMILIES)
    questions = {fact.question(i).lower() for fact in asked for i in range(3)}
    others = [fact for fact in facts if fact.set != "P"]
    tested = {fact.question(i, u).lower() for fact in others for u, n in ((False, 3), (True, 2)) for i in range(n)}
    assert len(asked) > 250 and not questions & tested
    assert [fact.subject for fact in practice_facts(2) if fact.family == "past"] == ["walk", "talk"]
    forms = practice_facts(1000, recall=False)
    assert 200 < len(forms) < len(asked) and {fact.family for fact in asked} - {f.family for f in forms} == set(RECALL)


def test_facts_that_share_a_word_share_a_set(facts) -> None:
    home = {}
    for fact in facts:
        if fact.family == "opposite":
            for word in (fact.subject, fact.answer):
                assert home.setdefault(word, fact.set) == fact.set


def test_a_deal_can_be_of_the_first_facts_and_families() -> None:
    some = all_facts(limit=12, families=4)
    assert Counter(fact.family for fact in some) == dict.fromkeys(list(FAMILIES)[:4], 12)
    assert {(fact.set, fact.family) for fact in some} == {(name, family) for name in "ABVC" for family in
                                                          list(FAMILIES)[:4]}  # fmt: skip
    assert some == all_facts(limit=12, families=4) != all_facts(1, limit=12, families=4)


def test_there_is_much_to_ask_and_most_of_it_keeps_no_stem(facts) -> None:
    c = [fact for fact in facts if fact.set == "C"]
    assert len(c) >= 300 and sum(not family_of(fact).stem for fact in c) >= 250


def test_no_sentence_of_another_set_is_trained_on_in_speech(facts, lines) -> None:
    hidden = {f.question(i, unseen) for f in facts if f.set in "BVC" for unseen, n in ((False, 3), (True, 2))
              for i in range(n)} | {f.written for f in facts if f.set in "BVC"}  # fmt: skip
    hidden = {plain(text) for text in hidden}
    spoken = {plain(line.text) for line in lines if line.split == "train"}
    public = {plain(f.written) for f in facts if f.set in "AP"}  # Spanish is the answer to a question of A too
    assert not (hidden & spoken) - public


def test_tests_use_unseen_phrasings_and_held_out_voices(lines) -> None:
    tests = [line for line in lines if line.role == "test"]
    asked = {line.text for line in lines if line.split == "train"}
    assert tests and not asked & {line.text for line in tests}
    assert {VOICES[line.voice].role for line in tests} == {"held-out"}
    assert "held-out" not in {VOICES[line.voice].role for line in lines if line.split == "train"}


def test_every_answer_is_said_and_every_subject_heard_in_random_sentences() -> None:
    facts = all_facts(limit=8) + practice_facts(1000)
    lines = write_script(
        facts, ScriptRecipe(user_speech=250, assistant_speech=1200, question=0, kokoro=0, user_speech_kokoro=0, tests=0)
    )
    said, heard = (
        " ".join(line.text for line in lines if line.role == role) for role in ("assistant_speech", "user_speech")
    )
    assert all(fact.answer in said and (fact.subject in heard or fact.set == "P") for fact in facts)
    assert {line.voice for line in lines if line.role == "assistant_speech"} == {"assistant"}


def test_words_that_are_tested_are_said_four_times_as_often_as_practice(facts) -> None:
    said = Counter(script._special(facts, "assistant_speech"))
    tested = {word for fact in facts if fact.set != "P" for word in (fact.subject, fact.answer)}
    assert {said[word] for word in tested} == {4} and {said[word] for word in set(said) - tested} == {1}
    assert set(said) == tested | {fact.answer for fact in facts}
    heard = script._special(facts, "user_speech")
    assert sorted(heard) == sorted({fact.subject for fact in facts if fact.set != "P"})


def test_three_of_four_sentences_of_the_assistant_are_words_that_matter(facts) -> None:
    recipe = ScriptRecipe(
        user_speech=20,
        assistant_speech=3000,
        false_statement=0,
        question=0,
        kokoro=0,
        user_speech_kokoro=0,
        tests=0,
        words=12,
    )
    lines = write_script(facts, recipe)
    said, heard = ([line.text for line in lines if line.role == role] for role in ("assistant_speech", "user_speech"))
    special = set(script._special(facts, "assistant_speech"))
    assert {text for i, text in enumerate(said) if i % 4 == 1} <= special
    pairs = [text.split() for i, text in enumerate(said) if i % 4 == 2]
    assert all(any({" ".join(w[:k]), " ".join(w[k:])} <= special for k in range(1, len(w) + 1)) or
               " ".join(w) in special for w in pairs)  # fmt: skip
    assert min(len(text.split()) for text in said[::4]) >= 5
    assert min(len(text.split()) for i, text in enumerate(heard) if i % 3) >= 5  # every third repeats a short one


def test_users_repeat_short_sentences_and_statements_in_turn(facts, lines) -> None:
    said = {
        role: {line.text for line in lines if line.role == role} for role in ("assistant_speech", "false_statement")
    }
    heard = [line.text for line in lines if line.role == "user_speech" and line.id.count("-") == 1]
    again = [text for i, text in enumerate(heard, start=RECIPE.user_speech_kokoro) if i % 3 == 0]
    kinds = ["say" if text in said["assistant_speech"] else "state" for text in again]
    assert set(again) < said["assistant_speech"] | said["false_statement"] and len(again) > 6
    assert all(a != b for a, b in zip(kinds, kinds[1:], strict=False))
    assert max(len(text.split()) for text, kind in zip(again, kinds, strict=True) if kind == "say") <= 4  # short ones


def test_without_statements_users_repeat_short_sentences_only(facts) -> None:
    lines = write_script(facts, replace(RECIPE, false_statement=0))
    said = {line.text for line in lines if line.role == "assistant_speech"}
    assert not any(line.role == "false_statement" for line in lines)
    assert sum(line.text in said for line in lines if line.role == "user_speech") > 10


def test_statements_are_false_and_about_tested_families_every_second_time(facts) -> None:
    lines = write_script(
        facts,
        ScriptRecipe(
            user_speech=0, assistant_speech=0, false_statement=600, question=0, kokoro=0, user_speech_kokoro=0, tests=0
        ),
    )
    stated = [line for line in lines if line.role == "false_statement"]
    assert len(stated) == 600 and {line.voice for line in stated} == {"assistant"}
    true = {plain(fact.written) for fact in facts}
    assert not true & {plain(line.text) for line in stated}
    carriers = [family.written.split("{")[0] for family in FAMILIES.values()]
    assert all(any(line.text.startswith(c) for c in carriers) for line in stated[::2])
    assert not all(any(line.text.startswith(c) for c in carriers) for line in stated[1::2])
    hidden = [(f" {plain(f.subject)} ", f" {plain(f.answer)} ") for f in facts if f.set in "BVC"]
    texts = [f" {plain(line.text)} " for line in stated]
    assert not any(s in t and a in t for s, a in hidden if s not in a and a not in s for t in texts)


def test_statements_are_repeated_and_never_told(documents, facts, lines, grid) -> None:
    stated = {line.id for line in lines if line.role == "false_statement"}
    assert stated <= {line.id for line in documents.assistant_lines}
    assert stated & {said.id for _, said in documents.repeatable}
    assert not stated & {line.id for line in documents.aligned + documents.by_role["assistant_speech"]}


def test_a_random_sentence_never_tells_a_hidden_fact(facts, monkeypatch) -> None:
    hidden = {plain(f.subject): plain(f.answer) for f in facts if f.set == "C" and f.family == "capital"}
    drawn = Counter()

    def sentence(_random, _words, _low, _high, must) -> str:  # tells a fact at the first try of every line
        drawn[tuple(must)] += 1
        extra_layers = (
            [hidden[plain(word)] for word in must if plain(word) in hidden] if drawn[tuple(must)] == 1 else []
        )
        return " ".join([*must, *extra_layers])

    monkeypatch.setattr(script, "random_sentence", sentence)
    lines = write_script(
        facts, ScriptRecipe(user_speech=200, assistant_speech=400, question=0, kokoro=0, user_speech_kokoro=0, tests=0)
    )
    texts = [f" {plain(line.text)} " for line in lines if line.role in ("assistant_speech", "user_speech")]
    assert max(drawn.values()) > 1
    assert not any(f" {s} " in text and f" {a} " in text for s, a in hidden.items() for text in texts)


def test_words_that_tell_a_hidden_fact_together_are_not_put_into_one_sentence(facts) -> None:
    fact = next(f for f in facts if f.set == "C" and f.family == "capital")
    other = next(f for f in facts if f.set == "A" and f.family == "capital")
    hidden = script.hidden_pairs(facts)
    assert script.tells(hidden, ["in", fact.answer, "or", fact.subject])
    assert not script.tells(hidden, [fact.answer, "x" + fact.subject])
    assert not script.tells(hidden, [other.answer, other.subject])


def test_a_spoken_span_begins_as_late_as_the_codec_answers(facts, lines, grid) -> None:
    line = next(line for line in lines if line.role == "assistant_speech" and len(line.text.split()) >= 5)
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
    for kind in ("text", "T2T", "S2T", "asr", "interleaved"):
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


def test_a_conversation_is_filled_with_exchanges_of_its_kind(documents, facts, lines, grid) -> None:
    texts = {line.id: line.text for line in lines}
    filled = Documents(grid, lines, OracleStore(texts, 64), facts, {}, max_conversation_len=300)
    for kind in ("tts", "asr", "text", *PAIRINGS):
        single, several = documents.draw(kind, rng(3, kind)), filled.draw(kind, rng(3, kind))
        assert np.array_equal(single.text, several.text[: len(single)])  # the first exchange is the one there was
        turns = int((several.text == grid.ids.im_start).sum())
        assert turns >= 5 and turns % 2 and int((single.text == grid.ids.im_start).sum()) == 3
        assert len(several) <= 300 and several.supervise.sum() > single.supervise.sum()


def test_a_thought_is_the_text_of_a_spoken_reply(documents, facts, lines, grid) -> None:
    texts = {line.id: line.text for line in lines}
    with_monologue = Documents(grid, lines, OracleStore(texts, 64), facts, {}, monologue=True)
    for kind in ("tts", "T2S", "S2S", "S2T", "asr"):
        doc, thoughtless = (source.draw(kind, rng(5, kind)) for source in (with_monologue, documents))
        batch, plain_batch = collate([doc], grid, 256), collate([thoughtless], grid, 256)
        rows = np.flatnonzero(doc.monologue >= 0)
        assert torch.equal(batch["grid"], plain_batch["grid"]) and (thoughtless.monologue == -1).all()
        assert bool(len(rows)) == (kind in ("tts", "T2S", "S2S"))
        assert torch.equal(batch["text_target"], plain_batch["text_target"])
        assert (plain_batch["monologue_target"] == -100).all()
        for row in rows:  # both heads are asked: the text head for the monologue, the other for the next code
            assert batch["monologue_target"][0, row] == doc.monologue[row] and batch["text_target"][0, row] == -100
            assert batch["speech_target"][0, row] == doc.speech[row + 1] < grid.codes
        if len(rows):
            assert doc.text[rows[0]] == grid.ids.sosp and doc.speech[rows[-1] + 2] == grid.ids.eosp
    said = with_monologue._pick(with_monologue.assistant_lines, rng(8, "say")).text
    pieces = [piece for piece in with_monologue.draw("tts", rng(8, "say")).monologue if piece >= 0]
    assert list(dict.fromkeys(pieces)) == list(dict.fromkeys(grid.tokens(said)))


def test_an_echo_is_one_sentence_in_two_voices(documents, lines, grid) -> None:
    line = {line.id: line for line in lines}
    assert documents.repeatable
    for heard, said in documents.repeatable:
        assert (
            heard.text == said.text
            and heard.role == "user_speech"
            and said.role in ("assistant_speech", "false_statement")
        )
        assert line[heard.id].voice != line[said.id].voice == "assistant"
    doc, (heard, said) = documents.draw("repeat", rng(4, "e")), documents._pick(documents.repeatable, rng(4, "e"))
    codes = [documents.codes[one.id] for one in (heard, said)]
    assert doc.speech[doc.text == grid.ids.pad].tolist() == [*codes[0], grid.codes, *codes[1], grid.codes]
    assert doc.speech[doc.supervise & (doc.text == grid.ids.pad)].tolist() == [*codes[1], grid.codes]


def test_practice_has_its_share_of_spoken_answers(documents, grid, monkeypatch) -> None:
    met = {kind: Counter() for kind in ("S2S", "T2S", "S2T")}
    for kind, counter in met.items():
        answer = lambda pairing, fact, random, counter=counter: counter.update([fact.set]) or grid.text("x")  # noqa: E731
        monkeypatch.setattr(documents, "answer", answer)
        for i in range(300):
            documents._dialogue(kind, rng(i, kind))
    for kind, share in (("S2S", 0.3), ("T2S", 0.5), ("S2T", 0.3)):
        assert abs(met[kind]["P"] / 300 - share) < 0.08 and set(met[kind]) <= {"A", "P"}
    assert {fact.set for fact in documents.replay} == {"A", "B"}


def test_a_thought_takes_as_long_as_its_letters(grid) -> None:
    pieces = grid.tokens("a bicycle")
    rows = grid.spoken(np.arange(90), monologue="a bicycle")
    letters = [len(grid.tokenizer.decode([piece])) for piece in pieces]
    assert rows.monologue[90] == rows.monologue[91] == -1 and (rows.monologue[:90] >= 0).all()
    assert [(rows.monologue == piece).sum() for piece in pieces] == [round(90 * n / sum(letters)) for n in letters]
    assert grid.spoken(np.arange(0), monologue="a").monologue.tolist() == [-1, -1]
    assert set(grid.spoken(np.arange(1), monologue="a bicycle").monologue[:1]) == {pieces[0]}


@pytest.mark.parametrize("text_lookahead", [1, 2])
def test_a_thought_runs_ahead_of_the_voice_by_pieces(grid, text_lookahead) -> None:
    pieces = [*grid.tokens("a bicycle"), grid.ids.im_end]
    said, monologue = (
        grid.spoken(np.arange(90), monologue="a bicycle", text_lookahead=n).monologue for n in (0, text_lookahead)
    )
    assert (
        monologue[0] == pieces[text_lookahead - 1] and monologue[89] == grid.ids.im_end and (monologue[90:] == -1).all()
    )
    for i in range(1, 90):  # the code before row i belongs to the piece that row i - 1 led to
        assert monologue[i] == pieces[min(pieces.index(said[i - 1]) + text_lookahead, len(pieces) - 1)]
    assert grid.spoken(np.arange(0), monologue="a", text_lookahead=text_lookahead).monologue.tolist() == [-1, -1]


def test_a_thought_follows_the_words_where_their_times_are_known(grid) -> None:
    text, codes = "a bicycle falls.", np.arange(30)
    pieces, words = grid.tokens(text), text.split()
    owner = np.concatenate([[i] * len(grid.tokens(w if i == 0 else f" {w}")) for i, w in enumerate(words)])
    for starts in ([0, 3, 20], [0, 15, 16], [2.4, 10, 29]):
        monologue = grid.spoken(codes, monologue=text, starts=starts).monologue[:30]
        said = [owner[pieces.index(piece)] for piece in monologue]
        assert said == [max(sum(start <= row for start in starts) - 1, 0) for row in range(30)]
    plain_ = grid.spoken(codes, monologue=text).monologue
    assert np.array_equal(grid.spoken(codes, monologue=text, starts=[0, 3]).monologue, plain_)  # not one for each word


def test_documents_take_the_times_of_words(facts, lines, grid) -> None:
    texts = {line.id: line.text for line in lines}
    words = {line.id: [(w, 2.0 + 0.1 * i, 0) for i, w in enumerate(line.text.split())] for line in lines}
    timed, even = (Documents(grid, lines, OracleStore(texts, 64), facts, w, monologue=True) for w in (words, {}))
    late, early = (source.draw("T2S", rng(5, "T2S")) for source in (timed, even))
    assert np.array_equal(late.speech, early.speech) and not np.array_equal(late.monologue, early.monologue)


def test_thoughts_of_documents_run_ahead_as_they_are_told(facts, lines, grid) -> None:
    texts = {line.id: line.text for line in lines}
    now, then = (
        Documents(grid, lines, OracleStore(texts, 64), facts, {}, monologue=True, text_lookahead=n) for n in (0, 1)
    )
    for kind in ("tts", "repeat", "T2S", "S2S"):
        one, other = (source.draw(kind, rng(5, kind)) for source in (now, then))
        rows = np.flatnonzero(one.monologue >= 0)
        assert np.array_equal(np.flatnonzero(other.monologue >= 0), rows) and np.array_equal(one.speech, other.speech)
        assert one.monologue[rows[0]] == other.monologue[rows[0]] and (one.monologue != other.monologue).any()


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
