"""The script: every line that is spoken for the language model, by whom, and what for.

A script is made from facts and a recipe alone, before any sound exists; synthesis (`synthesis.py`) and tokenisation
(`token_store.py`) follow it line by line, and the oracle codes need nothing else.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

from mossrepro.data.corpus import Clip, load_clip, read_manifest
from mossrepro.data.facts import Fact, plain, read_facts
from mossrepro.data.families import FAMILIES
from mossrepro.data.open_questions import TESTS as OPEN_TESTS
from mossrepro.data.open_questions import open_questions
from mossrepro.data.sentences import random_sentence, vocabulary
from mossrepro.data.synthesis import Utterance, in_processes, progress, synthesise
from mossrepro.speech import roster, voices
from mossrepro.speech.sphinx import align
from mossrepro.utils import cache
from mossrepro.utils.audio import VOICE_SAMPLE_RATE
from mossrepro.utils.errors import DataError
from mossrepro.utils.io import read_lines, write_json, write_text
from mossrepro.utils.random import rng
from mossrepro.utils.records import build, is_file_name, misfit, parse_json, read_json, short

_LONG = (5, 7, 4)  # words of a random sentence: fewest, most, and how many are subjects or answers
# Names in random streams and line ids, those of version 0.1, so that scripts stay the same.
_STREAMS = {"user_speech": "hear", "assistant_speech": "say", "false_statement": "state", "question": "ask"}
_OF_FACTS = ("question", "answer", "test")  # roles of lines that are about a fact
_LONGEST_LINE = 3_600.0  # seconds: times beyond are none
_CHUNK = 64  # clips aligned by one process at a time
_OFTEN = 4  # how often a subject or answer of A, B, C, V is said for each time a practice answer is


@dataclass(frozen=True)
class Line:
    """One line of a script.

    role: "user_speech" (a user says something that has no reply, mostly a random sentence), "assistant_speech" (the
    assistant says one), "false_statement" (the assistant says something false), "question" (a question trained on),
    "answer" (the assistant answers), "test" (a question of the tests: unseen phrasing, held-out voice),
    "open_question" (a question of no table that a user asks, `open_questions.py`), "open_test" (one of its tests, set
    "heard" or "any") or "any_question" (one that was drawn, `experiments/drawn.py`).
    """

    id: str
    role: str
    text: str
    voice: str
    split: str
    fact: str = ""
    set: str = ""


@dataclass(frozen=True)
class ScriptRecipe:
    """Numbers of lines.

    user_speech: random sentences of users.
    assistant_speech: random sentences of the assistant.
    false_statement: false statements of the assistant, "The capital of Japan is Lima."
    question: spoken versions of every question of A (each fact in three phrasings), and of every fact of P, there at
        most two.
    kokoro: every n-th question of A is also spoken by a Kokoro voice and its pseudo-speakers (0: none).
    user_speech_kokoro: random sentences spoken by them too, since the test voices are Kokoro's.
    tests: questions per fact of A (unseen phrasings, held-out voices); C gets at most two, B and V one.
    test_facts: most tested facts per set.
    words: how many of the most frequent words fill up random sentences, beside those of all questions; few, because the
        model has to learn the sound of each.
    roster: of the users' voices (`speech.roster`).
    open_questions: open questions of the training, each in a Kokoro voice and in its pseudo-speakers.
    open_tests: open questions of each list of the tests, in held-out English voices (of roster "five" both of its own).
    """

    user_speech: int = 4000
    assistant_speech: int = 2500
    false_statement: int = 800
    question: int = 3
    kokoro: int = 12
    user_speech_kokoro: int = 100
    tests: int = 3
    test_facts: int = 1000
    words: int = 40
    roster: str = "five"
    open_questions: int = 0
    open_tests: int = 0


def write_script(facts: list[Fact], recipe: ScriptRecipe, seed: int = 0) -> list[Line]:
    """All lines in a fixed order.

    Random sentences hold the subjects (by users), or subjects and answers (by the assistant), of all sets; in training,
    questions are spoken for A and P only, never for B, C and V.
    """
    said, stated = _sentences(facts, recipe, seed, "assistant_speech"), _statements(facts, recipe, seed)
    short = [line for line in said if len(line.text.split()) < _LONG[0]]
    pairs = zip(short, stated, strict=False) if stated else zip(short, strict=True)
    again = [line.text for pair in pairs for line in pair]
    return [
        *_tests(facts, recipe),
        *_asked(facts, recipe, seed),
        *said,
        *stated,
        *_sentences(facts, recipe, seed, "user_speech", again),
        *_open(recipe),
    ]


def _tests(facts: list[Fact], recipe: ScriptRecipe) -> list[Line]:
    held_out = roster.asking_voices(recipe.roster)
    lines: list[Line] = []
    tested = Counter()
    for fact in facts:
        tested[fact.set] += 1
        if fact.set == "P" or tested[fact.set] > recipe.test_facts:
            continue
        for i in range(recipe.tests if fact.set == "A" else min(recipe.tests, 2 if fact.set == "C" else 1)):
            phrasing, voice = i % 2, held_out[(i + i // 2) % len(held_out)]
            text = fact.question(phrasing, unseen=True)
            lines.append(Line(f"test-{fact.key}-{i}", "test", text, voice, "test", fact.key, fact.set))
    return lines


def _asked(facts: list[Fact], recipe: ScriptRecipe, seed: int) -> list[Line]:
    """Training questions of A and P, and all answers; those of B, C and V are in split "test", for the judge only."""
    pseudo, count = roster.names("hibari", "train", True), 0
    lines: list[Line] = []
    for fact in facts:
        split = "train" if fact.set in "AP" else "test"
        lines.append(Line(f"answer-{fact.key}", "answer", fact.written, "assistant", split, fact.key, fact.set))
        for version in range(min(recipe.question, 2) if fact.set == "P" else 0):
            lines.append(_ask(fact, version % 3, version, pseudo, seed))
        for phrasing in range(3 if fact.set == "A" else 0):
            lines += [_ask(fact, phrasing, version, pseudo, seed) for version in range(recipe.question)]
            name, text = f"ask-{fact.key}-{phrasing}", fact.question(phrasing)
            count += 1
            if recipe.kokoro and count % recipe.kokoro == 0:
                lines += _voice_variants(name, "question", text, count // recipe.kokoro, recipe.roster, fact)
    return lines


def _ask(fact: Fact, phrasing: int, version: int, among: list[str], seed: int) -> Line:
    """A question in a voice drawn from `among`."""
    voice = among[int(rng(seed, "ask", fact.key, phrasing, version).integers(len(among)))]
    name = f"ask-{fact.key}-{phrasing}-{version}"
    return Line(name, "question", fact.question(phrasing), voice, "train", fact.key, fact.set)


def _voice_variants(name: str, role: str, text: str, index: int, voices: str, fact: Fact | None = None) -> list[Line]:
    """A line in one Kokoro training voice and in its pseudo-speakers, which are made from the same synthesis."""
    base = roster.names("kokoro", "train", False, voices)
    chosen = base[index % len(base)]
    others = roster.variants(chosen, voices)
    about = (fact.key, fact.set) if fact else ("", "")
    return [Line(f"{name}-{voice}", role, text, voice, "train", *about) for voice in (chosen, *others)]


def _open(recipe: ScriptRecipe) -> list[Line]:
    """Open questions of the training and of both tests."""
    lines: list[Line] = []
    for i, text in enumerate(open_questions(recipe.open_questions)):
        lines += _voice_variants(f"open-{i:05d}", "open_question", text, i, recipe.roster)
    asking = roster.names(group="english", roster=recipe.roster) or roster.asking_voices(recipe.roster)
    for which in OPEN_TESTS:
        for i, text in enumerate(open_questions(recipe.open_tests, which)):
            name = f"open-{which}-{i:03d}"
            lines.append(Line(name, "open_test", text, asking[i % len(asking)], "test", set=which))
    return lines


def _statements(facts: list[Fact], recipe: ScriptRecipe, seed: int) -> list[Line]:
    """False statements of the assistant, to be repeated: answers whose last part is that of another fact.

    A model that says "The opposite of black is" only in the answers of A memorises those sentences and says nothing
    else; the end of a false statement can only be found in the request.
    """
    families, hidden = defaultdict(list), hidden_pairs(facts)
    for fact in facts:
        families[fact.family].append(fact)
    names, lines = [name for name, members in families.items() if len({fact.answer for fact in members}) > 1], []
    for i in range(recipe.false_statement if names else 0):
        generator = rng(seed, "state", i)
        wanted = [name for name in names if (name in FAMILIES) == (i % 2 == 0)] or names
        while True:
            members = families[wanted[int(generator.integers(len(wanted)))]]
            one, other = (members[j] for j in generator.choice(len(members), 2, replace=False))
            text = one._replace(answer=other.answer).written
            if one.answer != other.answer and not tells(hidden, text.split()):
                break
        lines.append(Line(f"state-{i:05d}", "false_statement", text, "assistant", "train"))
    return lines


def _sentences(facts: list[Fact], recipe: ScriptRecipe, seed: int, role: str, again: Sequence[str] = ()) -> list[Line]:
    """Random sentences that hold subjects (of users) or subjects and answers (of the assistant), of all sets.

    `again`: short sentences and statements of the assistant; users say them too, on every third line, so that the model
    can learn to repeat.
    """
    frequent = vocabulary()[: recipe.words]
    families = [FAMILIES[name] for name in sorted({fact.family for fact in facts} & set(FAMILIES))]
    phrasings = [text for family in families for text in family.asked + family.unseen]
    asked = {word for text in phrasings for word in plain(text).split()}
    words = [*frequent, *sorted(asked - set(frequent))]
    special, hidden = _special(facts, role), hidden_pairs(facts)
    pseudo = roster.names("hibari", "train", True)
    lines, pool = [], []
    slow = recipe.user_speech_kokoro if role == "user_speech" else 0
    for i in range(slow + (recipe.user_speech if role == "user_speech" else recipe.assistant_speech)):
        generator = rng(seed, _STREAMS[role], i)
        # Three in four of the assistant's are only one, two or three such words: first words, then their order.
        low, high, count = (1, 1, i % 4) if role == "assistant_speech" and i % 4 else _LONG
        if len(pool) < count:
            pool = [special[j] for j in rng(seed, _STREAMS[role], "deck", i).permutation(len(special))]
        must: list[str] = []
        for word in [pool.pop() for _ in range(min(count, len(pool)))]:
            must += [] if tells(hidden, [*must, word]) else [word]
        text = random_sentence(generator, words, low, high, must)
        while tells(hidden, text.split()):
            text = random_sentence(generator, words, low, high, must)
        if again and i >= slow and i % 3 == 0:
            text = again[i // 3 % len(again)]
        voice = "assistant" if role == "assistant_speech" else pseudo[int(generator.integers(len(pseudo)))]
        if i < slow:
            lines += _voice_variants(f"{_STREAMS[role]}-{i:05d}", role, text, i, recipe.roster)
            continue
        lines.append(Line(f"{_STREAMS[role]}-{i:05d}", role, text, voice, "train"))
    return lines


def _special(facts: list[Fact], role: str) -> list[str]:
    """What the random sentences of a role must hold; an entry that is listed n times is drawn n times as often."""
    tested = [fact for fact in facts if fact.set != "P"]
    subjects = {fact.subject for fact in tested}
    if role == "user_speech":
        return sorted(subjects)
    often = subjects | {fact.answer for fact in tested}
    return sorted(often) * _OFTEN + sorted({fact.answer for fact in facts} - often)


def hidden_pairs(facts: list[Fact], sets: str = "BVC") -> list[tuple[str, str]]:
    """(subject, answer) of every fact that training must not reveal, unless one contains the other (sheep).

    `sets`: those of the facts. Speech reveals none of B, V and C; text may reveal B.
    """
    pairs = [(f" {plain(fact.subject)} ", f" {plain(fact.answer)} ") for fact in facts if fact.set in sets]
    return [(s, a) for s, a in pairs if s not in a and a not in s]


def tells(hidden: list[tuple[str, str]], words: list[str]) -> bool:
    """Whether these words contain a hidden subject together with its answer."""
    text = f" {plain(' '.join(words))} "
    return any(s in text and a in text for s, a in hidden)


def record_script(
    lines: list[Line], facts: list[Fact], workers: int | None = None, cached: Callable = cache.cached
) -> Path:
    """Synthesise all lines into a cached corpus folder (24 kHz) with script.jsonl, facts.json and words.json.

    words.json holds the word times of all that the assistant says for training: id -> [[word, start, end], ...].
    `cached` caches the folder.
    """
    spec = {"lines": [asdict(line) for line in lines], "facts": facts, "rate": VOICE_SAMPLE_RATE}
    spec["voices"] = voices.VERSION

    def build(folder: Path) -> None:
        synthesise([Utterance(line.id, line.text, line.voice, line.split) for line in lines], folder, workers)
        said = {line.id for line in lines if line.voice == "assistant" and line.split == "train"}
        write_json(folder / "words.json", _word_times(folder, said, workers), indent=None)
        write_json(folder / "facts.json", facts, indent=None)
        write_text(folder / "script.jsonl", "".join(json.dumps(asdict(line)) + "\n" for line in lines))

    return cached("script", spec, build)


def _word_times(folder: Path, ids: set[str], workers: int | None) -> dict[str, list[tuple[str, float, float]]]:
    """Forced alignment of the clips `ids`; a clip that cannot be aligned is left out."""
    clips = [clip for clip in read_manifest(folder) if clip.id in ids]
    tasks, times = [clips[i : i + _CHUNK] for i in range(0, len(clips), _CHUNK)], {}
    with progress("aligning", len(clips)) as advance:
        for chunk, rows in zip(tasks, in_processes(partial(_align, folder), tasks, workers), strict=True):
            times |= {clip.id: words for clip, words in zip(chunk, rows, strict=True) if words}
            advance(len(chunk))
    return times


def _align(folder: Path, clips: list[Clip]) -> list[list[tuple[str, float, float]]]:
    return [align(load_clip(folder, clip, 16_000), clip.text) for clip in clips]


def read_script(folder: Path) -> list[Line]:
    """Load the lines of a recorded script.

    Raises:
        DataError: names the file and the line that is none, has the id of another one, or is about no fact of the
            facts.json beside it though its role asks for one.
    """
    path, lines = Path(folder) / "script.jsonl", []
    today = {old: role for role, old in _STREAMS.items()}  # roles as files of version 0.1 name them
    for number, text in enumerate(read_lines(path), 1):
        line = build(Line, parse_json(text, f"{path}:{number}"), f"{path}:{number}")
        if not is_file_name(line.id):
            raise DataError(f"{path}:{number}: id {short(line.id)} is no name for a file")
        lines.append(replace(line, role=today.get(line.role, line.role)))
    beside = (Path(folder) / "facts.json").is_file()  # lines that were drawn for another script have none
    known = {fact.key for fact in read_facts(folder)} if beside else set()
    seen: set[str] = set()
    for number, line in enumerate(lines, 1):
        problem = f"a second line {short(line.id)}" if line.id in seen else ""
        if beside and line.role in _OF_FACTS and line.fact not in known:
            problem = f"a line of role {line.role} about {short(line.fact)}, which is no fact of facts.json"
        elif beside and line.role == "answer" and line.id != f"answer-{line.fact}":
            problem = f"the answer {short(line.id)} must be called answer-{line.fact}"
        if problem:
            raise DataError(f"{path}:{number}: {problem}")
        seen.add(line.id)
    return lines


def read_word_times(folder: str | Path) -> dict[str, list[tuple[str, float, float]]] | None:
    """The words.json of a recorded script: id -> (word, start, end) in seconds; None where there is no such file.

    Raises:
        DataError: names the file and the first line whose words are none, or whose times run backwards.
    """
    path = Path(folder) / "words.json"
    if not path.is_file():
        return None
    times = read_json(path)
    if misfit(times, dict[str, list[list]]):
        raise DataError(f"{path}: no times of words; make the script again, or delete this file")
    for name, words in times.items():
        for word in words:
            if len(word) != 3 or misfit(word[0], str) or misfit(word[1:], list[float]) or not _in_order(*word[1:]):
                raise DataError(f"{path}: {short(name)}: {short(word)} is no word with its start and end in seconds")
    return {name: [tuple(word) for word in words] for name, words in times.items()}


def _in_order(start: float, end: float) -> bool:
    return 0 <= start <= end <= _LONGEST_LINE
