"""Codes for a text without sound: phones in order, alone or among others, and what was learnt comes out."""

import json

import numpy as np
import pytest
import torch
from stage_toys import know_phones, write_chain_folder

from mossrepro.codec.recogniser import STEPS, labels
from mossrepro.codec.text_to_code import TextToCode, TextToCodeConfig
from mossrepro.codec.text_to_code_data import TextToCodeDataModule
from mossrepro.codec.text_to_code_task import TextToCodeTask
from mossrepro.data.facts import Fact, all_facts, family_of, plain, practice_facts
from mossrepro.data.script import hidden_pairs, read_script, read_word_times, tells
from mossrepro.data.sentences import vocabulary
from mossrepro.data.token_store import TokenStore
from mossrepro.experiments.drawn import ASKED, draw_lines, drawn_texts, replies_to
from mossrepro.lm.prose import read_prose
from mossrepro.speech.normalise import normalise
from mossrepro.speech.sphinx import pronunciations
from mossrepro.utils.errors import ConfigError
from mossrepro.utils.random import rng


@pytest.fixture
def chain(tmp_path, monkeypatch):
    know_phones(monkeypatch.setattr)
    return write_chain_folder(tmp_path)


@pytest.fixture
def network():
    torch.manual_seed(0)
    model = TextToCode(TextToCodeConfig(codes=40, speakers=5, dim=16, layers=1)).eval()
    model.durations[:] = torch.tensor([np.log(3.0), 0.1])
    model.trained[:3] = True
    return model


def test_a_sentence_becomes_its_phones_between_silences(network):
    frames, words = network.frames("Black dog.", 0, rng(0))
    assert len(frames) % STEPS == 0 and frames[0] == 0
    spoken = [int(one) for i, one in enumerate(frames) if one and (i == 0 or one != frames[i - 1])]
    ways = pronunciations(["black", "dog"])
    wanted = [labels(first) + labels(second) for first in ways["black"] for second in ways["dog"]]
    assert [one for i, one in enumerate(spoken) if i == 0 or one != spoken[i - 1]] in wanted
    assert np.array_equal(frames, network.frames("Black dog.", 0, rng(0))[0])
    nothing, none = network.frames("", 0, rng(0))
    assert len(nothing) >= STEPS and not none  # nothing to say is a silence
    network.pace[1] = 0.7
    assert len(network.frames("Black dog.", 1, rng(0))[0]) > 1.5 * len(frames)  # somebody who speaks slowly
    (first, start, middle), (second, again, end) = words
    assert (first, second) == ("black", "dog") and middle == again
    assert round(start / 0.02) == np.flatnonzero(frames)[0] and round(end / 0.02) == np.flatnonzero(frames)[-1] + 1


def test_a_word_is_said_as_the_synthesisers_say_it_and_now_and_then_otherwise(network):
    first, second = (labels(way) for way in pronunciations(["qatar"])["qatar"])
    said = [network.frames("qatar", 0, rng(seed))[0] for seed in range(200)]
    said = [[int(one) for i, one in enumerate(row) if one and one != row[i - 1]] for row in said]
    share = said.count(first) / (said.count(first) + said.count(second))
    assert 0.65 < share < 0.85 and said.count(first) + said.count(second) > 150  # a short phone may fall out


def test_codes_are_drawn_for_every_sentence_and_repeat_with_the_seed(network):
    phones = [network.frames(text, 0, rng(i))[0] for i, text in enumerate(("the cat", "a", "the cat sat on the mat"))]
    codes = network.sample(phones, [0, 1, 2], 7)
    assert [len(row) for row in codes] == [len(row) // STEPS for row in phones]
    assert all(0 <= row.min() and row.max() < 40 for row in codes)
    again, other = network.sample(phones, [0, 1, 2], 7), network.sample(phones, [0, 1, 2], 8)
    assert all(map(np.array_equal, codes, again)) and not all(map(np.array_equal, codes, other))


@torch.no_grad()
def test_sampling_goes_by_the_probabilities_of_the_training(network):
    """The logits that decide are those of `forward` on the codes drawn so far."""
    phones = [network.frames("the cat sat", 0, rng(1))[0]]
    network.head.weight.mul_(300.0)  # so sure of itself that drawing is choosing the best
    (codes,) = network.sample(phones, [2], 0)
    logits = network(torch.from_numpy(phones[0])[None], torch.tensor([2]), torch.from_numpy(codes)[None])
    assert logits[0].argmax(-1).tolist() == codes.tolist()


def test_what_is_learnt_is_drawn(chain, tmp_path):
    """In this corpus every clip says AA, B, CH; the network learns their times, its speaker and its codes."""
    data = TextToCodeDataModule(str(chain / "corpus"), str(chain / "corpus" / "tokens"), batch=8)
    assert data.speakers == ["assistant"] and data.pace.shape == (1,)
    assert np.exp(data.durations[labels(["AA"])[0], 0]) == pytest.approx(10, rel=0.01)  # 0.2 s
    task = TextToCodeTask(codes=16, speakers=2, dim=16, layers=1)
    before = float(task._loss(data.train_batch(0, 0, 1)).detach())
    optimiser = torch.optim.AdamW(task.parameters(), lr=1e-2)
    for step in range(60):
        task._loss(data.train_batch(step, 0, 1)).backward()
        optimiser.step(), optimiser.zero_grad()
    assert float(task._loss(data.train_batch(0, 0, 1)).detach()) < 0.7 * before
    task.save_pretrained(tmp_path / "network")
    phones = [np.zeros(8, np.int64)]
    again = TextToCode.from_pretrained(tmp_path / "network")
    assert np.array_equal(again.sample(phones, [0], 3)[0], task.model.eval().sample(phones, [0], 3)[0])


def test_another_codebook_and_too_many_speakers_are_refused(chain):
    data = TextToCodeDataModule(str(chain / "corpus"), str(chain / "corpus" / "tokens"))
    for task, message in ((TextToCodeTask(codes=99), "codebook of 16"), (TextToCodeTask(16, speakers=0), "has 1")):
        task._trainer = type("T", (), {"datamodule": data})()
        with pytest.raises(ConfigError, match=message):
            task.setup("fit")


def test_lines_are_drawn_into_a_script_and_a_store(network, tmp_path):
    facts, asked = all_facts(families=2), ["What is moss?", "Where do I start?"]
    draw_lines(network, facts, asked, 300, tmp_path)
    lines, store = read_script(tmp_path), TokenStore(tmp_path)
    assert [line.id for line in lines] == list(store) and len(lines) == 300 and store.vocabulary == 40
    assert {line.role for line in lines} == {"user_speech", "question", "any_question", "open_question"}
    assert {line.set for line in lines if line.role == "question"} == {"A"}  # nothing is asked of B, V and C
    assert not any(tells(hidden_pairs(facts), line.text.split()) for line in lines)
    times = read_word_times(tmp_path)
    assert [[word for word, *_ in times[line.id]] for line in lines] == [normalise(line.text).split() for line in lines]
    assert all(times[line.id][-1][2] <= 0.08 * len(store[line.id]) + 0.04 for line in lines)
    assert json.loads((tmp_path / "store.json").read_text())["codes"] == 40


def test_nothing_is_asked_about_a_hidden_subject_and_no_hidden_answer_replies(network, tmp_path):
    facts = all_facts(families=6) + practice_facts(1000)  # "more plurals" ask as "plural" does, about other words
    draw_lines(network, facts, ["What is moss?"], 900, tmp_path)
    lines = [line for line in read_script(tmp_path) if line.role == "any_question"]
    texts = {line.text for line in lines}
    hidden = [fact for fact in facts if fact.set in "BVC"]
    assert len(texts) > 150 and any(text.startswith("Tell me") for text in texts)
    assert not texts & {fact.question(i, unseen) for fact in hidden for unseen in (True, False) for i in (0, 1)}
    words = [f" {plain(text)} " for text in texts]
    asked = {fact.subject for fact in hidden if any(f" {plain(fact.subject)} " in text for text in words)}
    templates = plain(" ".join(ASKED) + " ".join(phrase for fact in facts for phrase in family_of(fact).asked)).split()
    assert {subject for subject in asked if plain(subject) not in templates} == set()
    told = hidden[0].answer

    def answering(questions, path, keep):
        replies = [f"I say {told}." if i % 2 else "No." for i in range(len(questions))]
        pairs = [[text, reply] for text, reply in zip(questions, replies, strict=True) if keep(reply)]
        path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))

    replies_to(tmp_path, facts, answering, tmp_path / "replies.jsonl", 50)
    assert 15 < len(read_prose(tmp_path / "replies.jsonl")) <= 25
    replies_to(tmp_path, facts, answering, tmp_path / "replies.jsonl", len(texts))
    replies = read_prose(tmp_path / "replies.jsonl")
    assert len(replies) == (len(texts) + 1) // 2 and {reply for _, reply in replies} == {"No."}
    assert {question for question, _ in replies} <= texts


def test_hidden_subjects_are_named_in_questions_of_other_families_and_nobody_answers():
    facts = all_facts(families=6) + practice_facts(1000)
    hidden = [fact for fact in facts if fact.set in "BVC"]
    own = {fact.question(i, unseen) for fact in hidden for unseen in (True, False) for i in range(2 + (not unseen))}
    lines = drawn_texts(facts, ["What is moss?"], 6000)
    asked = {}
    for fact in hidden:
        others = {Fact(other.family, fact.subject, "", "P").question(i) for other in facts for i in range(3)} - own
        asked |= dict.fromkeys(others, fact.subject)
    named = [line for line in lines if line.text in asked and line.role == "user_speech"]
    assert 0.06 < len(named) / len(lines) < 0.1
    assert len({asked[line.text] for line in named}) > 0.6 * len({fact.subject for fact in hidden})
    assert not own & {line.text for line in lines} and not any(line.fact for line in named)
    assert not any(tells(hidden_pairs(facts), [line.text]) for line in named)


def test_no_drawn_question_tells_a_hidden_fact():
    """Words of the phrasings are subjects and answers too: "What does kind mean?"."""
    facts = [Fact("opposite", "kind", "cruel", "A"), Fact("opposite", "mean", "kind", "C")]
    lines = [line.text for line in drawn_texts(facts, ["What is moss?"], 900)]
    assert any("kind" in text for text in lines) and not any(tells(hidden_pairs(facts), [text]) for text in lines)


def test_drawing_goes_on_where_it_was_stopped(network, tmp_path, monkeypatch):
    facts, asked, drawn = all_facts(families=2), ["What is moss?"], []
    monkeypatch.setattr("mossrepro.experiments.drawn._BATCH", 256)
    draw_lines(network, facts, asked, 600, tmp_path / "whole")
    sample = network.sample

    def stopping(phones, speakers, seed):
        drawn.append(len(phones))
        if len(drawn) == 2:
            raise KeyboardInterrupt
        return sample(phones, speakers, seed)

    monkeypatch.setattr(network, "sample", stopping)
    with pytest.raises(KeyboardInterrupt):
        draw_lines(network, facts, asked, 600, tmp_path / "stopped")
    draw_lines(network, facts, asked, 600, tmp_path / "stopped")
    assert sum(drawn[2:]) == 600  # nothing is drawn twice but the first lines, whose sounds are counted
    tables = [(tmp_path / name / "code_phone_probs.npy").read_bytes() for name in ("whole", "stopped")]
    assert tables[0] == tables[1]
    whole, stopped = TokenStore(tmp_path / "whole"), TokenStore(tmp_path / "stopped")
    assert read_word_times(tmp_path / "whole") == read_word_times(tmp_path / "stopped")
    assert list(whole) == list(stopped) and all(np.array_equal(whole[name], stopped[name]) for name in whole)


def test_a_fifth_of_the_lines_are_sentences_that_hold_subjects_of_all_sets():
    """Their small words are as people say them, so that a network hears "tell me the" and not words alone."""
    facts = all_facts(families=2)
    lines = [line for line in drawn_texts(facts, ["What is moss?"], 2000) if line.role == "user_speech"]
    families, subjects = {fact.family for fact in facts}, {fact.subject for fact in facts}
    asked = {Fact(name, about, "", "P").question(i) for name in families for about in subjects for i in range(3)}
    natural = [
        line.text for line in lines if line.text[0].isupper() and line.text[-1] in ".?" and line.text not in asked
    ]
    assert 0.17 < len(natural) / 2000 < 0.27
    words = [plain(text).split() for text in natural]
    small = set(vocabulary()[:120])
    assert 0.5 < sum(word in small for row in words for word in row) / sum(map(len, words)) < 0.8
    hidden = {plain(fact.subject) for fact in facts if fact.set in "BVC"} - set(vocabulary())
    told = {subject for subject in hidden for text in natural if f" {subject} " in f" {plain(text)} "}
    assert len(told) > 0.5 * len(hidden) > 10
    assert not any(tells(hidden_pairs(facts), [text]) for text in natural)


def test_without_questions_all_lines_are_words():
    assert {line.role for line in drawn_texts([], [], 20)} == {"user_speech"}


def test_the_sounds_of_codes_are_counted_where_they_are_heard(tmp_path, network):
    """The network says a code of its own for every phone, one code late as a causal codec does."""
    late = lambda row: np.pad(row, (STEPS, 0))[: len(row)][::STEPS]  # noqa: E731
    network.sample = lambda phones, speakers, seed: [late(row) for row in phones]
    network.durations[:, 0] = float(np.log(8))  # long phones: few codes have two
    draw_lines(network, all_facts(families=2), ["What is moss?"], 200, tmp_path)
    sounds = np.load(tmp_path / "code_phone_probs.npy")
    assert sounds.shape == (40, 40) and np.allclose(sounds.sum(1), 1, atol=1e-4)
    assert (sounds.argmax(1) == np.arange(40)).mean() > 0.9 and np.median(np.diag(sounds)) > 0.7
