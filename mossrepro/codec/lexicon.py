"""From phones to words: Viterbi search for the most likely words of a lexicon, all words equally likely.

CTC gives a distribution over blank and phones for every 20 ms. A lexicon is a prefix tree of phones; a path that ends
a word returns to the root and pays log(number of words). The search is exact: without a language model earlier words
do not matter, so each node keeps only its best path. With 5,000 words the perplexity is 5,000: nothing is guessed from
context.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from mossrepro.codec.recogniser import BLANK, LABELS, labels

_NEVER = -np.inf


class Lexicon:
    """Words with their pronunciations, for decoding the recogniser's log-probabilities.

    Attributes: words; for every node of the tree (the root is node 0) `parent`, `phone`, the label that leads to it,
    and `word`, the index of the word that ends there, -1 for none. Of homophones the first is read; `spelt` maps the
    others to it, so that they do not count as errors.
    """

    def __init__(self, pronunciations: Mapping[str, Sequence[Sequence[str]]]) -> None:
        """pronunciations: word -> its pronunciations, each a sequence of PHONES. ValueError for an empty mapping."""
        self.words = list(pronunciations)
        if not self.words:
            raise ValueError("a lexicon needs words")
        children: dict[tuple[int, int], int] = {}
        self._spelt: dict[str, str] = {}
        parent, phone, word = [0], [BLANK], [-1]
        for index, ways in enumerate(pronunciations.values()):
            for way in ways:
                node = 0
                for label in labels(list(way)):
                    if (node, label) not in children:
                        children[node, label] = len(parent)
                        parent.append(node), phone.append(label), word.append(-1)
                    node = children[node, label]
                if node and word[node] < 0:
                    word[node] = index
                if node:
                    self._spelt.setdefault(self.words[index], self.words[word[node]])
        self.parent, self.phone, self.word = np.array(parent), np.array(phone), np.array(word)
        self._first = np.flatnonzero(self.parent == 0)[1:]  # nodes right below the root
        ends = np.flatnonzero(self.word >= 0)
        self._ends = [(label, ends[self.phone[ends] == label]) for label in np.unique(self.phone[ends]).tolist()]
        self._paused_ends = [(BLANK, ends)]
        self._doubled = self.phone == self.phone[self.parent]  # a phone twice in a row needs a blank between
        self._cost = np.log(len(self.words))

    def spelt(self, text: str) -> str:
        """A text with every homophone as `read` would write it; unknown words stay."""
        return " ".join(self._spelt.get(word, word) for word in text.split())

    def read(self, log_probs: np.ndarray) -> list[str]:
        """log_probs (S, 40), natural logarithms -> the most likely words; none if no path fits."""
        log_probs = np.asarray(log_probs, np.float64)
        count = len(self.parent)
        # Score of the best path to each node whose last step is the phone itself, or a blank after it;
        # and the index in `links` of the words before that node.
        spoken, pause = np.full(count, _NEVER), np.full(count, _NEVER)
        spoken_link, pause_link = np.zeros(count, np.int64), np.zeros(count, np.int64)
        # Best paths between words, by the label of the last step (blank or the last phone of the last word).
        between, between_link = np.full(len(LABELS), _NEVER), np.zeros(len(LABELS), np.int64)
        between[BLANK] = 0.0
        links: list[tuple[int, int]] = [(-1, -1)]  # (previous link, word)
        for step in log_probs:
            entered, entered_link = self._enter(spoken, spoken_link, pause, pause_link, between, between_link)
            better = entered > spoken
            before, before_link = spoken, spoken_link
            spoken = np.where(better, entered, spoken) + step[self.phone]
            spoken_link = np.where(better, entered_link, spoken_link)
            spoken[0] = _NEVER
            better = before > pause
            pause = np.where(better, before, pause) + step[BLANK]
            pause_link = np.where(better, before_link, pause_link)
            between, between_link = between + _only_blank(step), between_link.copy()
            self._leave(spoken, spoken_link, pause, pause_link, between, between_link, links)
        return self._words(int(between_link[between.argmax()]), links) if between.max() > _NEVER else []

    def _enter(self, spoken, spoken_link, pause, pause_link, between, between_link) -> tuple[np.ndarray, np.ndarray]:
        """Best score of entering every node from its parent, and its link. A repeated phone must follow a blank."""
        direct = np.where(self._doubled, _NEVER, spoken[self.parent])
        through = pause[self.parent]
        score = np.maximum(direct, through)
        link = np.where(direct > through, spoken_link[self.parent], pause_link[self.parent])
        order = between.argsort()[::-1]
        best, second = order[0], order[1]
        source = np.where(self.phone[self._first] == best, second, best)  # the blank row is no node's phone
        score[self._first], link[self._first] = between[source], between_link[source]
        return score, link

    def _leave(self, spoken, spoken_link, pause, pause_link, between, between_link, links) -> None:
        """End words: for every last label, the best one adds a link if it beats the best path between words."""
        for scores, origin, groups in (
            (spoken, spoken_link, self._ends),
            (pause, pause_link, self._paused_ends),
        ):
            for label, nodes in groups:
                node = nodes[scores[nodes].argmax()]
                score = scores[node] - self._cost
                if score > between[label]:
                    between[label], between_link[label] = score, len(links)
                    links.append((int(origin[node]), int(self.word[node])))

    def _words(self, link: int, links: list[tuple[int, int]]) -> list[str]:
        found = []
        while links[link][1] >= 0:
            link, word = links[link]
            found.append(self.words[word])
        return found[::-1]


def _only_blank(step: np.ndarray) -> np.ndarray:
    """Score of one more step between words: only a blank after a blank; no path stays on a phone."""
    cost = np.full(len(step), _NEVER)
    cost[BLANK] = step[BLANK]
    return cost
