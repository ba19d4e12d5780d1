"""A batch is that of a step, whatever the number of ranks: two train the weights that one trains, in every stage."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from stage_toys import STAGES, fit, know_phones, write_chain_folder

HERE = Path(__file__).parents[1]
LM = ("backbone", "mouth", "stage1", "stage2", "ears", "ears with twins")
# Sums over ranks are added in another order than those of one process: 1e-7 of a float32 apart. AdamW divides a
# gradient by its own size, so that a weight whose gradient is nearly 0 may move by a share of a step, here 2e-4.
NEAR = {"atol": 1e-6, "rtol": 1e-5}  # rtol: of the largest value of a tensor


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    return write_chain_folder(tmp_path_factory.mktemp("chain"))


@pytest.fixture(scope="module")
def two_ranks(chain, tmp_path_factory):
    """stage -> the weights of both ranks; all stages are fitted in one pair of processes, which takes long to start."""
    out = tmp_path_factory.mktemp("two")
    (out / "asked.json").write_text(json.dumps({"stages": list(STAGES), "folder": str(chain), "out": str(out)}))
    command = [sys.executable, str(HERE / "two_ranks.py"), str(out / "asked.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return {name: [torch.load(out / f"{name}.rank{rank}.pt", weights_only=True) for rank in (0, 1)] for name in STAGES}


@pytest.mark.parametrize("name", STAGES)
def test_two_ranks_train_the_weights_of_one(chain, two_ranks, monkeypatch, name) -> None:
    know_phones(monkeypatch.setattr)
    one = fit(name, chain)
    first, second = two_ranks[name]
    for key, value in one.items():
        assert torch.equal(first[key], second[key]), f"{key} differs between the ranks"
        if value.is_floating_point() and value.numel():
            apart = float((first[key] - value).abs().max())
            assert apart <= NEAR["atol"] + NEAR["rtol"] * float(value.abs().max()), key
        else:
            assert torch.equal(first[key], value), key


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("name", [name for name in STAGES if name not in LM])
def test_the_ranks_of_a_step_share_its_batch(chain, monkeypatch, name, world) -> None:
    """Row by row, with the same seed; where a step has fewer clips than ranks, some bring one that does not count."""
    know_phones(monkeypatch.setattr)
    data = STAGES[name](chain)[1]
    data.setup("fit")
    for step in range(4):
        whole = data.seeded_batch(step, 0, 1)
        parts = [data.seeded_batch(step, rank, world) for rank in range(world)]
        assert all(torch.equal(part["seed"], whole["seed"]) for part in parts)
        assert sum(int(part["share"][1]) for part in parts) == int(whole["share"][1]) == int(whole["share"][2])
        for key in whole.keys() - {"seed", "share", "count"}:  # one number each, not a row a clip
            rows = [row for part in parts if part["share"][1] for row in part[key]]
            for row, expected in zip(rows, whole[key], strict=True):
                n = min(row.shape[-1], expected.shape[-1]) if row.dim() else 0  # a rank pads to its own longest
                assert torch.equal(row, expected) or torch.equal(row[..., :n], expected[..., :n]), key
        for part in parts:
            counted = part.get("lengths", part.get("label_lengths"))
            assert counted is None or bool(counted.any()) == bool(part["share"][1])
