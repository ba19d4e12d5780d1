"""The README keeps its promises: every command in it is run at the smoke size, or parsed where a run would be long."""

import argparse
import os
import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest

from mossrepro import cli
from mossrepro.codec import SpeechCodec
from mossrepro.data.corpus import read_manifest
from mossrepro.data.token_store import TokenStore
from mossrepro.speech import voices
from mossrepro.training import lightning_cli, sizes
from mossrepro.utils import audio

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", TEXT, re.M | re.S)
COMMANDS = [
    shlex.split(line, comments=True) for kind, block in BLOCKS if kind == "bash" for line in block.strip().splitlines()
]
MAKE = [words for words in COMMANDS if words[0] == "make"]
FITS = [words[1:] for words in COMMANDS if words[:2] == ["mossrepro", "fit"]]
PREDICTS = [words[1:] for words in COMMANDS if words[:2] == ["mossrepro", "predict"]]
PLANS = [words[1:] for words in COMMANDS if words[:2] == ["mossrepro", "plan"]]
OTHERS = [words[1:] for words in COMMANDS if words[0] == "mossrepro" and words[1] not in ("fit", "predict", "plan")]


def row_names(title: str) -> list[str]:
    """The code words in the first column of the table whose heading starts with `title`."""
    table = re.search(rf"^\| {title}.*\n\|[-|]+\n((?:\|.*\n)+)", TEXT, re.M)[1]
    return [name for row in table.splitlines() for name in re.findall(r"`([^`]+)`", row.split("|")[1])]


@pytest.fixture
def desk(workplace):
    """A folder with a finished run, a question, some recordings and the configurations."""
    if not (workplace / "configs").exists():
        (workplace / "configs").symlink_to(ROOT / "configs")
        (workplace / "recordings").mkdir()
        for i, word in enumerate(["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"] * 2):
            text = f"{'there are' if i < 10 else 'we saw'} {word} birds in the garden"
            audio.save(workplace / "recordings" / f"{i}.wav", *voices.say(text))
            (workplace / "recordings" / f"{i}.txt").write_text(text)
        audio.save(workplace / "question.wav", *voices.say("What is the capital of France?", "hibari+p3"))
    return workplace


def test_there_are_commands_to_test_and_no_others():
    assert MAKE and FITS and OTHERS and len(TEXT.splitlines()) <= 200
    assert {words[0] for words in COMMANDS} == {"make", "mossrepro"}


@pytest.mark.parametrize("words", MAKE, ids=" ".join)
def test_make_does_what_it_says(words):
    # Under `make test` this make is a child of another and would talk about directories.
    outside = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    plan = subprocess.run([*words, "--dry-run"], cwd=ROOT, capture_output=True, text=True, env=outside)
    assert plan.returncode == 0, plan.stderr
    last = shlex.split(plan.stdout.strip().splitlines()[-1])
    if last[0].endswith("/mossrepro"):
        args = cli.build_parser().parse_args(last[1:])
        assert sizes.load_size(args.size).name == args.size
    else:
        assert last[1:3] == ["-m", "pytest"]


@pytest.mark.parametrize("words", OTHERS, ids=" ".join)
def test_a_command_runs(words, desk):
    assert cli.main(words) == 0
    output = Path(words[words.index("-o") + 1])
    assert (output / "manifest.jsonl" if output.suffix == "" else output).stat().st_size > 1000


@pytest.mark.parametrize("words", FITS, ids=" ".join)
def test_a_fit_is_understood(words):
    config = lightning_cli.parse(words[1:])
    for key, value in re.findall(r"--([\w.]+) (\S+)", " ".join(words)):
        found = config
        for part in key.split("."):
            found = found[part]
        assert str(found) == value, key
    assert config["trainer"]["max_steps"] > 0


def test_the_plan_of_the_papers_size_is_printed(desk, capsys):
    (words,) = PLANS
    assert cli.main(words) == 0
    printed = capsys.readouterr().out
    assert "9,095,694,336" in printed and "fsdp2" in printed and "days" in printed


def test_a_fit_on_recordings_of_ones_own_runs(desk):
    words = next(words for words in FITS if "--data.init_args.corpus" in words)
    if not Path("corpora/mine").exists():
        assert cli.main(["data", "add", "recordings", "-o", "corpora/mine"]) == 0
    smoke = [re.sub(r"size/\w+", "smoke", word) for word in words]
    quick = ["--trainer.max_steps", "2", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    assert cli.main([*smoke, *quick]) == 0
    assert (Path(words[words.index("--output") + 1]) / "done.json").is_file()
    (predict,) = PREDICTS
    assert cli.main([re.sub(r"size/\w+", "smoke", word) for word in predict]) == 0
    store, corpus = (predict[predict.index(flag) + 1] for flag in ("--output", "--data.init_args.corpus"))
    assert len(TokenStore(store)) == len(read_manifest(corpus)) > 10
    assert SpeechCodec.from_pretrained(words[words.index("--output") + 1]).listen().close().shape == (1, 0)


def test_the_commands_for_your_own_data_parse():
    """docs/data.md: the stages by hand, one from the other."""
    blocks = re.findall(r"^```bash\n(.*?)^```", (ROOT / "docs" / "data.md").read_text(), re.M | re.S)
    commands = [shlex.split(line) for block in blocks for line in block.strip().splitlines()]
    assert [words[1] for words in commands] == ["predict", *["fit"] * 7]
    starts = [lightning_cli.parse(words[2:])["model"]["init_args"].get("init_from") for words in commands]
    assert starts == [None, "QWEN", "runs/stage1", "runs/stage2", "QWEN", "runs/style", "runs/mouth", "runs/words"]


def test_the_five_lines_of_python_run(desk):
    (code,) = (block for kind, block in BLOCKS if kind == "python")
    assert len(code.split("\n\n", 1)[1].strip().splitlines()) <= 5
    Path("answer.wav").unlink(missing_ok=True)
    exec(compile(code.replace("runs/small", "runs/smoke"), "README.md", "exec"), {})
    assert np.abs(audio.load("answer.wav", 16_000)).max() > 0


def test_tables_list_what_exists():
    stages = {path.stem for path in (ROOT / "configs").glob("*.yaml")} - {"smoke", "claims", "tokenise"}
    assert set(row_names("stage")) == stages
    here = {path.stem for path in (ROOT / "configs" / "size").glob("*.yaml")}
    table = re.search(r"^\| size .*\n\|[-|]+\n((?:\|.*\n)+)", TEXT, re.M)[1].splitlines()
    assert {row.split("`")[1] for row in table if "planned" not in row} == here
    assert {row.split("`")[1] for row in table if "planned" in row}.isdisjoint(here)


def test_every_verb_is_listed_and_every_listed_verb_exists():
    parser = cli.build_parser()
    (verbs,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    listed = {name.removeprefix("mossrepro ").split()[0] for name in row_names("verb")}
    assert listed == set(verbs.choices) - {"test"}  # no stage has anything for it


def test_links_lead_somewhere_and_the_results_have_their_place():
    headings = {re.sub(r"\W+", "-", line.strip("# ").lower()) for line in TEXT.splitlines() if line.startswith("#")}
    anchors = set(re.findall(r"\]\(#([^)]+)\)", TEXT))
    assert anchors <= headings
    links = re.findall(r"\]\((?!http|#)([^)]+)\)", TEXT)
    assert links and all((ROOT / link).exists() for link in links)
    assert len(re.findall(r"^<!-- results -->$.*?^<!-- /results -->$", TEXT, re.M | re.S)) == 1
