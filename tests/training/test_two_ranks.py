"""One process, two with DDP and two with FSDP2 train the same weights; what is frozen keeps its bits under each."""

import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lm_toys import module

from mossrepro.lm.checkpoint import from_pretrained
from mossrepro.lm.mini import MiniBackboneTask
from mossrepro.lm.model import LayerSplitLM

HERE = Path(__file__).parents[1]
MIX = {"S2S": 0.4, "tts": 0.2, "text": 0.4}  # single documents: many a rank's batch has no row of one kind


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Those of an exported model, named as a task names them."""
    return {f"model.{name}": value for name, value in from_pretrained(folder)[0].state_dict().items()}


@pytest.fixture(scope="module")
def start(folder, tmp_path_factory):
    """A mini backbone with Qwen3's norms on queries and keys."""
    task = MiniBackboneTask(str(folder / "tokenizer.json"), codes=64, tail_layers=1, layers=3, dim=32, ffn_dim=64)
    torch.manual_seed(1)
    task.model = LayerSplitLM(replace(task.model.config, qk_norm=True))
    path = tmp_path_factory.mktemp("start")
    task.save_pretrained(path)
    return path


def start_fit(out: Path, **asked) -> subprocess.CompletedProcess:
    """A fit in another process, which starts its other ranks."""
    out.mkdir()
    plain = {"strategy": "auto", "devices": 1, "accumulate": 1, "steps": 4, "at": 0, "ckpt": None, "out": str(out)}
    (out / "asked.json").write_text(json.dumps(plain | asked))
    command = [sys.executable, str(HERE / "two_ranks.py"), str(out / "asked.json")]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)  # its port: see conftest


def train(out: Path, **asked) -> dict[str, torch.Tensor]:
    """Weights after a fit in another process, the same on all of its ranks."""
    done = start_fit(out, **asked)
    assert done.returncode == 0, done.stderr[-3000:]
    states = [torch.load(path, weights_only=True) for path in sorted(out.glob("rank*.pt"))]
    assert len(states) == (1 if asked.get("strategy") in ("fsdp2", "tensor") else asked.get("devices", 1))
    for other in states[1:]:
        assert all(torch.equal(value, other[name]) for name, value in states[0].items())
    return states[0]


def apart(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((value - other[name]).abs().max()) for name, value in one.items())


SLOW = [("fsdp2", 2), ("ddp", 1)]
BOTH = [("ddp", 2), ("tensor", 1), *(pytest.param(*pair, marks=pytest.mark.slow) for pair in SLOW)]


@pytest.mark.parametrize(("strategy", "accumulate"), BOTH)
def test_two_ranks_train_what_one_trains(folder, start, tmp_path, strategy, accumulate) -> None:
    asked = {"script": str(folder), "start": str(start), "mix": MIX, "accumulate": accumulate}
    asked["pack"] = accumulate == 2
    one = train(tmp_path / "one", **asked)
    two = train(tmp_path / "two", **asked, strategy=strategy, devices=2)
    assert apart(one, weights(start)) > 1e-4 and apart(one, two) < 1e-6
    assert apart(weights(tmp_path / "two" / "export"), two) == 0


@pytest.mark.parametrize(
    "strategy", ["ddp", *(pytest.param(one, marks=pytest.mark.slow) for one in ("fsdp2", "tensor"))]
)
def test_two_ranks_train_the_mouth_that_one_trains(folder, start, tmp_path, strategy) -> None:
    """Codes pass no gradient to the speech tail, and a batch without a spoken reply none to the mouth."""
    asked = {"script": str(folder), "start": str(start), "mix": MIX, "train": "speech"}
    asked["more"] = {"mouth": 1, "monologue_at": "speech"}
    one, two = train(tmp_path / "one", **asked), train(tmp_path / "two", **asked, strategy=strategy, devices=2)
    close = 2e-3 if strategy == "tensor" else 1e-6  # which tokens an untrained model names is a matter of rounding
    assert any(".mouth." in name for name in one) and apart(one, two) < close
    still = train(
        tmp_path / "still", **asked | {"more": {**asked["more"], "embed_steps": 0}}, strategy=strategy, devices=2
    )
    assert torch.equal(still["model.speech_embed.weight"], weights(start)["model.speech_embed.weight"])


@pytest.mark.parametrize("strategy", ["fsdp2", pytest.param("tensor", marks=pytest.mark.slow)])
def test_two_ranks_train_the_mouth_alone_that_one_trains(folder, start, tmp_path, strategy) -> None:
    """Its way into the model is not `forward`, and gathers what it needs all the same."""
    asked = {"script": str(folder), "start": str(start), "mix": {"tts": 1.0}, "alone": True}
    asked |= {"train": r"mouth\.|speech_norm\.|speech_head\.", "more": {"mouth": 1}}
    one, two = train(tmp_path / "one", **asked), train(tmp_path / "two", **asked, strategy=strategy, devices=2)
    assert apart(one, two) < 1e-6
    moved = {
        name.split(".")[1] for name in one if name in (old := weights(start)) and not torch.equal(one[name], old[name])
    }
    assert moved == {"speech_norm", "speech_head"}


@pytest.mark.parametrize(("first", "then"), [("fsdp2", "auto"), pytest.param("ddp", "fsdp2", marks=pytest.mark.slow)])
def test_a_fit_goes_on_under_another_strategy_and_frozen_bits_stay(folder, start, tmp_path, first, then) -> None:
    asked = {"script": str(folder), "start": str(start), "mix": MIX, "train": "speech"}
    whole = train(tmp_path / "whole", **asked, strategy=first, devices=2, at=2)
    kept = torch.load(tmp_path / "whole" / "last.ckpt", weights_only=True)["state_dict"]
    assert set(kept) == {f"model.{name}" for name in from_pretrained(start)[0].speech_parameters()}
    ranks = 1 if then == "auto" else 2
    again = train(tmp_path / "again", **asked, strategy=then, devices=ranks, ckpt=str(tmp_path / "whole" / "last.ckpt"))
    assert apart(whole, again) < 1e-6
    for state in (whole, again):
        changed = {name for name, value in weights(start).items() if not torch.equal(value, state[name])}
        assert changed == {f"model.{name}" for name in from_pretrained(start)[0].speech_parameters()}


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fsdp2", "tensor"])
def test_a_backbone_of_two_ranks_gets_the_speech_half_that_one_gives(folder, tmp_path, strategy) -> None:
    """It is started when the fit ends, from weights that have just been gathered."""
    asked = {"script": str(folder), "mix": {"facts": 0.5, "repeat_text": 0.5}}
    train(tmp_path / "one", **asked)
    train(tmp_path / "two", **asked, strategy=strategy, devices=2)
    one, two = (weights(tmp_path / name / "export") for name in ("one", "two"))
    assert apart(one, two) < 1e-5
    tail = {name for name in two if name.startswith("model.speech_tail.")}
    assert tail and all(torch.equal(two[name], two[name.replace("speech", "text")]) for name in tail)
    assert float(two["model.speech_embed.weight"].std()) > 0


SPOILT = ["ddp", pytest.param("fsdp2", marks=pytest.mark.slow)]


@pytest.mark.parametrize("strategy", SPOILT)
def test_all_ranks_stop_at_a_loss_of_one_that_is_no_number(folder, start, tmp_path, strategy) -> None:
    """At the next checkpoint, after step 4; that of step 2 stays, and nothing is exported."""
    asked = {"script": str(folder), "start": str(start), "mix": MIX, "spoilt": 3, "steps": 40}
    failed = start_fit(tmp_path / "two", **asked, strategy=strategy, devices=2)
    assert failed.returncode == 1
    assert failed.stderr.count("TrainingError: the loss is no longer finite at step 3") == 2, failed.stderr[-3000:]
    state = torch.load(tmp_path / "two" / "last.ckpt", weights_only=True)
    assert state["global_step"] == 2 and all(value.isfinite().all() for value in state["state_dict"].values())
    assert not (tmp_path / "two" / "export").exists()


def test_a_batch_knows_its_share_of_the_step(folder) -> None:
    data = module(folder, mix=MIX, monologue=True)
    data.accumulate = 2
    for kind in ("text", "monologue", "speech"):
        parts = [data.train_batch(step, rank, 2) for step in (4, 5) for rank in (0, 1)]
        rows = sum(int((part[f"{kind}_target"] >= 0).sum()) for part in parts)
        assert rows > 0 and all(part[f"{kind}_count"] == rows / 4 for part in parts)
    again = pickle.loads(pickle.dumps(data))  # as a loader's workers get it
    assert torch.equal(again.train_batch(4, 1, 2)["grid"], data.train_batch(4, 1, 2)["grid"])
