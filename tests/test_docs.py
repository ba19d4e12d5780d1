"""Documents point to what exists, and their lists of names are those of the code."""

import re
from pathlib import Path

import pytest
from test_architecture import RANK, ROOT

PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"]
PAGES = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"]
_PAGES = "glossary data own-voice promises reliability paper-map deviations other-llm cluster teaching".split()
PAGES += [f"docs/{name}.md" for name in _PAGES]
FOLDERS = ("configs", "docs", "lessons", "mossrepro", "notebooks", "requirements", "tests")
# What a document names though it is no file today: made by a run, or what the changelog says is gone.
NOT_HERE = {"configs/reader.yaml"}
README = (ROOT / "README.md").read_text()


def anchors(path: Path) -> set[str]:
    """Headings as the hub links to them: "Names of version 0.1" -> "names-of-version-01"."""
    titles = re.findall(r"^#+ (.+)$", path.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_to_files_and_headings(name):
    path = ROOT / name
    links = re.findall(r"\]\((?!http)([^)#]*)(?:#([^)]+))?\)", path.read_text())
    assert links or name == "CHANGELOG.md"
    for link, anchor in links:
        there = path.parent / link if link else path
        assert there.exists(), link
        assert not anchor or anchor in anchors(there), f"{link}#{anchor}"


@pytest.mark.parametrize("name", PAGES)
def test_named_files_exist(name):
    """Paths in code type, `configs/size`, and in commands."""
    named = re.findall(rf"(?<![\w./])(?:{'|'.join(FOLDERS)})/[\w./-]*\w", (ROOT / name).read_text())
    for file in set(named) - NOT_HERE:
        assert (ROOT / file).exists(), file


def test_the_names_of_the_glossary_are_in_the_code():
    """Every new name in the table of renamed things is used; no old class name is."""
    text = (ROOT / "docs" / "glossary.md").read_text()
    code = "\n".join(
        path.read_text() for path in [*(ROOT / "mossrepro").rglob("*.py"), *(ROOT / "configs").rglob("*.yaml")]
    )
    rows = [row.split("|")[1:3] for row in text.split("| then | now |")[1].splitlines() if row.startswith("| `")]
    assert len(rows) > 15
    for _, new in rows:
        for name in re.findall(r"`([\w.]+)`", new):
            last = name.split(".")[-1]
            is_module = (ROOT / "mossrepro" / f"{name.replace('.', '/')}.py").is_file()
            assert is_module or re.search(rf"\b{last}\b", code), name
    for old in ("Door", "OrderedLinear", "ReaderTask", "RivalChain", "Contest", "JoinedAttention"):
        assert not re.search(rf"\b{old}\b", code), old


def test_the_readme_lists_the_rooms_from_the_top_down():
    block = re.search(r"^## The package\n```\n(.*?)^```", README, re.M | re.S)[1].splitlines()
    floors = [[re.sub(r"(/|\.py)$", "", word) for word in line[:32].split()] for line in block]
    rooms = [room for floor in floors for room in floor]
    assert len(block) <= 25 and set(rooms) == set(RANK) - {"__init__", "__main__"}
    ranks = [RANK[room] for room in rooms]
    assert ranks == sorted(ranks, reverse=True)


def test_the_readme_says_what_its_numbers_mean_before_it_gives_them():
    before, results = README.split("<!-- results -->")
    assert all(f"**{name}**" in before for name in "ABCVP")
    assert "inner\nmonologue" in before or "inner monologue" in before
    table = re.search(r"^\| measured.*\n\|[-|]+\n((?:\|.*\n)+)", results, re.M)[1]
    assert len(table.splitlines()) == 6


def test_the_tests_that_reliability_names_exist():
    """Every test of docs/reliability.md is a function in a file of that name."""
    text = (ROOT / "docs" / "reliability.md").read_text()
    files = {path.name: path.read_text() for path in (ROOT / "tests").rglob("test_*.py")}
    assert set(re.findall(r"`(test_\w+\.py)`", text)) <= set(files)
    for part in re.split(r"(?=`test_\w+\.py`)", text)[1:]:
        file = re.match(r"`(test_\w+\.py)`", part)[1]
        for name in re.findall(r"`(test_\w+)`", part):
            assert f"def {name}(" in files[file], f"{file} has no {name}"


def test_every_word_of_the_glossary_has_its_place():
    table = (ROOT / "docs" / "glossary.md").read_text().split("| word | meaning | where |")[1].split("\n## ")[0]
    rows = [row for row in table.splitlines() if row.startswith("| ")]
    assert len(rows) > 45
    for row in rows:
        assert re.search(r"\]\(\.\./[\w./]+\) *\|$", row), row
