"""`mossrepro adapt` through its real door, at smoke size."""

import json

import numpy as np
import pytest

from mossrepro import cli
from mossrepro.codec.model import SpeechCodec
from mossrepro.data.corpus import CorpusWriter
from mossrepro.experiments import stages as chain_module
from mossrepro.experiments.content import content_name
from mossrepro.speech import voices


def record(folder, count: int = 6, first: int = 0):
    with CorpusWriter(folder) as writer:
        for i in range(first, first + count):
            text, split = f"please press button number {i}", ("train", "train", "valid", "test")[i % 4]
            writer.add(f"p{i}", *voices.say(text, "hibari+p2"), text, "me", split)
    return folder


def test_a_tokenizer_is_adapted_measured_and_heard_with(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    own = record(tmp_path / "own")

    def stage(name: str, command: list[str]) -> None:
        assert cli.main(command) == 0, name

    monkeypatch.setattr(chain_module, "run_stage", stage)
    (tmp_path / "runs" / "smoke").mkdir(parents=True)
    (tmp_path / "runs" / "smoke" / "parts.json").write_text(json.dumps({"codec": "old", "sft": "kept"}))
    assert cli.main(["adapt", "own", "-o", "mine", "--size", "smoke", "--set", "adapt.trainer.max_steps=2"]) == 0
    parts = json.loads((tmp_path / "mine" / "parts.json").read_text())
    assert parts["sft"] == "kept" and parts["codec"] == parts["recogniser"] == str(tmp_path / "mine" / "tokenizer")
    assert SpeechCodec.from_pretrained(parts["codec"]).config.codes == 64
    found = {path.stem: json.loads(path.read_text())["value"] for path in (tmp_path / "mine" / "facts").glob("*.json")}
    assert {"adaptation_wer_before", "adaptation_per_after", "adaptation_changed"} <= set(found)
    assert all(np.isfinite(value) for value in found.values())
    assert "talk --run mine" in capsys.readouterr().err
    assert content_name(own) != content_name(record(own, 1, first=6))  # more recordings are another adaptation


@pytest.mark.parametrize("splits", ["train", "train valid", "valid test"])
def test_a_corpus_without_a_split_is_refused_before_the_work(tmp_path, capsys, splits):
    with CorpusWriter(tmp_path / "own") as writer:
        for split in splits.split():
            writer.add(split, np.ones(1600, np.float32) * 0.1, 16_000, "one", "me", split)
    assert cli.main(["adapt", str(tmp_path / "own"), "-o", str(tmp_path / "mine"), "--size", "smoke"]) == 2
    assert "clips; `mossrepro data add`" in capsys.readouterr().err and not (tmp_path / "mine").exists()
