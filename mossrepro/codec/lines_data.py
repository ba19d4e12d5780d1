"""Lines of a script in codes, with the phones of what is said: a recogniser learns words without a sentence around."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from mossrepro.codec.recogniser import labels
from mossrepro.codec.recogniser_data import RecogniserDataModule, Row
from mossrepro.data.facts import read_facts
from mossrepro.data.script import Line, read_script
from mossrepro.data.token_store import TokenStore
from mossrepro.speech.normalise import normalise
from mossrepro.speech.sphinx import pronunciations
from mossrepro.training.step_data import StepDataModule
from mossrepro.utils.errors import DataError
from mossrepro.utils.random import rng

_HELD = 20  # one in so many of the assistant's texts is kept to validate


class LinesDataModule(RecogniserDataModule):
    """The assistant's lines, and drawn ones of many voices, in batches of similar length.

    The recogniser is to judge by which word the assistant answers. So no line is taken, of the assistant's or drawn,
    that holds a word which sounds like one of a tested answer: here it hears none of them. (That of sentences, from
    which it starts, has met some among the random words of the codec's corpus.)

    Args:
        script: folder with script.jsonl and facts.json.
        tokens: token store of its lines.
        drawn: folder of drawn lines (`mossrepro/experiments/drawn.py`); None for none.
        drawn_share: share of the clips of a pass that are drawn.
        times: how often each of the assistant's lines comes in a pass.
        batch: clips per step, over all ranks.
        valid_clips: clips that the error rates are measured on.
        seed: of the order of samples and of all randomness.
        num_workers: loader processes; the batches are the same for every number.
    """

    def __init__(
        self,
        script: str,
        tokens: str,
        drawn: str | None = None,
        drawn_share: float = 0.5,
        times: int = 6,
        batch: int = 48,
        valid_clips: int = 80,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        StepDataModule.__init__(self, seed, num_workers)
        secret = Unheard(fact.answer for fact in read_facts(script) if fact.set != "P")
        lines = [line for line in read_script(script) if line.role == "assistant_speech" and line.split == "train"]
        lines = [line for line in lines if secret.allows(line.text)]
        store = TokenStore(tokens)
        rows = list(_rows(lines, store))
        kept = set(sorted({row.text for row in rows})[::_HELD])  # one who says a text twice says it in the same codes
        self.train = times * [row for row in rows if row.text not in kept]
        self.valid = list({row.text: row for row in rows if row.text in kept}.values())[:valid_clips]
        if not self.train:
            raise DataError(f"{script}: the assistant says too little that holds no word of a tested answer")
        if drawn is not None:
            codes = TokenStore(drawn)
            if codes.vocabulary != store.vocabulary:
                raise DataError(f"{drawn}: its codes are of a codebook of {codes.vocabulary}, not {store.vocabulary}")
            wanted = round(drawn_share / max(1 - drawn_share, 1e-9) * len(self.train))
            others = [line for line in read_script(drawn) if secret.allows(line.text)]
            chosen = rng(seed, "drawn lines").permutation(len(others))[:wanted]
            self.train += _rows([others[i] for i in chosen], codes)
        self.finish(batch, [line.text for line in lines])


class Unheard:
    """Words that are not to be heard, by how they sound: those of some texts."""

    def __init__(self, texts: Iterable[str]) -> None:
        words = {word for text in texts for word in normalise(text).split()}
        self._sounds = {tuple(way) for ways in pronunciations(sorted(words)).values() for way in ways}
        self._known: dict[str, bool] = {}  # word -> whether it may be heard

    def allows(self, text: str) -> bool:
        """Whether no word of a text sounds like one of them."""
        words = normalise(text).split()
        if new := sorted({word for word in words if word not in self._known}):
            ways = pronunciations(new)
            self._known |= {word: self._sounds.isdisjoint(map(tuple, ways[word])) for word in new}
        return all(self._known[word] for word in words)


def _rows(lines: Sequence[Line], codes: Mapping[str, np.ndarray]) -> Iterator[Row]:
    """The lines that have codes, with the first pronunciation of every word."""
    words = {line.id: normalise(line.text).split() for line in lines if line.id in codes}
    ways = pronunciations(sorted({word for said in words.values() for word in said}))
    for name, said in words.items():
        yield Row(codes[name], [label for word in said for label in labels(ways[word][0])], " ".join(said))
