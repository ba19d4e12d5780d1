"""Documents: what the language model reads in each stage, as rows of the two-channel grid.

recognise    spoken sentence of a user   -> its text               (alignment, ears)
say          written sentence            -> the assistant's speech (alignment, mouth)
interleaved  one sentence, spans of text and of speech in turn     (paper, section on data: interleaved documents)
speech       plain speech, every code supervised                   (paper: unsupervised speech)
text         written questions of A and B, written sentences to repeat   (text replay: half `facts`, half `repeat`)
facts        written questions about *all* facts: pretraining of a mini backbone only, it would spoil B, C and V
S2S S2T T2S T2T  dialogues about facts of A in the four pairings   (paper, section on SFT)
"""

from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from mossrepro.data.facts import Fact
from mossrepro.data.script import Line
from mossrepro.errors import ConfigError
from mossrepro.vocab import Grid, Rows

REPEAT = "Repeat: "
_LATE = 1  # codes by which a causal codec answers after the sound (`CodecDataModule`: 80 ms)
PAIRINGS = ("S2S", "S2T", "T2S", "T2T")


class Documents:
    """Draws documents from a script, its codes (id -> (n,) array) and, for interleaving, its word times.

    `words` maps ids to [(word, start, end)], seconds; sentences without them are not interleaved.
    """

    def __init__(
        self,
        grid: Grid,
        lines: list[Line],
        codes: Mapping[str, np.ndarray],
        facts: list[Fact],
        words: Mapping[str, list[tuple[str, float, float]]] | None = None,
    ) -> None:
        self.grid, self.codes, self.words = grid, codes, words or {}
        self.facts = {fact.key: fact for fact in facts}
        train = [line for line in lines if line.split == "train"]
        self.by_role = {
            role: [line for line in train if line.role == role] for role in ("hear", "say", "ask", "answer")
        }
        self.asked = defaultdict(list)
        for line in self.by_role["ask"]:
            self.asked[line.fact].append(line)
        spoken = self.by_role["say"] + self.by_role["hear"]
        self.aligned = [line for line in spoken if len(self.words.get(line.id, ())) > 1]
        self.replay = [fact for fact in facts if fact.set in "AB"]

    def draw(self, kind: str, random: np.random.Generator) -> Rows:
        """One document of a kind (see the module's table). ConfigError for an unknown kind."""
        if kind in PAIRINGS:
            return self._dialogue(kind, random)
        if kind not in ("recognise", "say", "interleaved", "speech", "text", "facts", "repeat"):
            raise ConfigError(f"unknown kind of document {kind!r}")
        return getattr(self, f"_{kind}")(random)

    def _pick(self, items: list, random: np.random.Generator):
        return items[int(random.integers(len(items)))]

    def _recognise(self, random: np.random.Generator) -> Rows:
        line, grid = self._pick(self.by_role["hear"], random), self.grid
        question = grid.join(
            grid.text(f"<|im_start|>user\n{REPEAT}"), grid.spoken(self.codes[line.id]), grid.text("<|im_end|>\n")
        )
        return grid.join(grid.system(False), question, grid.turn("assistant", text=line.text, supervise=True))

    def _say(self, random: np.random.Generator) -> Rows:
        line, grid = self._pick(self.by_role["say"], random), self.grid
        question = grid.turn("user", text=REPEAT + line.text)
        return grid.join(grid.system(True), question, grid.turn("assistant", codes=self.codes[line.id], supervise=True))

    def _speech(self, random: np.random.Generator) -> Rows:
        line = self._pick(self.by_role["say"], random)
        return self.grid.join(self.grid.spoken(self.codes[line.id], True), self.grid.text("<|im_end|>", True))

    def _interleaved(self, random: np.random.Generator) -> Rows:
        """Spans of 1-4 words, text and speech in turn; every row is supervised."""
        line = self._pick(self.aligned, random)
        words, codes, grid = self.words[line.id], self.codes[line.id], self.grid
        parts, spoken, i = [], bool(random.integers(2)), 0
        while i < len(words):
            n = min(int(random.integers(1, 5)), len(words) - max(i, 1))  # the first span leaves a word for the second
            if spoken:
                first, last = (round(at * 12.5) + _LATE for at in (words[i][1], words[i + n - 1][2]))
                parts.append(grid.spoken(codes[first : max(last, first + 1)], True))
            else:
                parts.append(grid.text(" " + " ".join(word for word, *_ in words[i : i + n]), True))
            spoken, i = not spoken, i + n
        return grid.join(*parts, grid.text("<|im_end|>", True))

    def _text(self, random: np.random.Generator) -> Rows:
        if random.integers(2):
            return self._repeat(random)
        return self._written(self._pick(self.replay, random), random)

    def _facts(self, random: np.random.Generator) -> Rows:
        return self._written(self._pick(list(self.facts.values()), random), random, unseen=True)

    def _repeat(self, random: np.random.Generator) -> Rows:
        sentence, grid = self._pick(self.by_role["hear"], random).text, self.grid
        question = grid.turn("user", text=REPEAT + sentence)
        return grid.join(grid.system(False), question, grid.turn("assistant", text=sentence, supervise=True))

    def _written(self, fact: Fact, random: np.random.Generator, unseen: bool = False) -> Rows:
        """A written question and its answer; `unseen` draws from the phrasings of the tests too."""
        grid, phrasing = self.grid, int(random.integers(5 if unseen else 3))
        question = fact.question(phrasing % 3, unseen=phrasing >= 3)
        answer = grid.turn("assistant", text=fact.written, supervise=True)
        return grid.join(grid.system(False), grid.turn("user", text=question), answer)

    def _dialogue(self, pairing: str, random: np.random.Generator) -> Rows:
        """A question and an answer about a fact of A; the system turn and the answer follow the pairing."""
        if pairing == "T2T":
            return self._written(self._pick(self.replay, random), random)
        grid = self.grid
        line = self._pick(self.asked[self._pick(self.by_role["answer"], random).fact], random)
        fact = self.facts[line.fact]
        heard = pairing[0] == "S"
        question = grid.turn("user", codes=self.codes[line.id]) if heard else grid.turn("user", text=line.text)
        if pairing[2] == "S":
            answer = grid.turn("assistant", codes=self.codes[f"answer-{fact.key}"], supervise=True)
        else:
            answer = grid.turn("assistant", text=fact.written, supervise=True)
        return grid.join(grid.system(pairing[2] == "S"), question, answer)


def question_prompt(grid: Grid, pairing: str, text: str, codes: np.ndarray | None = None) -> Rows:
    """The prompt of one question in a pairing: system turn, user turn, and the head of the reply."""
    spoken = pairing[2] == "S"
    user = grid.turn("user", codes=codes) if pairing[0] == "S" else grid.turn("user", text=text)
    return grid.join(grid.system(spoken), user, grid.reply_prefix(spoken))
