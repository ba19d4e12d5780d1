"""Facts, their phrasings, and the four disjoint sets of the knowledge-transfer experiment.

The thesis of the paper is that the knowledge of a frozen text LLM comes out through its speech tail. The sets make that
measurable:

    A  spoken questions and answers are trained on     B  seen as text only
    V  validation of recipes and early stopping        C  never seen again in any modality: the headline
    P  practice: asked in text and in speech, answered in speech, never tested

With the 80-odd answers of A alone, the speech half memorises them; practice on hundreds of other facts is to teach it
to say what the text half knows.

Facts of a family that share a word (hot/cold, cold/hot; start/stop, begin/stop) are always in the same set.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from mossrepro.data import fact_tables
from mossrepro.utils.errors import DataError
from mossrepro.utils.random import rng
from mossrepro.utils.records import misfit, read_json, short

SHARES = {"A": 0.58, "B": 0.08, "V": 0.08, "C": 0.26}


@dataclass(frozen=True)
class Family:
    """One kind of fact: `asked` are the phrasings trained on, `unseen` those of the tests; {} is the subject."""

    name: str
    table: dict[str, str]
    asked: tuple[str, ...]
    unseen: tuple[str, ...]
    written: str  # the answer, written or said; {s} subject, {a} answer


FAMILIES = {
    family.name: family
    for family in (
        Family(
            "capital",
            fact_tables.CAPITALS,
            ("What is the capital of {}?", "Please name the capital of {}.", "Which city is the capital of {}?"),
            ("Tell me the capital of {}.", "Do you know the capital of {}?"),
            "The capital of {s} is {a}.",
        ),
        Family(
            "opposite",
            fact_tables.OPPOSITES,
            ("What is the opposite of {}?", "Please name the opposite of {}.", "Which word is the opposite of {}?"),
            ("Tell me the opposite of {}.", "Do you know the opposite of {}?"),
            "The opposite of {s} is {a}.",
        ),
        Family(
            "plural",
            fact_tables.PLURALS,
            ("What is the plural of {}?", "Please name the plural of {}.", "Which word is the plural of {}?"),
            ("Tell me the plural of {}.", "Do you know the plural of {}?"),
            "The plural of {s} is {a}.",
        ),
        Family(
            "language",
            fact_tables.LANGUAGES,
            ("What language is spoken in {}?", "Please name the language of {}.", "Which language is spoken in {}?"),
            ("Tell me the language of {}.", "Do you know the language of {}?"),
            "The language of {s} is {a}.",
        ),
    )
}


def _more(name: str, table: dict[str, str]) -> Family:
    """A practice family: the questions of a tested family about other subjects."""
    return replace(FAMILIES[name], name=f"more {name}s", table=table, unseen=())


PRACTICE = {
    family.name: family
    for family in (
        Family(
            "past",
            fact_tables.PAST_TENSES,
            ("What is the past tense of {}?", "Please name the past tense of {}.", "Which is the past tense of {}?"),
            (),
            "The past tense of {s} is {a}.",
        ),
        Family(
            "comparative",
            fact_tables.COMPARATIVES,
            ("What is the comparative of {}?", "Please name the comparative of {}.", "What is more than {}?"),
            (),
            "The comparative of {s} is {a}.",
        ),
        _more("plural", fact_tables.MORE_PLURALS),
        Family(
            "participle",
            fact_tables.PARTICIPLES,
            ("What is the participle of {}?", "Please name the participle of {}.", "What is the ing form of {}?"),
            (),
            "The participle of {s} is {a}.",
        ),
        Family(
            "follower",
            fact_tables.FOLLOWERS,
            ("What comes after {}?", "Please name what comes after {}.", "Which word comes after {}?"),
            (),
            "After {s} comes {a}.",
        ),
        _more("capital", fact_tables.MORE_CAPITALS),
        _more("opposite", fact_tables.MORE_OPPOSITES),
        _more("language", fact_tables.MORE_LANGUAGES),
        Family(
            "kind",
            fact_tables.KINDS,
            ("What kind of thing is {}?", "Please name the kind of thing of {}.", "What does the word {} mean?"),
            (),
            "The word {s} means a kind of {a}.",
        ),
        Family(
            "currency",
            fact_tables.CURRENCIES,
            ("What is the currency of {}?", "Please name the currency of {}.", "Which is the currency of {}?"),
            (),
            "The currency of {s} is the {a}.",
        ),
        Family(
            "continent",
            fact_tables.CONTINENTS,
            ("What is the continent of {}?", "Please name the continent of {}.", "On which continent is {}?"),
            (),
            "The continent of {s} is {a}.",
        ),
    )
}


RECALL = ("more capitals", "more opposites", "more languages", "kind", "currency", "continent")  # of PRACTICE


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
        family = _family(self.family)
        return (family.unseen if unseen else family.asked)[phrasing].format(self.subject)

    @property
    def written(self) -> str:
        """What the assistant writes, and what its voice says.

        The subject is repeated before the answer, as a text LLM writes it. That helps a small model: with "Paris is the
        answer." it had to know the answer at its first word, and did not (docs/LOG.md).
        """
        return _family(self.family).written.format(s=self.subject, a=self.answer)


def _family(name: str) -> Family:
    return FAMILIES[name] if name in FAMILIES else PRACTICE[name]


def answered(fact: Fact, reply: str) -> bool:
    """Is the answer in the reply, as whole words? Case and punctuation do not count."""
    return re.search(rf"\b{re.escape(plain(fact.answer))}\b", plain(reply)) is not None


def plain(text: str) -> str:
    """Lower case, letters, digits and single spaces only."""
    return " ".join(re.sub(r"[^a-z0-9' ]+", " ", text.lower()).split())


def all_facts(seed: int = 0, keep: Iterable[tuple[str, str]] | None = None) -> list[Fact]:
    """Every fact with its set; `keep` (family, subject) first limits them to those a backbone knows.

    Facts that share a word are assigned as a group, family by family, so that every set holds every family.
    """
    kept = None if keep is None else set(keep)
    facts = []
    for family in FAMILIES.values():
        pairs = {s: a for s, a in family.table.items() if kept is None or (family.name, s) in kept}
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
