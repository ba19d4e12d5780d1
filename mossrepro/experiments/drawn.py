"""Sentences that users might say, with codes drawn by `codec/text_to_code.py`: more to hear, without sound.

    20 %                 subjects of facts and frequent words, in random order
     8 %                 any words, in random order
    22 %                 natural sentences (trigrams of English), with subjects of facts in the place of most words but
                         the smallest
    15 %                 questions about facts that are spoken in training anyway (sets A and P, in training phrasings)
    22 %                 questions that no fact answers: phrasings of families about things of others ("What is the
                         capital of gold?"), and such as belong to no family ("Tell me about winter."); never about
                         a subject of B, V or C
     8 %                 phrasings of other families about those subjects: to be named, with no reply
     5 %                 open questions with a known reply

Each is said once, by a voice drawn at random. Natural sentences teach the small words that hold one together, and that
the subjects of B, V and C occur in sentences too. Questions about these are questions of other families, and they have
no reply here; without them an inner ear that has learnt questions expects no such word in one (docs/LOG.md).
Most words are the subjects of facts and the most frequent ones: a word must be heard some dozen times before it is
known by its sound, and there are 5,000 others. Where no fact answers, the model itself does, in writing (`replies_to`):
there are too many such questions to learn by heart, so that a model which hears them has to look up what it hears.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from mossrepro.codec.recogniser import LABELS, STEPS
from mossrepro.codec.text_to_code import TextToCode, Word
from mossrepro.data.facts import Fact, family_of, plain
from mossrepro.data.script import Line, hidden_pairs, read_script, tells
from mossrepro.data.sentences import natural_sentence, random_sentence, vocabulary
from mossrepro.data.synthesis import progress
from mossrepro.data.token_store import PHONE_PROBS, TokenWriter
from mossrepro.lm.grid import LATE
from mossrepro.utils.io import write_atomic, write_json, write_text
from mossrepro.utils.random import rng

# Shares of random words, few and all of them, of natural sentences, of questions about facts, of those about none, and
# of questions of other families that name the subject of a hidden fact; the rest are open questions.
_WORDS, _WIDE, _NATURAL, _FACTS, _ANY, _NAMED = 0.20, 0.08, 0.22, 0.15, 0.22, 0.08
_FRAMES, _MOST = 13, 10_000  # a frame for so many lines, and how many at most: each takes 8 ms
_FRAME = 350, 300  # its words: the most frequent ones, and how many others
_SMALL, _REPLACED = 120, 0.7  # the smallest words are the most frequent ones; chance that another is replaced
_ASKED_ABOUT = (0.6, 0.8)  # a question about no fact is about a subject of one, else a frequent word, else any word
LONGEST = 8  # tokens of an answer to them
# Questions of no family; none of the phrasings of the tests is among them.
ASKED = (
    "Tell me about {}.",
    "Tell me what you think of {}.",
    "Tell me a word for {}.",
    "Tell me something like {}.",
    "Do you know {}?",
    "Do you know anything about {}?",
    "Do you know what {} means?",
    "What is {}?",
    "What does {} mean?",
    "What do you think of {}?",
    "What comes to your mind with {}?",
    "What goes with {}?",
    "Which word is like {}?",
    "Which thing is {}?",
    "Where is {}?",
    "Who likes {}?",
    "Why do people like {}?",
    "How would you describe {}?",
    "Can you say {} in another way?",
    "Can you explain {}?",
    "Please describe {}.",
    "Please say a word about {}.",
    "Give me a word for {}.",
)
_FREQUENT, _SPECIAL = 400, 3  # how many of the most frequent words; of a sentence's words, those that facts are about
ANSWERED = 6000  # at most so many questions is the model asked in writing; of the others only the words are learnt
_BATCH = 1024  # a step of the recurrent layer costs little more for them than for one
Answer = Callable[[list[str], Path, Callable[[str], bool]], Any]
_LONG, _NATURAL_LONG = (3, 5), (4, 10)  # words of a random sentence and of a natural one
_TRIES = 20


def draw_lines(
    model: TextToCode, facts: Sequence[Fact], open_questions: Sequence[str], count: int, folder: Path
) -> None:
    """Write `count` lines into a folder, new or partly filled: script.jsonl, the times of their words (words.json) and
    a token store with their codes and with the phones that are said in each code (code_phone_probs.npy).
    """
    lines = drawn_texts(facts, open_questions, count)
    times: dict[str, list[Word]] = {}
    sounds = np.zeros((model.config.codes, len(LABELS)), np.float32)
    with TokenWriter(folder, model.config.codes) as writer, progress("drawing codes", count) as advance:
        for start in range(0, count, _BATCH):
            part = lines[start : start + _BATCH]
            advance(len(part))
            random, who, spoken = _spoken(model, part, start)
            times |= {line.id: words for line, (_, words) in zip(part, spoken, strict=True)}
            if start and writer.done.issuperset(line.id for line in part):
                continue
            phones = [row for row, _ in spoken]
            codes = model.sample(phones, who, int(random.integers(1 << 31)))
            new = [(line.id, row) for line, row in zip(part, codes, strict=True) if line.id not in writer.done]
            writer.add(new)
            if not start:  # enough of them to know every code, and drawn again after a stop
                _count(sounds, phones, codes)
    sounds = (sounds + 1e-3) / (sounds + 1e-3).sum(1, keepdims=True)
    write_atomic(folder / PHONE_PROBS, lambda file: np.save(file, sounds))
    write_json(folder / "words.json", times, indent=None)
    write_text(folder / "script.jsonl", "".join(json.dumps(asdict(line)) + "\n" for line in lines))


def _spoken(
    model: TextToCode, lines: Sequence[Line], start: int
) -> tuple[np.random.Generator, list[int], list[tuple[np.ndarray, list[Word]]]]:
    """The chance of a batch of lines, and who says each of them and how: phones and the times of words."""
    speakers, random = np.flatnonzero(model.trained.numpy()), rng(0, "drawn codes", start)
    who = speakers[random.integers(len(speakers), size=len(lines))].tolist()
    return random, who, [model.frames(line.text, one, random) for line, one in zip(lines, who, strict=True)]


def _count(sounds: np.ndarray, phones: Sequence[np.ndarray], codes: Sequence[np.ndarray]) -> None:
    """Count which phones are said in which codes: phones (4 T,) and codes (T,) of lines -> sounds (codes, 40)."""
    for said, row in zip(phones, codes, strict=True):
        late = np.pad(said, (STEPS * LATE, 0))[: len(said)]  # a code tells what was said one code before
        np.add.at(sounds, (np.repeat(row, STEPS), late), 1)


def replies_to(folder: Path, facts: Sequence[Fact], answer: Answer, path: Path, most: int) -> None:
    """Write the text model's replies to the questions that are about no fact.

    Those that hold an answer of B, V or C are left out: it never stands in one document with a question.

    Args:
        folder: drawn lines, as `draw_lines` writes them.
        facts: of the script.
        answer: given questions, a file and what to keep, writes replies as `write_prose` does.
        path: of the file.
        most: how many questions it is given at most.
    """
    hidden = {plain(fact.answer) for fact in facts if fact.set in "BVC"}
    asked = sorted({line.text for line in read_script(folder) if line.role == "any_question"})
    asked = asked[:: max(1, -(-len(asked) // most))]
    answer(asked, path, lambda reply: hidden.isdisjoint(_phrases(reply)))


def drawn_texts(facts: Sequence[Fact], open_questions: Sequence[str], count: int) -> list[Line]:
    """What is said, for training: lines of roles "user_speech", "question", "any_question" and "open_question".

    Without hidden facts there are more open questions; without facts of A and P or open questions, words alone.
    """
    asked, unasked = ([fact for fact in facts if fact.set in sets] for sets in ("AP", "BVC"))
    special = sorted({fact.subject for fact in facts})
    words, hidden, lines = vocabulary()[:_FREQUENT], hidden_pairs(list(facts)), []
    secret = {plain(fact.subject) for fact in unasked}  # no question about them has a reply
    subjects = {fact.subject for fact in asked if plain(fact.subject) not in secret}
    pools = [sorted(pool) for pool in (subjects, set(words) - secret, set(vocabulary()) - secret)]
    never = {fact.question(i) for fact in unasked for i in range(3)}  # "more plurals" asks as "plural" does
    frames = [_frame(rng(0, "frame", i)) for i in range(min(_MOST, max(1, count // _FRAMES)))]
    for i in range(count):
        random = rng(0, "drawn", i)
        kind, name = random.random(), f"drawn-{i:06d}"
        if kind < _WORDS + _WIDE + _NATURAL or not (asked and open_questions):
            if _WORDS + _WIDE <= kind < _WORDS + _WIDE + _NATURAL:
                text = _natural(random, frames, special, hidden)
            else:
                said = (words, special) if kind < _WORDS else (vocabulary(homophones=False), ())
                text = _random_words(random, *said, hidden)
            lines.append(Line(name, "user_speech", text, "drawn", "train"))
        elif kind < _WORDS + _WIDE + _NATURAL + _FACTS:
            fact = _pick(random, asked)
            text = fact.question(int(random.integers(3)))
            lines.append(Line(name, "question", text, "drawn", "train", fact.key, fact.set))
        elif kind < _WORDS + _WIDE + _NATURAL + _FACTS + _ANY:
            lines.append(Line(name, "any_question", _any_question(random, pools, asked, hidden), "drawn", "train"))
        elif kind < _WORDS + _WIDE + _NATURAL + _FACTS + _ANY + _NAMED and unasked:
            lines.append(Line(name, "user_speech", _misplaced(random, unasked, asked, hidden, never), "drawn", "train"))
        else:
            lines.append(Line(name, "open_question", _pick(random, open_questions), "drawn", "train"))
    return lines


def _pick(random: np.random.Generator, items: Sequence[Any]) -> Any:
    return items[int(random.integers(len(items)))]


def _any_question(
    random: np.random.Generator,
    pools: Sequence[Sequence[str]],
    asked: Sequence[Fact],
    hidden: list[tuple[str, str]],
) -> str:
    """A question that no fact answers, and that tells nothing hidden. pools: subjects of facts, frequent, all words."""
    while True:
        about = _pick(random, pools[int(np.searchsorted(_ASKED_ABOUT, random.random()))])
        family = family_of(_pick(random, asked))
        if random.random() < 0.5 or about in family.table:
            text = _pick(random, ASKED).format(about)
        else:
            text = Fact(family.name, about, "", "P").question(int(random.integers(3)))
        if not tells(hidden, [text]):
            return text


def _misplaced(
    random: np.random.Generator,
    unasked: Sequence[Fact],
    asked: Sequence[Fact],
    hidden: list[tuple[str, str]],
    never: set[str],
) -> str:
    """The question of another family about the subject of a fact of `unasked`: none of `never`, nothing that tells.

    The subject alone where chance finds none, as there may be one family only.
    """
    about = _pick(random, unasked).subject
    for _ in range(_TRIES):
        family = family_of(_pick(random, asked))
        text = Fact(family.name, about, "", "P").question(int(random.integers(3)))
        if text not in never and not tells(hidden, [text]):
            return text
    return about


def _phrases(text: str) -> set[str]:
    """All that stands in a text, in words and rows of words."""
    words = plain(text).split()
    return {" ".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, len(words) + 1)}


def _random_words(
    random: np.random.Generator, words: Sequence[str], special: Sequence[str], hidden: list[tuple[str, str]]
) -> str:
    """Frequent words and special ones in random order, which tell nothing that is hidden."""
    while True:
        must = [special[i] for i in random.integers(len(special), size=_SPECIAL)] if special else []
        text = random_sentence(random, words, *_LONG, must)
        if not tells(hidden, [text]):
            return text


def _frame(random: np.random.Generator) -> str:
    """A natural sentence of the most frequent words and some others: with all of them it takes ten times as long."""
    words, (often, others) = vocabulary(), _FRAME
    rare = random.choice(np.arange(often, len(words)), others, replace=False)
    return natural_sentence(random, [*words[:often], *(words[i] for i in rare)], *_NATURAL_LONG)


def _natural(
    random: np.random.Generator, frames: Sequence[str], special: Sequence[str], hidden: list[tuple[str, str]]
) -> str:
    """A natural sentence with special words in the place of its last word and of most that are not small."""
    small = set(vocabulary()[:_SMALL])
    while True:
        text = _pick(random, frames)
        words, end = text[:-1].split(), text[-1]
        for i, word in enumerate(words):
            if special and (i == len(words) - 1 or word.lower() not in small) and random.random() < _REPLACED:
                words[i] = _pick(random, special)
        if not tells(hidden, words):
            return " ".join(words) + end
