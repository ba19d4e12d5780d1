"""The site's pages say what is so: names import, keys exist, links and commands resolve; built without a warning."""

import importlib
import importlib.util
import inspect
import re
import shlex
from pathlib import Path

import pytest
import yaml

from mossrepro import cli
from mossrepro.training import lightning_cli, sizes

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
_spec = importlib.util.spec_from_file_location("docs_build", DOCS / "build.py")
site = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(site)
MAP, DEVIATIONS = (DOCS / "paper-map.md").read_text(), (DOCS / "deviations.md").read_text()
ROWS = [[cell.strip() for cell in row.split("|")] for row in re.findall(r"^\|(?! the paper|-)(.*)\|$", MAP, re.M)]
CLAIMS = {row["id"] for row in yaml.safe_load((ROOT / "configs" / "claims.yaml").read_text())}


def code(text: str) -> list[str]:
    """What stands in code type."""
    return re.findall(r"`([^`]+)`", text)


def found(name: str) -> object:
    """A module, or something in one, by its full name. AttributeError if there is none."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            here = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            here = getattr(here, part)
        return here
    raise AttributeError(name)


def has_key(key: str) -> bool:
    """Whether a key of `--set` exists: of a size, or of a stage's file or of the classes that it names."""
    stage, *parts = key.split(".")
    if stage == "size":
        here = sizes.load_size("small")
        for part in parts:
            if not hasattr(here, part):
                return False
            here = getattr(here, part)
        return True
    path = ROOT / "configs" / f"{stage}.yaml"
    here = yaml.safe_load(path.read_text()) if path.is_file() else {}
    for part, after in zip(parts, [*parts[1:], ""], strict=True):
        if part not in here:
            return False
        if after and here[part].get("class_path"):
            named = inspect.signature(found(here[part]["class_path"]).__init__).parameters
            here = {"init_args": {**dict.fromkeys(named, {}), **here[part]["init_args"]}}
        else:
            here = here[part]
    return True


def test_the_map_has_rows_of_six_cells():
    assert len(ROWS) > 35 and {len(row) for row in ROWS} == {6}


def test_functions_of_the_map_can_be_imported():
    names = [name for row in ROWS for name in code(row[1])]
    assert len(names) > 35
    for name in names:
        assert found(name) is not None
    with pytest.raises(AttributeError):
        found("mossrepro.lm.model.LayerSplitLM.no_such_thing")


def test_keys_of_map_and_deviations_exist():
    keys = [key for row in ROWS for key in code(row[2])]
    keys += re.findall(r"`((?:size|\w+\.(?:model|data|trainer))\.[\w.]+)`", DEVIATIONS)
    assert len(keys) > 45
    assert [key for key in keys if not has_key(key)] == []
    assert not has_key("stage1.model.init_args.no_such_key") and not has_key("size.lm.no_such_key")


def test_measured_numbers_of_the_map_are_claims():
    ids = {name for row in ROWS for name in code(row[4])}
    assert len(ids) > 20 and ids <= CLAIMS


def test_every_deviation_is_on_the_map_and_the_other_way_round():
    numbers = re.findall(r"^\| (D\d+) \|", DEVIATIONS, re.M)
    assert numbers == [f"D{i + 1}" for i in range(len(numbers))] and len(numbers) > 20
    assert {name for row in ROWS for name in re.findall(r"D\d+", row[5])} == set(numbers)


def test_numbers_of_the_deviations_are_those_of_the_configurations():
    """What the page gives as a number, read from where it is set."""
    words = yaml.safe_load((ROOT / "configs" / "stage1_word.yaml").read_text())["model"]["init_args"]
    assert f"a weight of {words['monologue_weight']};" in DEVIATIONS
    assert f"frozen after {words['embed_steps']} steps" in DEVIATIONS
    codes = [sizes.load_size(name).codec.codes for name in ("tiny", "small", "base")]
    assert f"{min(codes)} to {max(codes):,} vectors" in DEVIATIONS
    for stage in ("stage1", "stage2"):
        settings = yaml.safe_load((ROOT / "configs" / f"{stage}.yaml").read_text())["data"]["init_args"]
        assert settings["mix"]["interleaved"] == 0.05 and settings["max_conversation_len"] == 150
    assert sizes.load_size("small").lm.form == "word" and sizes.load_size("tiny").lm.form == "sentence"
    full = sizes.load_size("full").lm.stage2
    assert full.lr == full.speech_lr == full.head_lr == full.embed_lr


def test_the_teaching_plan_gives_the_minutes_of_the_lessons():
    plan = (DOCS / "teaching.md").read_text()
    for lesson in sorted((ROOT / "lessons").glob("[0-9]*.py")):
        assert f"lessons/{lesson.name}" in plan
    weeks = re.findall(r"^\| (\d+) \|(.*?)\| (\d+) \+ (\d+) \|", plan, re.M)
    assert [int(week) for week, *_ in weeks] == list(range(1, 11))
    for _, links, reading, _ in weeks:
        texts = [(DOCS / link).read_text() for link in re.findall(r"\]\(([^)]+)\)", links)]
        assert sum(int(re.search(r"\*\*Reading\*\* (\d+)", text)[1]) for text in texts) == int(reading)


@pytest.mark.parametrize("name", ["other-llm", "cluster"])
def test_commands_of_the_how_to_pages_are_understood(name):
    text = (DOCS / f"{name}.md").read_text()
    blocks = re.findall(r"^```bash\n(.*?)^```", text, re.M | re.S)
    commands = [shlex.split(line)[1:] for block in blocks for line in block.strip().splitlines()]
    assert commands
    for words in commands:
        if words[0] == "fit":
            assert lightning_cli.parse(words[1:])["trainer"]["strategy"] != "auto"
        else:
            cli.build_parser().parse_args(words)


def test_links_of_the_site_lead_to_its_pages(tmp_path):
    site.stage(tmp_path)
    pages = [*tmp_path.rglob("*.md")]
    assert len(pages) > 150 and all((tmp_path / page).is_file() for part in site.sections().values() for page in part)
    for page in pages:
        outside_code = re.sub(r"^(`{3,}).*?^\1", "", page.read_text(), flags=re.M | re.S)
        for _, link, _ in site.LINK.findall(re.sub(r"`[^`\n]*`", "", outside_code)):
            there = tmp_path / link[1:] if link.startswith("/") else page.parent / link
            assert there.is_file(), f"{page.relative_to(tmp_path)}: {link}"


def test_docstrings_become_markdown():
    said = site.markdown(
        "Reads *x* of `a_b`.\n\nArgs:\n    lr: peak rate,\n        in the end.\n    on: a_b.\n\n    a -> b\n"
    )
    assert said.startswith("Reads \\*x\\* of `a_b`.")
    assert "- `lr`: peak rate,\n    in the end." in said and "- `on`: a\\_b." in said
    assert site.markdown("A drawing:\n\n    a --+--> b\n        '--> c").endswith(
        "```text\na --+--> b\n    '--> c\n```"
    )


def test_modules_are_described_by_their_docstrings():
    page = site.module_page("mossrepro/codec/quantiser.py")
    assert "{py:function} nearest_code(x: Tensor, codebook: Tensor) -> Tensor" in page
    assert "{py:method} move" in page and "_init" not in page
    fields = site.module_page("mossrepro/lm/decode.py")
    assert "{py:class} SamplingParams(temperature: float = 0.0" in fields


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    pytest.importorskip("sphinx")
    pytest.importorskip("furo")
    pytest.importorskip("myst_nb")
    assert site.build(tmp_path / "site") == 0
    for page in ("index", "docs/paper-map", "notebooks/00_map_and_sound", "files/mossrepro/lm/model.py"):
        assert (tmp_path / "site" / f"{page}.html").stat().st_size > 5000
