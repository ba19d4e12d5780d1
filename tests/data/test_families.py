"""Tables and families of facts: what can be asked, said and judged, and what no fact gives away about another."""

import re
from collections import Counter

import pytest

from mossrepro.data.fact_tables import table
from mossrepro.data.facts import Fact, all_facts, plain, practice_facts
from mossrepro.data.families import FAMILIES, PRACTICE
from mossrepro.data.script import hidden_pairs
from mossrepro.lm.documents import REPEAT
from mossrepro.lm.grid import SYSTEM_TURNS

TESTED = all_facts()


def test_families_have_their_phrasings():
    for family in FAMILIES.values():
        assert len(set(family.asked)) == 3 and len(set(family.unseen)) == 2
        assert not set(family.asked) & set(family.unseen) and len(family.table) >= 12
    assert all(len(set(family.asked)) == 3 and not family.unseen for family in PRACTICE.values())
    questions = Counter(plain(f.question(i, u)) for f in TESTED for u, n in ((False, 3), (True, 2)) for i in range(n))
    assert set(questions.values()) == {1}


def test_facts_can_be_said():
    for fact in TESTED:
        assert re.fullmatch("[A-Za-z ]+", fact.subject + fact.answer), fact
        assert len(fact.subject.split()) <= 4 and len(fact.answer.split()) <= 2, fact
        assert fact.written.rstrip(".").endswith(fact.answer), fact


def test_only_stem_families_keep_the_stem():
    def alike(one: str, other: str) -> bool:
        return len(one) > 3 and (one[:4] == other[:4] or one in other) or len(one) > 4 and one[-5:] == other[-5:]

    for fact in TESTED:
        if not FAMILIES[fact.family].stem:
            pairs = [(s, a) for s in plain(fact.subject).split() for a in plain(fact.answer).split()]
            assert not any(alike(s, a) or alike(a, s) for s, a in pairs), fact
    stems = {name for name, family in (FAMILIES | PRACTICE).items() if family.stem}
    assert {"plural", "language", "past", "comparative", "participle"} <= stems


def test_no_family_has_one_answer_to_many_questions():
    for family in FAMILIES.values():
        if family.name != "language":  # of the first kind, and the only one that is a stem family too
            assert max(Counter(family.table.values()).values()) <= max(4, len(family.table) // 8), family.name


def test_no_fact_tells_another_and_no_system_turn_holds_one():
    """Else a document about a fact of A would tell one of C, and no draw could help."""
    fixed = plain(" ".join((*SYSTEM_TURNS["short"], *SYSTEM_TURNS["word"], REPEAT, "system user assistant"))).split()
    assert not [fact for fact in TESTED if plain(fact.subject) in fixed or plain(fact.answer) in fixed]
    pairs = {(s, a): f for f in TESTED for s, a in hidden_pairs([f._replace(set="C")])}
    by_answer: dict[str, list[tuple[str, Fact]]] = {}
    for (subject, answer), fact in pairs.items():
        by_answer.setdefault(answer.split()[0], []).append((f"{subject}|{answer}", fact))
    for one in TESTED + practice_facts(1000):
        text = f" {plain(' '.join([one.written, *(one.question(i) for i in range(3))]))} "
        for word in set(text.split()):
            for pair, other in by_answer.get(word, ()):
                told = all(part in text for part in pair.split("|"))
                assert not told or one[:2] == other[:2], f"{one} tells {other}"


def test_articles_agree():
    people = {fact.subject: fact for fact in TESTED if fact.family == "profession"}
    assert people["designs buildings"].written == "A person who designs buildings is called an architect."
    assert people["flies planes"].written == "A person who flies planes is called a pilot."


def test_a_subject_stands_in_its_table_once():
    with pytest.raises(ValueError, match="twice among hot:cold"):
        table("hot:cold,hot:warm")
