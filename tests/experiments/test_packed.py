"""A language model on the codes of packs: nothing is spoken, and what needs recordings is not measured."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from mossrepro import cli
from mossrepro.codec.text_to_code import TextToCode, TextToCodeConfig
from mossrepro.data.script import read_script
from mossrepro.data.token_store import TokenStore
from mossrepro.evaluation.measure import measure, measures_of
from mossrepro.experiments.ablate import VariantGraph
from mossrepro.experiments.content import content_name
from mossrepro.experiments.controls import ControlGraph, EditGraph, OracleGraph
from mossrepro.experiments.graph import StageGraph
from mossrepro.utils import packs
from mossrepro.utils.checksums import write_sums
from mossrepro.utils.errors import CheckpointError, ConfigError, DataError

CHANGES = ["size.sound=pack:sound", "size.speech=pack:said"]


@pytest.fixture(scope="module")
def made(run, tmp_path_factory):
    """A folder with packs of the smoke run, "sound" and "said"."""
    folder, parts = tmp_path_factory.mktemp("packs"), json.loads((run / "parts.json").read_text())
    model = TextToCode(TextToCodeConfig(codes=64, speakers=3, dim=16, layers=1))
    model.trained[:] = True
    model.save_pretrained(folder / "network")
    said = ["--script", parts["script"], "--tokens", parts["tokens"], "--text-to-code", str(folder / "network")]
    assert cli.main(["run", "teach", "-o", str(folder / "packs" / "said"), *said]) == 0
    assert cli.main(["run", "teach", str(run), "-o", str(folder / "packs" / "sound")]) == 0
    return folder / "packs"


@pytest.fixture
def packed(made, tmp_path, monkeypatch):
    """A copy of the packs in the place where packs are; gives that place."""
    shutil.copytree(made, tmp_path / "packs")
    monkeypatch.setattr(packs, "PACKS", tmp_path / "packs")
    return tmp_path / "packs"


def test_a_language_model_is_made_without_a_recording(run, packed, workplace, capsys):
    sets = [word for change in CHANGES for word in ("--set", change)]
    assert cli.main(["reproduce", "--size", "smoke", "--name", "packed", *sets]) in (0, 1)
    made = Path("runs") / "packed"
    facts = {path.stem for path in (made / "facts").glob("*.json")}
    assert {"s2s_c", "t2t_c", "stage1_text_change", "minutes"} <= facts
    assert not {"codec_wer", "resynthesis", "synthesiser_mos"} & facts
    stages = {cost["stage"] for cost in json.loads((made / "stages.json").read_text())}
    assert not {"codec", "tokens", "flow", "vocoder", "recogniser"} & stages
    assert json.loads((made / "wav" / "index.json").read_text()) and (made / "report.html").is_file()
    assert cli.main(["talk", "--say", "Hello.", "-o", "answer.wav", "--run", str(made)]) == 0


def test_a_pack_gives_back_what_was_said(run, packed):
    graph, parts = StageGraph("smoke", CHANGES), json.loads((run / "parts.json").read_text())
    assert read_script(graph.script()) == read_script(Path(parts["script"]))
    ours, theirs = TokenStore(graph.tokens()), TokenStore(parts["tokens"])
    assert set(ours) == set(theirs) and all((ours[name] == theirs[name]).all() for name in theirs)
    for name in ("code_phone_probs.npy", "codebook.npy"):
        assert (graph.tokens() / name).read_bytes() == (Path(parts["tokens"]) / name).read_bytes()
    assert torch.equal(TextToCode.from_pretrained(graph.text_to_code()).trained, torch.ones(3, dtype=torch.bool))
    assert content_name(graph.tokens()).endswith("/tokens") and len(content_name(graph.tokens())) > 16
    with pytest.raises(DataError, match="no recordings"):
        graph.codec_corpus()


def test_controls_and_variants_stand_on_the_packs_too(packed):
    plain = StageGraph("smoke", CHANGES)
    others = [OracleGraph("smoke", 0.0, CHANGES), ControlGraph("smoke", "counterfactual", 0.0, CHANGES)]
    for graph in (*others, EditGraph("smoke", True, CHANGES), VariantGraph("smoke", "no_split", CHANGES)):
        assert graph.given == plain.given and graph.tokens() == plain.tokens() == plain.given["tokens"]
        assert graph.known() == plain.known() != []
    assert StageGraph("smoke").given == {}


def test_what_packs_cannot_do_is_said(run, packed, tmp_path):
    with pytest.raises(ConfigError, match="size.speech=pack:NAME"):
        StageGraph("smoke", CHANGES[:1])
    with pytest.raises(ConfigError, match="has no script"):
        StageGraph("smoke", ["size.sound=pack:sound", "size.speech=pack:sound"])
    with pytest.raises(ConfigError, match="size.sound=pack:NAME"):
        StageGraph("smoke", CHANGES[1:])
    with pytest.raises(ConfigError, match="size.codec.codes=128"):
        StageGraph("smoke", [*CHANGES, "size.codec.codes=128"])
    assert cli.main(["run", "teach", "-o", str(tmp_path / "new"), "--script", str(tmp_path)]) == 2
    parts = json.loads((run / "parts.json").read_text())
    model = TextToCode(TextToCodeConfig(codes=65, speakers=3, dim=16, layers=1))
    model.save_pretrained(tmp_path / "other")
    said = ["--script", parts["script"], "--tokens", parts["tokens"], "--text-to-code", str(tmp_path / "other")]
    assert cli.main(["run", "teach", "-o", str(tmp_path / "new"), *said]) == 2
    assert not (tmp_path / "new").exists()


def test_packs_of_other_codebooks_are_refused(packed):
    """Of as many codes: nothing else would say that they are those of another tokenizer."""
    table = np.load(StageGraph("smoke", CHANGES).tokens() / "codebook.npy")
    file = io.BytesIO()
    np.save(file, table[::-1])
    packs.write_file(packed / "said" / "tokens", "codebook.npy", file.getvalue())
    write_sums(packed / "said")
    with pytest.raises(ConfigError, match="other codebooks"):
        StageGraph("smoke", CHANGES)


def test_what_needs_recordings_is_not_measured_on_a_run_of_packs(run, packed, tmp_path):
    parts = json.loads((run / "parts.json").read_text())
    assert {"codec", "vocoder"} <= set(measures_of(parts))
    parts["script"] = str(StageGraph("smoke", CHANGES).script())
    assert not {"codec", "vocoder", "words"} & set(measures_of(parts)) and "lm" in measures_of(parts)
    with pytest.raises(ConfigError, match="vocoder: cannot be measured on this run; choose .*lm"):
        measure(parts, tmp_path / "out", ("vocoder",))


def test_a_file_of_a_pack_that_is_no_file_of_a_part_is_refused(packed):
    for name in ("loose.gz", "a/b/c.gz"):
        path = packed / "said" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
        write_sums(packed / "said")
        with pytest.raises(CheckpointError, match="is in no part"):
            packs.unpack("said")
        path.unlink()
    path = packed / "said" / "script" / "facts.json.gz"
    path.write_bytes(b"not compressed")
    write_sums(packed / "said")
    with pytest.raises(CheckpointError, match="no file of a pack"):
        packs.unpack("said")
