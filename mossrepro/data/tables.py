"""Tables of recordings as people write them: a row a line, cells between commas, tabs or vertical bars."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mossrepro.utils.io import read_lines

# Heads of columns in use elsewhere (Common Voice, Hugging Face, Coqui) -> ours.
_HEADS = {
    **dict.fromkeys(("file", "path", "audio", "filename", "file_name", "audio_file"), "file"),
    **dict.fromkeys(("text", "sentence", "transcript", "transcription"), "text"),
    **dict.fromkeys(("speaker", "client_id", "speaker_id", "speaker_name"), "speaker"),
}


_SUFFIX = re.compile(r"\.[A-Za-z]\w{1,3}$")  # of a file's name


@dataclass(frozen=True)
class Row:
    """A sound file's name as the table has it, what is said in it, and by whom if the table says so."""

    file: str
    text: str
    speaker: str


@dataclass
class Table:
    """The rows of a table, and one line for each row that cannot be used."""

    rows: list[Row] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read_table(path: Path) -> Table:
    """Read a table of sound files and texts. DataError when it is not UTF-8.

    A first line that names the columns may give them in any order. Without one they are file, text and speaker, or
    between vertical bars id|text, id|text|normalised text (LJSpeech; the last that is not empty counts), or
    wavs/x.wav|speaker|text.
    """
    table, lines = Table(), read_lines(path)
    delimiter = _delimiter(path, lines)
    rows = list(_cells(path, lines, delimiter, table.problems))
    heads = {_HEADS.get(cell.strip().lower(), ""): i for i, cell in enumerate(rows[0][1])} if rows else {}
    if "file" in heads and "text" in heads:
        rows = rows[1:]
        columns = {"speaker": None, **heads}
    elif delimiter != "|":
        columns = {"file": 0, "text": 1, "speaker": 2}
    elif _names_speakers([cells for _, cells in rows]):
        columns = {"file": 0, "text": 2, "speaker": 1}
    else:
        columns = {"file": 0, "text": None, "speaker": None}  # None: the last text that is not empty
    wanted = 1 + max(columns["file"], 1 if columns["text"] is None else columns["text"])
    for number, cells in rows:
        if len(cells) < wanted:
            table.problems.append(f"{path}:{number}: {len(cells)} of {wanted} columns")
            continue
        if not (file := cells[columns["file"]].strip()):
            table.problems.append(f"{path}:{number}: no file")
            continue
        speaker = columns["speaker"]
        if columns["text"] is None:
            text = next((cell for cell in reversed(cells[1:]) if cell.strip()), "")
        else:
            text = cells[columns["text"]]
        named = cells[speaker].strip() if speaker is not None and speaker < len(cells) else ""
        table.rows.append(Row(file, text.strip(), named))
    return table


def _delimiter(path: Path, lines: list[str]) -> str:
    """A tab in .tsv, else what comes first in the first line."""
    if path.suffix.lower() == ".tsv":
        return "\t"
    first = next((line for line in lines if line.strip()), "")
    return min("|\t,", key=lambda one: first.find(one) % (len(first) + 1))


def _names_speakers(rows: list[list[str]]) -> bool:
    """Whether the second of three columns holds speakers and not texts.

    The first has then a file's suffix; a speaker's name is one word, or comes again and again.
    """
    full = [row for row in rows if len(row) >= 3]
    names = [row[1].strip() for row in full]
    if not full or not all(_SUFFIX.search(row[0].strip()) for row in full) or not all(names):
        return False
    return all(len(name.split()) == 1 for name in names) or 2 * len(set(names)) <= len(names)


def _cells(path: Path, lines: list[str], delimiter: str, problems: list[str]) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of every line that is not empty.

    A row never runs over the end of a line, or a single `"` would swallow the rows up to the next one. A cell that
    begins with a `"` that nothing closes has it as a part of its text, unless the quote may be one of CSV's: where the
    next line is no row, and between commas where the cells are too many or too few, or more quotes follow.
    """
    rows = [split_row(line, delimiter) for line in lines]
    usual = next((len(cells) for cells, opened in rows if not opened and len(cells) > 1), 0)
    for number, (cells, opened) in enumerate(rows, 1):
        following = lines[number] if number < len(lines) else ""
        doubt = bool(following.strip()) and delimiter not in following
        doubt |= delimiter == "," and (len(cells) != usual or '"' in following)
        if opened and doubt:
            problems.append(f'{path}:{number}: a " is not closed on its line')
        elif any(cell.strip() for cell in cells):
            yield number, cells


def split_row(line: str, delimiter: str) -> tuple[list[str], bool]:
    """The cells of a line, and whether one begins with a `"` that is not closed.

    A cell between two `"` may hold the delimiter, and `""` for a `"`; any other `"` stands for itself.
    """
    cells, opened, at, end, pattern = [], False, 0, delimiter, _cell(delimiter)
    while end:
        match = pattern.match(line, at)
        quoted, plain, end = match.groups()
        cells.append(plain if quoted is None else quoted.replace('""', '"'))
        opened |= quoted is None and plain.startswith('"') and plain.count('"') % 2 == 1
        at = match.end()
    return cells, opened


@functools.cache
def _cell(delimiter: str) -> re.Pattern[str]:
    """A quoted cell that ends at a delimiter, else everything up to the next one."""
    end = re.escape(delimiter)
    return re.compile(rf'(?:"((?:[^"]|"")*)"|([^{end}]*))({end}|\Z)')
