"""A reader of single words hears no tested answer, and is validated on words that it was not trained on."""

import json
from dataclasses import asdict

import numpy as np
import pytest

from mossrepro.codec.lines_data import LinesDataModule, Unheard
from mossrepro.codec.recogniser import LABELS
from mossrepro.data.facts import Fact
from mossrepro.data.script import Line
from mossrepro.data.token_store import TokenWriter
from mossrepro.utils.errors import DataError

FACTS = [Fact("capital", "France", "Paris", "C"), Fact("plural", "mouse", "mice", "P")]
SAID = {"a": "Paris.", "b": "cat", "c": "the dog in paris", "d": "mice", "e": "two birds", "f": "green", "g": "house"}
SAID |= {"h": "two birds", "i": "cat"}  # said again


@pytest.fixture
def folder(tmp_path):
    for name, said, who in (
        ("script", SAID, "assistant_speech"),
        ("drawn", {"x": "Paris is big", "y": "one big house"}, "user_speech"),
    ):
        lines = [Line(id, who, text, "assistant", "train") for id, text in said.items()]
        lines.append(Line("held", who, "moss", "assistant", "test"))
        (tmp_path / name).mkdir()
        (tmp_path / name / "script.jsonl").write_text("".join(json.dumps(asdict(line)) + "\n" for line in lines))
        with TokenWriter(tmp_path / name, 16) as tokens:
            tokens.add([(line.id, np.arange(6)) for line in lines if line.id != "g"])
    (tmp_path / "script" / "facts.json").write_text(json.dumps(FACTS))
    return tmp_path


def test_what_holds_a_tested_answer_is_left_out_and_a_text_is_trained_on_or_held_out(folder):
    script = str(folder / "script")
    data = LinesDataModule(script, script, times=2, batch=4)
    assert [row.text for row in data.valid] == ["cat"]
    assert [row.text for row in data.train] == 2 * ["mice", "two birds", "green", "two birds"]  # "g" has no codes
    assert [LABELS[label] for label in data.train[0].labels] == ["M", "AY", "S"]
    drawn = LinesDataModule(script, script, str(folder / "drawn"), drawn_share=0.2, times=2, batch=4)
    assert {row.text for row in drawn.train[8:]} == {"one big house", "moss"}
    batch = drawn.train_batch(0, 0, 1)
    assert batch["codes"].shape == (4, 6) and batch["labels"].shape[0] == 4
    assert all(text == "cat" for found in data.val_batches() for text in found["text"])


def test_drawn_codes_are_of_the_same_codebook(folder):
    with TokenWriter(folder / "other", 32) as tokens:
        tokens.add([("x", np.arange(6))])
    (folder / "other" / "script.jsonl").write_text((folder / "drawn" / "script.jsonl").read_text())
    with pytest.raises(DataError, match="a codebook of 32, not 16"):
        LinesDataModule(str(folder / "script"), str(folder / "script"), str(folder / "other"))


def test_what_sounds_like_a_tested_answer_is_left_out_too():
    secret = Unheard(["blue", "Eye"])
    assert [secret.allows(text) for text in ("He blew it.", "I see", "blues", "BLUE!", "a bird", "")] == [
        *(False, False, True, False, True, True)
    ]


def test_a_script_that_leaves_nothing_is_refused(folder):
    script = folder / "script"
    every = [Fact("capital", f"subject {i}", text, "B") for i, text in enumerate(SAID.values())]
    (script / "facts.json").write_text(json.dumps(every))
    with pytest.raises(DataError, match="says too little"):
        LinesDataModule(str(script), str(script))
