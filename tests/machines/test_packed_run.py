"""A finished run as one folder: moved and shared it still answers, and what changed on the way is named."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from toy_run import write_toy_run

from mossrepro import cli
from mossrepro.experiments import pack
from mossrepro.lm.decode import GenerationConfig
from mossrepro.pipeline import Assistant
from mossrepro.training.runs import read_parts
from mossrepro.utils import audio

WAVE = np.random.default_rng(0).normal(0, 0.1, 8_000).astype(np.float32)
SHORT = GenerationConfig(max_positions=4)


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("MOSSREPRO_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return write_toy_run(tmp_path / "runs" / "toy", tmp_path / "home")


def codes(folder) -> list[int]:
    return Assistant.from_run(folder, "cpu").answer(WAVE, config=SHORT).codes


def test_a_packed_run_answers_without_the_cache_and_without_a_home(run, tmp_path, monkeypatch, capsys):
    said = codes(run)
    assert cli.main(["run", "pack", "runs/toy", "-o", "toy.moss"]) == 0
    shutil.rmtree(tmp_path / "home")
    shutil.rmtree(run)
    moved = tmp_path / "else where" / "ü.moss"
    moved.parent.mkdir()
    (tmp_path / "toy.moss").rename(moved)
    monkeypatch.delenv("MOSSREPRO_HOME")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", lambda uid: (_ for _ in ()).throw(KeyError("nobody")))
    assert codes(moved) == codes(moved.relative_to(tmp_path)) == said
    audio.save("question.wav", WAVE, 16_000)
    assert cli.main(["talk", "question.wav", "--text", "--run", str(moved)]) == 0
    assert cli.main(["run", "check", str(moved)]) == 0 and "files are as they were packed" in capsys.readouterr().out


def test_it_says_what_it_is_and_not_where_it_was_made(run, tmp_path):
    out = pack.pack(run, tmp_path / "toy.moss")
    about = json.loads((out / "provenance.json").read_text())
    assert {"finished", "version", "commit", "python", "system", "hardware", "packages"} <= set(about)
    sft = about["parts"]["sft"]
    assert (sft["precision"], sft["devices"], sft["steps"], sft["seed"]) == ("bf16-mixed", "1 x cpu", 3, 0)
    card = (out / "README.md").read_text()
    assert card.startswith("# toy.moss\n") and r"speech \| text on C | 60.8 %" in card and "SmolLM2" in card
    assert "bf16-mixed" in card and "Apache-2.0" in card
    texts = [path.read_text() for path in out.rglob("*") if path.suffix in (".json", ".md")]
    assert not any(str(tmp_path / "home") in text for text in texts)
    assert json.loads((out / "parts" / "sft" / "fit.json").read_text())["data"]["init_args"]["script"] == "script/abc"


def test_the_report_of_a_packed_run_is_that_of_the_run(run, tmp_path, capsys):
    out = pack.pack(run, tmp_path / "toy.moss")
    (tmp_path / "claims.yaml").write_text('- {id: s2t_c, name: x, unit: "%", low: 10}\n')
    assert cli.main(["report", "--run", str(out), "--claims", "claims.yaml"]) == 0
    assert "60.8" in (out / "report.html").read_text()
    assert pack.check(out) == 0  # what was made of it does not count


CHANGES = {
    "has changed": lambda out: (out / "parts" / "sft" / "config.json").write_text("{}"),
    "is missing": lambda out: (out / "parts" / "flow" / "model.safetensors").unlink(),
    "was not there": lambda out: (out / "parts" / "sft" / "more.safetensors").write_bytes(b"x"),
    "no packed run": lambda out: (out / "SHA256SUMS").unlink(),
    "not the checksum": lambda out: (out / "SHA256SUMS").write_text(f"{'0' * 64}  ../secret\n"),
}


@pytest.mark.parametrize("said", CHANGES)
def test_what_changed_on_the_way_is_named(said, run, tmp_path, capsys):
    out = pack.pack(run, tmp_path / "toy.moss")
    CHANGES[said](out)
    capsys.readouterr()
    assert cli.main(["run", "check", str(out)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and said in lines[0] and str(out) in lines[0]


def test_nothing_is_overwritten_and_nothing_of_others_is_packed(run, tmp_path, capsys):
    (tmp_path / "secret").write_text("x")
    (run / "wav" / "linked.wav").symlink_to(tmp_path / "secret")
    assert cli.main(["run", "pack", str(run), "-o", "a.moss"]) == 2
    assert "linked.wav: leads out of" in capsys.readouterr().err and not Path("a.moss").exists()
    (run / "wav" / "linked.wav").unlink()
    for name in ("tokenizer.json", "config.json", "model.safetensors", "fit.json"):  # of a part, too
        path = tmp_path / "home" / "fit-sft" / "sft" / name
        path.rename(tmp_path / name)
        path.symlink_to(tmp_path / name)
        assert cli.main(["run", "pack", str(run), "-o", "a.moss"]) == 2
        assert f"{name}: leads out of" in capsys.readouterr().err and not list(tmp_path.glob("*a.moss*"))
        (tmp_path / name).replace(path)
    Path("b.moss").mkdir()
    assert cli.main(["run", "pack", str(run), "-o", "b.moss"]) == 2 and "already" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "home" / "fit-flow")
    assert cli.main(["run", "pack", str(run), "-o", "c.moss"]) == 2
    assert "flow is gone" in capsys.readouterr().err and [path.name for path in tmp_path.glob("*.moss")] == ["b.moss"]


def test_a_disk_that_fills_up_leaves_nothing(run, disk, tmp_path, capsys):
    for number in (0, 3, 9, 14):
        with disk.full_from(number):
            assert cli.main(["run", "pack", str(run), "-o", "toy.moss"]) == 2
        assert "disk is full" in capsys.readouterr().err and not list(tmp_path.glob("*.moss*"))
    assert cli.main(["run", "pack", str(run), "-o", "toy.moss"]) == 0 and pack.check("toy.moss") == 0


def test_a_cache_that_was_moved_is_found_by_its_new_name(run, tmp_path, monkeypatch):
    said = codes(run)
    (tmp_path / "home").rename(tmp_path / "other")
    monkeypatch.setenv("MOSSREPRO_HOME", str(tmp_path / "other"))
    assert codes(run) == said
    shutil.rmtree(tmp_path / "other")
    assert read_parts(run, ())["sft"] == str(tmp_path / "home" / "fit-sft" / "sft")  # as it was said
