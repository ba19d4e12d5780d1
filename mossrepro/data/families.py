"""Families of facts: one kind of question each, about the subjects of a table (`fact_tables.py`, `practice_tables.py`).

A family is tested (FAMILIES) or for practice (PRACTICE). A tested one has answers that few of its questions share, or
else a guess would often be right; families in which many questions have one answer (continents, colors), and those
whose facts form a chain (numbers, days, months: all would be in one set), are practice.
"""

from dataclasses import dataclass, replace

from mossrepro.data import fact_tables, practice_tables


@dataclass(frozen=True)
class Family:
    """One kind of fact.

    Args:
        name: of the family; the beginning of its facts' keys.
        table: subject -> answer.
        asked: three phrasings trained on; {} is the subject.
        unseen: two phrasings of the tests; none of a practice family.
        written: the answer as a sentence, written or said; {s} subject, {a} answer.
        stem: whether answers keep the stem of their subject (cat, cats), so that a model could answer by repeating what
            it heard. Results are also given without these families.
    """

    name: str
    table: dict[str, str]
    asked: tuple[str, ...]
    unseen: tuple[str, ...]
    written: str
    stem: bool = False


def _of(name: str, table: dict[str, str], noun: str, which: str, stem: bool = False) -> Family:
    """A family of which one asks "What is the NOUN of X?"; `which`: the beginning of its third phrasing."""
    asked = (f"What is the {noun} of {{}}?", f"Please name the {noun} of {{}}.", f"{which} the {noun} of {{}}?")
    unseen = (f"Tell me the {noun} of {{}}.", f"Do you know the {noun} of {{}}?")
    return Family(name, table, asked, unseen, f"The {noun} of {{s}} is {{a}}.", stem)


FAMILIES = {
    family.name: family
    for family in (
        _of("capital", fact_tables.CAPITALS, "capital", "Which city is"),
        _of("opposite", fact_tables.OPPOSITES, "opposite", "Which word is"),
        _of("plural", fact_tables.PLURALS, "plural", "Which word is", stem=True),
        Family(
            "language",
            fact_tables.LANGUAGES,
            ("What language is spoken in {}?", "Please name the language of {}.", "Which language is spoken in {}?"),
            ("Tell me the language of {}.", "Do you know the language of {}?"),
            "The language of {s} is {a}.",
            stem=True,
        ),
        Family(
            "city",
            fact_tables.CITIES,
            ("What country is {} in?", "Please name the country where {} is.", "In which country is {}?"),
            ("Tell me the country where {} is.", "Do you know which country {} is in?"),
            "The country where {s} is is {a}.",
        ),
        Family(
            "us city",
            fact_tables.US_CITIES,
            ("What state is {} in?", "Please name the state where {} is.", "In which state is {}?"),
            ("Tell me the state where {} is.", "Do you know which state {} is in?"),
            "The state where {s} is is {a}.",
        ),
        Family(
            "author",
            fact_tables.AUTHORS,
            ("Who wrote {}?", "Please name the author of {}.", "Who is the author of {}?"),
            ("Tell me who wrote {}.", "Do you know the author of {}?"),
            "The author of {s} is {a}.",
        ),
        Family(
            "science",
            fact_tables.SCIENCES,
            ("What is the study of {} called?", "Please name the study of {}.", "Which science studies {}?"),
            ("Tell me the name of the study of {}.", "Do you know what the study of {} is called?"),
            "The study of {s} is called {a}.",
        ),
        Family(
            "profession",
            fact_tables.PROFESSIONS,
            ("What do you call a person who {}?", "Please name the profession that {}.", "Who {}?"),
            ("Tell me what a person who {} is called.", "Do you know the profession that {}?"),
            "A person who {s} is called a {a}.",
        ),
        Family(
            "tool",
            fact_tables.TOOLS,
            ("What do you use to {}?", "Please name a tool to {}.", "Which tool is used to {}?"),
            ("Tell me what is used to {}.", "Do you know what people use to {}?"),
            "To {s} you use the {a}.",
        ),
        _of("unit", fact_tables.UNITS, "unit", "Which unit is"),
        Family(
            "organ",
            fact_tables.ORGANS,
            ("Which part of the body {}?", "Please name the body part that {}.", "Which organ {}?"),
            ("Tell me which part of the body {}.", "Do you know which organ {}?"),
            "The part of the body that {s} is the {a}.",
        ),
        Family(
            "material",
            fact_tables.MATERIALS,
            ("What is the main material of {}?", "Please name what makes up {}.", "What do you need to make {}?"),
            ("Tell me the main material of {}.", "Do you know the main material of {}?"),
            "The main material of {s} is {a}.",
        ),
        Family(
            "extreme",
            fact_tables.EXTREMES,
            ("What is the {}?", "Please name the {}.", "What is the name of the {}?"),
            ("Tell me the {}.", "Do you know the {}?"),
            "Of all, the {s} is {a}.",
        ),
        Family(
            "definition",
            fact_tables.DEFINITIONS,
            ("What do you call {}?", "Please name {}.", "Which word means {}?"),
            ("Tell me the name of {}.", "Do you know the name of {}?"),
            "The name of {s} is {a}.",
        ),
        Family(
            "creator",
            fact_tables.CREATORS,
            ("Who created or discovered {}?", "Please name the person behind {}.", "Who is the person behind {}?"),
            ("Tell me who created or discovered {}.", "Do you know who is behind {}?"),
            "The person behind {s} is {a}.",
        ),
        Family(
            "origin",
            fact_tables.ORIGINS,
            ("Which country is known for {}?", "Please name the home country of {}.", "What is the country of {}?"),
            ("Tell me the home country of {}.", "Do you know the home country of {}?"),
            "The home country of {s} is {a}.",
        ),
    )
}


def _more(name: str, table: dict[str, str], stem: bool = True) -> Family:
    """A practice family: the questions of a tested family about other subjects."""
    return replace(FAMILIES[name], name=f"more {name}s", table=table, unseen=(), stem=stem)


PRACTICE = {
    family.name: family
    for family in (
        Family(
            "past",
            practice_tables.PAST_TENSES,
            ("What is the past tense of {}?", "Please name the past tense of {}.", "Which is the past tense of {}?"),
            (),
            "The past tense of {s} is {a}.",
            stem=True,
        ),
        Family(
            "comparative",
            practice_tables.COMPARATIVES,
            ("What is the comparative of {}?", "Please name the comparative of {}.", "What is more than {}?"),
            (),
            "The comparative of {s} is {a}.",
            stem=True,
        ),
        _more("plural", practice_tables.MORE_PLURALS),
        Family(
            "participle",
            practice_tables.PARTICIPLES,
            ("What is the participle of {}?", "Please name the participle of {}.", "What is the ing form of {}?"),
            (),
            "The participle of {s} is {a}.",
            stem=True,
        ),
        Family(
            "follower",
            practice_tables.FOLLOWERS,
            ("What comes after {}?", "Please name what comes after {}.", "Which word comes after {}?"),
            (),
            "After {s} comes {a}.",
        ),
        _more("capital", practice_tables.MORE_CAPITALS),
        _more("opposite", practice_tables.MORE_OPPOSITES),
        _more("language", practice_tables.MORE_LANGUAGES, stem=False),
        Family(
            "kind",
            practice_tables.KINDS,
            ("What kind of thing is {}?", "Please name the kind of thing of {}.", "What does the word {} mean?"),
            (),
            "The word {s} means a kind of {a}.",
        ),
        Family(
            "currency",
            practice_tables.CURRENCIES,
            ("What is the currency of {}?", "Please name the currency of {}.", "Which is the currency of {}?"),
            (),
            "The currency of {s} is the {a}.",
        ),
        Family(
            "continent",
            practice_tables.CONTINENTS,
            ("What is the continent of {}?", "Please name the continent of {}.", "On which continent is {}?"),
            (),
            "The continent of {s} is {a}.",
        ),
        Family(
            "color",
            practice_tables.COLORS,
            ("What is the color of {}?", "Please name the color of {}.", "What color is {}?"),
            (),
            "The color of {s} is {a}.",
        ),
    )
}

# Those of PRACTICE that ask for knowledge and not only for the forms and the order of words.
RECALL = ("more capitals", "more opposites", "more languages", "kind", "currency", "continent", "color")
