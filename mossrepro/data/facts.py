"""Facts, their phrasings, and the four disjoint sets of the knowledge-transfer experiment.

The thesis of the paper is that the knowledge of a frozen text LLM comes out through its speech tail. The sets make that
measurable:

    A  spoken questions and answers are trained on     B  at most replayed in text
    V  validation of recipes and early stopping        C  never told in any form, text or speech: the headline
    P  practice: asked in text and in speech, answered in speech, never tested

Subjects and answers of B, V and C are heard and said, but never the two together.

With the 80-odd answers of A alone, the speech half memorises them; practice on hundreds of other facts is to teach it
to say what the text half knows.

Facts of a family that share a word (hot/cold, cold/hot; start/stop, begin/stop) are always in the same set. The sets
are dealt before any model is asked, and then all limited alike to what it knows (`StageGraph.known`): which set a fact
is in says nothing about how well it is known.
"""

import re
from pathlib import Path
from typing import NamedTuple

from mossrepro.data.families import FAMILIES, PRACTICE, RECALL, Family
from mossrepro.utils.errors import DataError
from mossrepro.utils.random import rng
from mossrepro.utils.records import misfit, read_json, short

SHARES = {"A": 0.46, "B": 0.08, "V": 0.12, "C": 0.34}


class Fact(NamedTuple):
    """One fact with its set, "A", "B", "C", "V" or "P"."""

    family: str
    subject: str
    answer: str
    set: str

    @property
    def key(self) -> str:
        return f"{self.family}-{self.subject}".lower().replace(" ", "_")

    def question(self, phrasing: int, unseen: bool = False) -> str:
        family = family_of(self)
        return _articles((family.unseen if unseen else family.asked)[phrasing].format(self.subject))

    @property
    def written(self) -> str:
        """What the assistant writes, and what its voice says.

        The subject is repeated before the answer, as a text LLM writes it. That helps a small model: with "Paris is the
        answer." it had to know the answer at its first word, and did not (docs/LOG.md).
        """
        return _articles(family_of(self).written.format(s=self.subject, a=self.answer))


def family_of(fact: Fact) -> Family:
    """The family of a fact, tested or for practice."""
    return FAMILIES[fact.family] if fact.family in FAMILIES else PRACTICE[fact.family]


def _articles(text: str) -> str:
    """Turn the article a before a vowel into an."""
    return re.sub(r"\b([aA]) (?=[aeio]|u(?!ni))", r"\1n ", text)


def answered(fact: Fact, reply: str) -> bool:
    """Is the answer in the reply, as whole words? Case and punctuation do not count."""
    return re.search(rf"\b{re.escape(plain(fact.answer))}\b", plain(reply)) is not None


def plain(text: str) -> str:
    """Lower case, letters, digits and single spaces only."""
    return " ".join(re.sub(r"[^a-z0-9' ]+", " ", text.lower()).split())


def all_facts(seed: int = 0, limit: int = 0, families: int = 0) -> list[Fact]:
    """Every tested fact with its set, whatever a model knows of it.

    Facts that share a word are assigned as a group, family by family, so that every set holds every family.

    Args:
        seed: of the deal.
        limit: take the first so many facts of every family; 0 for all.
        families: take the first so many of FAMILIES; 0 for all.
    """
    facts = []
    for family in list(FAMILIES.values())[: families or None]:
        pairs = dict(list(family.table.items())[: limit or None])
        groups = _groups(pairs)
        generator = rng(seed, "facts", family.name)
        order = generator.permutation(len(groups))
        room = {name: share * len(pairs) for name, share in SHARES.items()}
        for i in order:
            name = max(room, key=lambda n: room[n] / SHARES[n])
            room[name] -= len(groups[i])
            facts += [Fact(family.name, subject, pairs[subject], name) for subject in groups[i]]
    return facts


def practice_facts(limit: int, recall: bool = True) -> list[Fact]:
    """The first `limit` facts of every practice family, all of set P; `recall=False` leaves out those in RECALL."""
    return [
        Fact(family.name, subject, answer, "P")
        for family in PRACTICE.values()
        if recall or family.name not in RECALL
        for subject, answer in list(family.table.items())[:limit]
    ]


def _groups(pairs: dict[str, str]) -> list[list[str]]:
    """Subjects that share a word with each other, directly or through others."""
    groups: list[tuple[set[str], list[str]]] = []
    for subject, answer in pairs.items():
        words = {subject.lower(), answer.lower()}
        members = [subject]
        for group in [g for g in groups if g[0] & words]:
            words |= group[0]
            members += group[1]
            groups.remove(group)
        groups.append((words, members))
    return [members for _, members in groups]


def read_facts(folder: str | Path) -> list[Fact]:
    """The facts of a recorded script. DataError names its facts.json and the first entry that is no fact."""
    path = Path(folder) / "facts.json"
    entries = read_json(path)
    if not isinstance(entries, list):
        raise DataError(f"{path}: not a list of facts")
    families = {*FAMILIES, *PRACTICE}
    for entry in entries:
        if misfit(entry, list[str]) or len(entry) != len(Fact._fields) or entry[0] not in families:
            raise DataError(f"{path}: {short(entry)} is no fact (family, subject, answer, set)")
    return [Fact(*entry) for entry in entries]
