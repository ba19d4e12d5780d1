"""Documents: the training examples of each stage, as positions of the two-channel grid.

asr          spoken sentence or question -> its text               (alignment: recognition)
tts          written sentence, statement or answer -> the assistant's speech (alignment: text-to-speech)
repeat       spoken sentence of a user   -> the same, spoken by the assistant (recognition and text-to-speech)
words        one to three written words -> the same in the assistant's speech   (Stage 1 of the form "word")
style        written questions of A and P, a few words to repeat, under either system turn: to teach a form in text
prose        a written question -> what the backbone itself replies, in a sentence   (text replay of the form "word")
open         a spoken question of no table -> the same reply: what was written to the written question (ears)
any          a spoken question of any kind -> what the model answers in this form when it is written (ears)
interleaved  one sentence, spans of text and of speech in turn     (paper, section on data: interleaved documents)
speech       plain speech, every code supervised                   (paper: unsupervised speech)
text         written questions of A and B, written sentences to repeat   (text replay: half `facts`, half `repeat_text`)
facts        written questions about *all* facts: to train a text backbone only, as B, C and V must stay unseen later
S2S S2T T2S T2T  dialogues about facts of A in the four pairings, all but T2T of P too   (paper, section on SFT)

All but `interleaved`, `speech`, `prose` and `open` are conversations: a system turn, then one exchange or several. No
document holds the subject of a hidden fact together with its answer, written or spoken; hidden are C and V, and where
anything is spoken B too. (`facts` tells all.) An exchange that would bring the two together is drawn again.

Facts are answered in one of two forms, which the system turns choose: a short sentence, or, with the system turns
"word", the answer's word alone (" Paris"), as two cores can learn it. A spoken word is any line of the assistant that
says it and nothing else.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import NamedTuple

import numpy as np

from mossrepro.data.facts import Fact, plain
from mossrepro.data.script import Line, hidden_pairs, tells
from mossrepro.lm.grid import LATE, PROSE, Grid, Positions
from mossrepro.lm.twins import MOST_WORDS, Heard, heard_turn
from mossrepro.utils.errors import ConfigError, DataError

REPEAT = "Repeat: "
_COPIED = 0.15  # share of "Repeat:" in documents of kind "style"
_ANSWERS = 0.7  # share of "words" drawn from lines of which every word answers something: what must be said well
_SHORT = 3  # words of a line that counts as words and not as a sentence, at most
_TRIES = 30  # draws of an exchange, at most, until it tells no hidden fact
PAIRINGS = ("S2S", "S2T", "T2S", "T2T")
CONVERSATIONS = ("asr", "any", "tts", "words", "repeat", "text", "style", "facts", "repeat_text", *PAIRINGS)
SPOKEN = ("tts", "words", "repeat", "S2S", "T2S")  # conversations in which the assistant answers by voice
# Written replies, of the form "word" under either system turn; under that for speech they follow SOSP, so that the
# trunk has the word ready where speech begins: the speech tail can only say what it finds there.
EITHER = ("style", "asr", "any", "S2T")
WRITTEN = ("text", "repeat_text", "style", "prose", "T2T")  # documents in which nothing is spoken; `facts` beside them
_PRACTISED = {"S2S": 0.3, "T2S": 0.5, "S2T": 0.3}  # share of the dialogues that are about practice facts


class Exchange(NamedTuple):
    """A part of a document with all the words that are written or spoken in it, but for the system turn.

    `twin`: the same with what the user says in writing (`Positions.twin`).
    """

    positions: Positions
    words: str
    twin: Positions | None = None


class Documents:
    """Draws documents from a script, its codes and, for interleaving, its word times.

    Args:
        grid: builds positions from text and codes.
        lines: the lines of the script.
        codes: id of a line -> its codes, (n,) int64. Lines without are not used (`without_codes`).
        facts: the facts that the lines are about.
        words: id of a line -> [(word, start, end)], in seconds. Lines without are not interleaved, and their
            monologues are aligned by counting letters.
        max_conversation_len: exchanges of one kind are added up to this many positions; 0 for one exchange.
        monologue: an inner monologue (as in Moshi, arXiv 2410.00037): throughout a spoken reply the text head is
            trained on the text being spoken. It is never written into the grid; the loss only teaches the trunk to
            have the answer ready when speech begins.
        text_lookahead: tokens by which the monologue runs ahead of the speech (`Grid.spoken`).
        text_guidance: every spoken reply is written out first. The paper does without; this is an ablation.
        prose: questions with the backbone's own written replies.
        heard: sentences of other people, to be recognised: (text, codes (n,)).
        replies: questions of any kind, which users ask, with the model's own answers in this form.
    """

    def __init__(
        self,
        grid: Grid,
        lines: list[Line],
        codes: Mapping[str, np.ndarray],
        facts: list[Fact],
        words: Mapping[str, list[tuple[str, float, float]]] | None = None,
        max_conversation_len: int = 0,
        monologue: bool = False,
        text_lookahead: int = 0,
        text_guidance: bool = False,
        prose: Sequence[tuple[str, str]] = (),
        heard: Sequence[tuple[str, np.ndarray]] = (),
        replies: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.text_guidance, self.prose, self._numbers = text_guidance, prose, count(0, MOST_WORDS)
        self.one_word = grid.system_turns == "word"
        self.grid, self.codes, self.words, self.max_conversation_len = grid, codes, words or {}, max_conversation_len
        self.monologue, self.text_lookahead = monologue, text_lookahead
        self.facts = {fact.key: fact for fact in facts}
        self.without_codes = [line for line in lines if line.id not in codes]  # `mossrepro predict` may skip some
        lines = [line for line in lines if line.id in codes]
        train = [line for line in lines if line.split == "train"]
        self.by_role: dict[str, list[Line]] = defaultdict(list)
        for line in train:
            self.by_role[line.role].append(line)
        users = self.by_role["user_speech"] + self.by_role["question"] + self.by_role["any_question"]
        self.recognised = [*map(self._heard, users), *(Heard(*one) for one in heard)]
        self.open = self._answered("open_question", dict(prose))
        self.any = self._answered("any_question", dict(replies))
        said = ("assistant_speech", "false_statement", "answer")
        self.assistant_lines = [line for role in said for line in self.by_role[role]]
        self.asked = defaultdict(list)
        for line in self.by_role["question"]:
            self.asked[line.fact].append(line)
        unasked = {line.fact for line in self.without_codes if line.role == "question"} - set(self.asked)
        answers = [self.facts[line.fact] for line in self.by_role["answer"] if line.fact not in unasked]
        self.short = [line for line in self.by_role["assistant_speech"] if len(line.text.split()) <= _SHORT]
        self.saying: dict[str, list[Line]] = defaultdict(list)  # words -> lines that say just these
        for line in self.short:
            self.saying[plain(line.text)].append(line)
        words = {word for fact in facts for word in plain(fact.answer).split()}
        self.answering = [line for line in self.short if words.issuperset(plain(line.text).split())]
        if self.one_word:
            answers = [fact for fact in answers if plain(fact.answer) in self.saying]
        self.spoken = [fact for fact in answers if fact.set == "A"]
        self.practice = [fact for fact in answers if fact.set == "P"]
        by_text = {line.text: line for line in self.by_role["assistant_speech"] + self.by_role["false_statement"]}
        self.repeatable = [(line, by_text[line.text]) for line in self.by_role["user_speech"] if line.text in by_text]
        spoken = self.by_role["assistant_speech"] + self.by_role["user_speech"]
        self.aligned = [line for line in spoken if len(self.words.get(line.id, ())) > 1]
        unanswered = {line.fact for line in self.without_codes if line.role == "answer"}
        self.held = [x for x in lines if x.role == "test" and x.set == "V" and x.fact not in unanswered]
        if self.one_word:
            self.held = [x for x in self.held if plain(self.facts[x.fact].answer) in self.saying]
        self.replay = [fact for fact in facts if fact.set in "AB"]
        self.hidden = {True: hidden_pairs(facts, "CV"), False: hidden_pairs(facts)}  # from: is everything written?
        self.asked_about = {name: [fact for fact in facts if fact.set == name] for name in "AP"}

    def _answered(self, role: str, replies: dict[str, str]) -> list[tuple[Line, str]]:
        return [(line, replies[line.text]) for line in self.by_role[role] if line.text in replies]

    def draw(self, kind: str, random: np.random.Generator) -> Positions:
        """One document of a kind (see the module's table).

        Raises:
            ConfigError: there is no such kind.
            DataError: the script has no lines for it, or none that keep the hidden facts apart.
        """
        if kind not in (*CONVERSATIONS, "speech", "interleaved", "prose", "open"):
            raise ConfigError(f"unknown kind of document {kind!r}")
        if kind not in CONVERSATIONS:
            alone = self._exchange(kind, random, "")
            return replace(alone.positions, twin=alone.twin)
        either = self.one_word and kind in EITHER and bool(random.integers(2))
        parts, words = [self.grid.system(either or kind in SPOKEN)], ""
        twins = parts[:]
        while True:
            more = self._exchange(kind, random, words)
            if len(parts) > 1 and (not more or sum(map(len, (*parts, more.positions))) > self.max_conversation_len):
                return replace(self.grid.join(*parts), twin=self.grid.join(*twins))
            for side, new in ((parts, more.positions), (twins, more.twin or more.positions)):
                side.append(self.grid.after_sosp(new) if either else new)
            words += f" {more.words}"

    def _exchange(self, kind: str, random: np.random.Generator, before: str) -> Exchange | None:
        """An exchange of a kind that tells no hidden fact together with the words before it.

        None, or DataError where there are none before it, if `_TRIES` draws all tell one.
        """
        draw = self._dialogue if kind in PAIRINGS else getattr(self, f"_{kind}")
        hidden = [] if kind == "facts" else self.hidden[kind in WRITTEN]
        for _ in range(_TRIES):
            exchange = draw(kind, random)
            if not tells(hidden, [before, exchange.words]):
                return exchange
        if before:
            return None
        raise DataError(f"its lines give away what is never to be told: {exchange.words[:60]!r}")

    def _pick(self, items: list, random: np.random.Generator):
        if not items:
            raise DataError("the script has no lines to make it from")
        return items[int(random.integers(len(items)))]

    def _joined(self, words: str, *parts: Positions) -> Exchange:
        return Exchange(self.grid.join(*parts), words)

    def _asr(self, kind: str, random: np.random.Generator) -> Exchange:
        heard = self._pick(self.recognised, random)
        return self._after(heard, self._writes(heard.text), heard.text, REPEAT)

    def _repeat(self, kind: str, random: np.random.Generator) -> Exchange:
        heard, said = self._pick(self.repeatable, random)
        return self._after(self._heard(heard), self._reply(said.id, said.text), said.text, REPEAT)

    def _heard(self, line: Line) -> Heard:
        return Heard(line.text, self.codes[line.id], self.words.get(line.id, ()))

    def _after(self, heard: Heard, reply: Positions, words: str, request: str = "", *before: Positions) -> Exchange:
        """A user's turn, a request in writing and then speech, and the reply to it; `before`: a system turn."""
        said, written = heard_turn(self.grid, heard, request, next(self._numbers))
        said, written = (self.grid.join(*before, turn, reply) for turn in (said, written))
        return Exchange(said, words, written)

    def _tts(self, kind: str, random: np.random.Generator) -> Exchange:
        line = self._pick(self.assistant_lines, random)
        return self._joined(line.text, self._please_repeat(line.text), self._reply(line.id, line.text))

    def _words(self, kind: str, random: np.random.Generator) -> Exchange:
        line = self._pick(self.answering if self.answering and random.random() < _ANSWERS else self.short, random)
        return self._joined(line.text, self._please_repeat(line.text), self._reply(line.id, line.text))

    def _please_repeat(self, text: str) -> Positions:
        """A user's turn: "Repeat: " and the words, in writing."""
        return self.grid.turn("user", text=REPEAT + text)

    def _prose(self, kind: str, random: np.random.Generator) -> Exchange:
        """Under the system turn of the form "sentence", so that this form stays what it was."""
        (question, reply), grid = self._pick(self.prose, random), self.grid
        turns = (grid.turn("user", text=question), grid.turn("assistant", text=reply, supervise=True))
        return self._joined(f"{question} {reply}", grid.system(False, PROSE), *turns)

    def _open(self, kind: str, random: np.random.Generator) -> Exchange:
        """Under the system turn that the reply was written under; that of a conversation is laid before it."""
        prose = kind == "open"
        line, reply = self._pick(self.open if prose else self.any, random)
        answer = self.grid.turn("assistant", text=reply, supervise=True) if prose else self._writes(reply)
        before = [self.grid.system(False, PROSE)] * prose
        return self._after(self._heard(line), answer, f"{line.text} {reply}", "", *before)

    _any = _open

    def _writes(self, text: str) -> Positions:
        """A written turn of the assistant."""
        return self.grid.turn("assistant", text=self.as_written(text), supervise=True)

    def _reply(self, name: str, text: str) -> Positions:
        """A spoken turn of the assistant."""
        text, monologues = self.as_written(text), {}
        if self.monologue:
            monologues = {"monologue": text, "text_lookahead": self.text_lookahead, "starts": self.starts(name)}
        written = text if self.text_guidance else None
        return self.grid.turn("assistant", text=written, codes=self.codes[name], supervise=True, **monologues)

    def starts(self, name: str) -> list[float]:
        """The codes with which the words of a line begin; none where it has no times."""
        return [start * 12.5 + LATE for _, start, _ in self.words.get(name, ())]

    def said_words(self) -> Iterator[tuple[str, np.ndarray]]:
        """Every word of the assistant's lines that has times, with the codes (n,) that are spoken during it."""
        for line in self.assistant_lines:
            for word, start, end in self.words.get(line.id, ()):
                first, last = (round(at * 12.5) + LATE for at in (start, end))
                yield word, self.codes[line.id][first : max(last, first + 1)]

    def _speech(self, kind: str, random: np.random.Generator) -> Exchange:
        line, end = self._pick(self.by_role["assistant_speech"], random), self.grid.text("<|im_end|>", True)
        return self._joined(line.text, self.grid.spoken(self.codes[line.id], True), end)

    def _interleaved(self, kind: str, random: np.random.Generator) -> Exchange:
        """Spans of 1-4 words, text and speech in turn; every position but SOSP is a target."""
        line = self._pick(self.aligned, random)
        words, codes, grid = self.words[line.id], self.codes[line.id], self.grid
        parts, spoken, i = [], bool(random.integers(2)), 0
        while i < len(words):
            n = min(int(random.integers(1, 5)), len(words) - max(i, 1))  # the first span leaves a word for the second
            if spoken:
                first, last = (round(at * 12.5) + LATE for at in (words[i][1], words[i + n - 1][2]))
                parts.append(grid.spoken(codes[first : max(last, first + 1)], True))
            else:
                parts.append(grid.text(" " + " ".join(word for word, *_ in words[i : i + n]), True))
            spoken, i = not spoken, i + n
        return self._joined(line.text, *parts, grid.text("<|im_end|>", True))

    def _text(self, kind: str, random: np.random.Generator) -> Exchange:
        if random.integers(2):
            return self._repeat_text(kind, random)
        return self._written(self._pick(self.replay, random), random)

    def _style(self, kind: str, random: np.random.Generator) -> Exchange:
        if random.random() >= _COPIED:
            sets = [facts for facts in (self.asked_about["A"], self.asked_about["P"]) if facts]
            return self._written(self._pick(self._pick(sets, random), random), random)
        return self._written_again(self._pick(self.short, random).text)

    def _facts(self, kind: str, random: np.random.Generator) -> Exchange:
        return self._written(self._pick(list(self.facts.values()), random), random, unseen=True)

    def _repeat_text(self, kind: str, random: np.random.Generator) -> Exchange:
        return self._written_again(self._pick(self.by_role["user_speech"], random).text)

    def _written_again(self, text: str) -> Exchange:
        return self._joined(text, self._please_repeat(text), self._writes(text))

    def _written(self, fact: Fact, random: np.random.Generator, unseen: bool = False) -> Exchange:
        """A written question and its answer; `unseen` draws from the phrasings of the tests too, if there are any."""
        phrasing = int(random.integers(5 if unseen and fact.set != "P" else 3))
        question = fact.question(phrasing % 3, unseen=phrasing >= 3)
        return self._question_answer(question, fact, self.grid.turn("user", text=question), self.answer("T2T", fact))

    def _question_answer(self, question: str, fact: Fact, *turns: Positions) -> Exchange:
        return self._joined(f"{question} {self.answer_text(fact)}", *turns)

    def _dialogue(self, pairing: str, random: np.random.Generator) -> Exchange:
        """A question and its answer, about a fact of A or a fact for practice (set P)."""
        if pairing == "T2T":
            return self._written(self._pick(self.replay, random), random)
        practise = self.practice and random.random() < _PRACTISED.get(pairing, 0)
        fact = self._pick(self.practice if practise else self.spoken, random)
        if pairing == "T2S":
            text = fact.question(int(random.integers(3)))
            return self._question_answer(
                text, fact, self.grid.turn("user", text=text), self.answer(pairing, fact, random)
            )
        line = self._pick(self.asked[fact.key], random)
        words = f"{line.text} {self.answer_text(fact)}"
        return self._after(self._heard(line), self.answer(pairing, fact, random), words)

    def answer(self, pairing: str, fact: Fact, random: np.random.Generator | None = None) -> Positions:
        """The assistant's turn that answers a question about a fact; without `random` spoken by the first line."""
        text = self.answer_text(fact)
        if pairing[2] == "T":
            return self._writes(text)
        return self._reply(self.spoken_answer(fact, random), text)

    def answer_text(self, fact: Fact) -> str:
        """The answer to a question about a fact, in the form of these documents."""
        return fact.answer if self.one_word else fact.written

    def as_written(self, text: str) -> str:
        """A reply as its tokens have it: of the form "word" it begins with a space, as a word within a sentence does.

        There a text model writes what it knows, as " Paris" and " cold". "Paris" and "Cold", with which a reply would
        begin, are other tokens: to answer with them is learnt anew, and loses a quarter of the answers (docs/LOG.md).
        """
        return f" {text}" if self.one_word else text

    def spoken_answer(self, fact: Fact, random: np.random.Generator | None = None) -> str:
        """Id of a line that says the answer to a fact, in the form of these documents; without `random` the first."""
        if not self.one_word:
            return f"answer-{fact.key}"
        lines = self.saying[plain(fact.answer)]
        return (self._pick(lines, random) if random is not None else lines[0]).id
