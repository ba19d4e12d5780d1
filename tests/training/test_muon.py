"""Muon and AdamW as one optimiser."""

import copy

import pytest
import torch
from torch import nn

from mossrepro.training.muon import MuonAdamW

RATE = 0.01


def make() -> tuple[nn.Module, MuonAdamW]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(12, 16), nn.Linear(16, 32, bias=False), nn.Linear(32, 12))
    inside = [model[1].weight]
    rest = [p for p in model.parameters() if p is not inside[0]]
    return model, MuonAdamW(inside, rest, RATE, 0.0, (0.9, 0.98))


def train(model: nn.Module, optimiser: MuonAdamW, steps: range, schedule=None) -> list[float]:
    losses = []
    for step in steps:
        ids = torch.randint(12, (40,), generator=torch.Generator().manual_seed(step))
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(model(ids), (ids + 1) % 12)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        if schedule:
            schedule.step()
    return losses


def test_a_matrix_moves_in_all_directions_alike_and_the_rest_as_with_adamw():
    model, optimiser = make()
    plain = copy.deepcopy(model)
    before = [p.detach().clone() for p in model.parameters()]
    train(model, optimiser, range(1))
    adamw = torch.optim.AdamW(plain.parameters(), lr=RATE, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
    train(plain, adamw, range(1))
    moved = [(now - then).detach() for now, then in zip(model.parameters(), before, strict=True)]
    sizes = torch.linalg.svdvals(moved[1]) / (0.2 * 32**0.5 * RATE)  # 12 tokens span at most as many directions
    assert sizes[:11].min() > 0.5 and sizes[:11].max() < 1.5
    for i in (0, 2, 3):
        torch.testing.assert_close([*model.parameters()][i], [*plain.parameters()][i])


def test_it_learns_and_a_schedule_rules_both():
    model, optimiser = make()
    losses = train(model, optimiser, range(60))
    assert losses[-1] < 0.2 * losses[0]
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 0.0)
    before = copy.deepcopy(model.state_dict())
    train(model, optimiser, range(60, 62), schedule)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_continued_it_goes_on_bit_for_bit(tmp_path):
    whole, optimiser = make()
    train(whole, optimiser, range(9))
    part, first = make()
    train(part, first, range(4))
    torch.save({"model": part.state_dict(), "optimiser": first.state_dict()}, tmp_path / "state.pt")
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    model, second = make()
    model.load_state_dict(saved["model"])
    second.load_state_dict(saved["optimiser"])
    train(model, second, range(4, 9))
    assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), model.parameters(), strict=True))
    second.param_groups[0]["lr"] = second.param_groups[1]["lr"] = 0.0
    before = copy.deepcopy(model.state_dict())
    train(model, second, range(1))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_copy_goes_on_as_the_original():
    model, optimiser = make()
    train(model, optimiser, range(3))
    again, second = copy.deepcopy((model, optimiser))
    for one, steps in ((model, optimiser), (again, second)):
        train(one, steps, range(3, 6))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True))
    assert second.parts[0].state is second.state is not optimiser.state


def test_a_closure_is_called_with_gradients():
    model, optimiser = make()
    ids = torch.arange(12)

    def closure():
        loss = model(ids).logsumexp(-1).mean()
        loss.backward()
        return loss

    with torch.no_grad():
        assert optimiser.step(closure).item() > 0
    assert all(p.grad is not None for p in model.parameters())


def test_what_is_no_matrix_is_refused():
    with pytest.raises(ValueError, match="2D"):
        MuonAdamW([nn.Parameter(torch.zeros(3))], [nn.Parameter(torch.zeros(3))], RATE, 0.0, (0.9, 0.98))
