"""Tables of recordings as people write them: no row is lost without a word, and none swallows the next."""

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mossrepro.data.tables import read_table

# No line ends (a row is a line) and no surrogates (files are UTF-8); spaces around a cell do not count.
TEXTS = st.text(
    st.one_of(
        st.sampled_from("|\",\t\u2028\u2029\u0085\x0b\x0c\x1c\x1d\x1e'é"), st.characters(exclude_categories=["Cs"])
    )
)
CELLS = TEXTS.map(lambda text: text.replace("\n", " ").replace("\r", " ").strip())


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(CELLS, CELLS.filter(bool)), min_size=1, max_size=4), st.sampled_from(["\t", ",", "|"]))
def test_any_text_survives_a_round_trip(tmp_path_factory, rows, delimiter):
    path = tmp_path_factory.getbasetemp() / ("table.tsv" if delimiter == "\t" else "table.csv")
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, delimiter=delimiter)
    writer.writerow(["file", "text", "speaker"])
    for i, (text, speaker) in enumerate(rows):
        writer.writerow([f"{i}.wav", text, speaker])
    path.write_bytes(stream.getvalue().encode())
    table = read_table(path)
    assert table.problems == []
    assert [(row.file, row.text, row.speaker) for row in table.rows] == [
        (f"{i}.wav", text, speaker) for i, (text, speaker) in enumerate(rows)
    ]


def read(tmp_path, text: str, name: str = "metadata.csv"):
    (tmp_path / name).write_bytes(text.encode())
    table = read_table(tmp_path / name)
    return [(row.file, row.text, row.speaker) for row in table.rows], table.problems


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("a|one\nb|two\n", [("a", "one", ""), ("b", "two", "")]),
        ("a|1|one\nb|2|\n", [("a", "one", ""), ("b", "2", "")]),  # the third column is empty
        ("\ufeffa|one\r\n\r\n \r\nb|two\r\n", [("a", "one", ""), ("b", "two", "")]),
        ("wavs/a.wav|anna|Hi you\nb.wav|bob|Yes\n", [("wavs/a.wav", "Hi you", "anna"), ("b.wav", "Yes", "bob")]),
        ("a.wav|Anna Lee|x y\nb.wav|Anna Lee|z\n", [("a.wav", "x y", "Anna Lee"), ("b.wav", "z", "Anna Lee")]),
        ("a.wav|In 1455|In fourteen\nb.wav|On 3|On three\n", [("a.wav", "In fourteen", ""), ("b.wav", "On three", "")]),
        ("audio_file|text|speaker_name\na.wav|Hi|me\n", [("a.wav", "Hi", "me")]),
        ("file_name,transcription\na.wav,\"Yes, I do\"\n", [("a.wav", "Yes, I do", "")]),
        ("a|In 1455, they\u2028said\u0085so\n", [("a", "In 1455, they\u2028said\u0085so", "")]),
        ('a|"Open\nb|two\nc|close"\n', [("a", '"Open', ""), ("b", "two", ""), ("c", 'close"', "")]),
        ('a|"Yes," he said.\n', [("a", '"Yes," he said.', "")]),
    ],
)  # fmt: skip
def test_every_dialect_is_read(tmp_path, text, rows):
    assert read(tmp_path, text) == (rows, [])


@pytest.mark.parametrize("name", ["transcripts.tsv", "transcripts.csv", "metadata.csv"])
def test_a_single_quote_does_not_swallow_the_next_row(tmp_path, name):
    delimiter = {"transcripts.tsv": "\t", "transcripts.csv": ",", "metadata.csv": "|"}[name]
    said = ['"Hello', "Bye", '5" nails', 'so"', "x", '"']
    text = "".join(f"{i}.wav{delimiter}{words}\n" for i, words in enumerate(said))
    rows, problems = read(tmp_path, text, name)
    assert [row[1] for row in rows] == said and problems == []


def test_a_quote_that_may_protect_a_comma_is_named_by_line(tmp_path):
    rows, problems = read(tmp_path, 'a.wav,"Hello, you\nb.wav,Bye\nc.wav,"So\nd.wav,"x"\n', "transcripts.csv")
    assert [row[0] for row in rows] == ["b.wav", "d.wav"]
    assert [problem.partition("transcripts.csv:")[2] for problem in problems] == [
        '1: a " is not closed on its line',
        '3: a " is not closed on its line',
    ]


def test_a_cell_over_two_lines_is_named_and_not_half_read(tmp_path):
    for name, delimiter in (("t.tsv", "\t"), ("t.csv", ",")):
        rows, problems = read(tmp_path, f'a.wav{delimiter}"one\ntwo"\nb.wav{delimiter}x\n', name)
        assert rows == [("b.wav", "x", "")]
        assert f'{name}:1: a " is not closed' in problems[0] and f"{name}:2: 1 of 2 columns" in problems[1]


def test_rows_that_are_too_short_are_named_by_line(tmp_path):
    rows, problems = read(tmp_path, "a|one\n\nonly\n|no file\nb|two\n")
    assert [row[0] for row in rows] == ["a", "b"]
    assert ["metadata.csv:3: 1 of 2 columns" in problems[0], "metadata.csv:4: no file" in problems[1]] == [True, True]
    _, problems = read(tmp_path, "text\tlength\tpath\nHi\t1\ta.wav\nBye\n", "t.tsv")
    assert problems == [f"{tmp_path / 't.tsv'}:3: 1 of 3 columns"]


def test_a_cell_of_200_kilobytes_is_read(tmp_path):
    long = "word " * 40_000
    for name, delimiter in (("t.tsv", "\t"), ("t.csv", ","), ("metadata.csv", "|")):
        for text in (long.strip(), f'"{long.strip()}"'):
            assert read(tmp_path, f"a.wav{delimiter}{text}\n", name)[0] == [("a.wav", long.strip(), "")]
