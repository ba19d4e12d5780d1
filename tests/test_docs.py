"""Documents point to what exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/glossary.md", "docs/data.md"])
def test_links_lead_to_files(name):
    path = ROOT / name
    for link in re.findall(r"\]\((?!http|#)([^)#]+)", path.read_text()):
        assert (path.parent / link).exists(), link


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
            assert (
                re.search(rf"\b{name.split('.')[-1]}\b", code) or (ROOT / "mossrepro" / name.replace(".", "/")).exists()
            ), name
    for old in ("Door", "OrderedLinear", "ReaderTask", "RivalChain", "Contest", "JoinedAttention"):
        assert not re.search(rf"\b{old}\b", code), old
