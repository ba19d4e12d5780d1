"""Sentences that users might say, with codes drawn by `codec/text_to_code.py`: more to hear, without sound.

Three quarters are words in random order, a fifth questions about facts that are spoken in training anyway (sets A and
P, in the phrasings of the training), the rest open questions with a known reply. Each is said once, by a voice drawn at
random. The words are the subjects of facts and the most frequent ones: a word must be heard some dozen times before it
is known by its sound, and an open vocabulary would take hours.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from mossrepro.codec.text_to_code import TextToCode, Word
from mossrepro.data.facts import Fact
from mossrepro.data.script import Line, hidden_pairs, tells
from mossrepro.data.sentences import random_sentence, vocabulary
from mossrepro.data.synthesis import progress
from mossrepro.data.token_store import TokenWriter
from mossrepro.utils.io import write_json, write_text
from mossrepro.utils.random import rng

_WORDS, _FACTS = 0.75, 0.2  # shares of random words and of questions about facts
_FREQUENT, _SPECIAL = 400, 3  # how many of the most frequent words; of a sentence's words, those that facts are about
_BATCH = 256
_LONG = (3, 5)  # words of a random sentence


def draw_lines(
    model: TextToCode, facts: Sequence[Fact], open_questions: Sequence[str], count: int, folder: Path
) -> None:
    """Write `count` lines into a folder, new or partly filled: script.jsonl, the times of their words (words.json) and
    a token store with their codes.
    """
    speakers, lines = np.flatnonzero(model.trained.numpy()), drawn_texts(facts, open_questions, count)
    times: dict[str, list[Word]] = {}
    with TokenWriter(folder, model.config.codes) as writer, progress("drawing codes", count) as advance:
        for start in range(0, count, _BATCH):
            part = lines[start : start + _BATCH]
            advance(len(part))
            random = rng(0, "drawn codes", start)
            who = speakers[random.integers(len(speakers), size=len(part))].tolist()
            spoken = [model.frames(line.text, speaker, random) for line, speaker in zip(part, who, strict=True)]
            times |= {line.id: words for line, (_, words) in zip(part, spoken, strict=True)}
            if writer.done.issuperset(line.id for line in part):
                continue
            phones = [row for row, _ in spoken]
            codes = model.sample(phones, who, int(random.integers(1 << 31)))
            new = [(line.id, row) for line, row in zip(part, codes, strict=True) if line.id not in writer.done]
            writer.add(new)
    write_json(folder / "words.json", times, indent=None)
    write_text(folder / "script.jsonl", "".join(json.dumps(asdict(line)) + "\n" for line in lines))


def drawn_texts(facts: Sequence[Fact], open_questions: Sequence[str], count: int) -> list[Line]:
    """What is said: lines with roles "user_speech", "question" and "open_question", all for training."""
    asked = [fact for fact in facts if fact.set in "AP"]
    special = sorted({fact.subject for fact in facts})
    words, hidden, lines = vocabulary()[:_FREQUENT], hidden_pairs(list(facts)), []
    for i in range(count):
        random = rng(0, "drawn", i)
        kind, name = random.random(), f"drawn-{i:06d}"
        if kind < _WORDS or not (asked and open_questions):
            lines.append(Line(name, "user_speech", _random_words(random, words, special, hidden), "drawn", "train"))
        elif kind < _WORDS + _FACTS:
            fact = asked[int(random.integers(len(asked)))]
            text = fact.question(int(random.integers(3)))
            lines.append(Line(name, "question", text, "drawn", "train", fact.key, fact.set))
        else:
            text = open_questions[int(random.integers(len(open_questions)))]
            lines.append(Line(name, "open_question", text, "drawn", "train"))
    return lines


def _random_words(
    random: np.random.Generator, words: Sequence[str], special: Sequence[str], hidden: list[tuple[str, str]]
) -> str:
    """Frequent words and special ones in random order, which tell nothing that is hidden."""
    while True:
        must = [special[i] for i in random.integers(len(special), size=_SPECIAL)] if special else []
        text = random_sentence(random, words, *_LONG, must)
        if not tells(hidden, [text]):
            return text
