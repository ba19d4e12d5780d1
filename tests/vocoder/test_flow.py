"""The flow decoder: shapes, determinism, what it may look at, and that it learns a known distribution."""

import pytest
import torch

from mossrepro.utils.errors import ConfigError, DataError
from mossrepro.vocoder.flow import FlowDecoder, cosine_time
from mossrepro.vocoder.flow_layers import chunk_mask
from mossrepro.vocoder.sampling import FlowSampling, integrate
from mossrepro.vocoder.task import FlowTask

TINY = dict(codes=16, bands=8, dim=64, blocks=1, fine_blocks=1, flow_blocks=2, steps=4)


def lively(**changes) -> FlowDecoder:
    """A tiny decoder whose zero-initialised outputs are random, so that everything reaches the mel."""
    model = FlowDecoder(**{**TINY, **changes}).eval()
    torch.nn.init.normal_(model.estimator.out.weight, std=0.2)
    for block in model.estimator.stack.blocks:
        torch.nn.init.normal_(block.modulate.weight, std=0.2)
    return model


@pytest.mark.parametrize("length", [1, 2, 11])
def test_a_code_becomes_four_frames(length):
    assert lively()(torch.randint(16, (2, length))).shape == (2, 8, 4 * length)


def test_same_codes_same_mel():
    model, codes = lively(), torch.randint(16, (1, 9))
    first = model(codes)
    torch.manual_seed(5)
    assert torch.equal(first, model(codes))


def test_codes_outside_the_book_are_refused():
    for code in (-1, 16):
        with pytest.raises(DataError, match="book of 16"):
            lively()(torch.tensor([[0, code]]))
    with pytest.raises(ConfigError, match="multiple of 64"):
        FlowDecoder(16, dim=100)


def test_chunk_mask_looks_back_and_to_the_end_of_its_chunk():
    mask = chunk_mask(5, 2, torch.device("cpu"))
    rows = ["".join("x" if seen else "." for seen in row) for row in mask.tolist()]
    assert rows == ["xx...", "xx...", "xxxx.", "xxxx.", "xxxxx"]
    assert chunk_mask(3, 0, torch.device("cpu")).all()
    mask = chunk_mask(5, 2, torch.device("cpu"), look_back=1)
    rows = ["".join("x" if seen else "." for seen in row) for row in mask.tolist()]
    assert rows == ["xx...", "xx...", ".xxx.", ".xxx.", "...xx"]


def test_a_late_code_leaves_earlier_mel_untouched():
    model = lively(chunk=3, look_ahead=2)
    codes = torch.randint(16, (1, 12))
    changed = codes.clone()
    changed[0, 8] = (changed[0, 8] + 1) % 16  # seen by rows from 8 - 2 = 6 on, the first row of chunk 2
    first, second = model(codes), model(changed)
    assert torch.equal(first[..., : 4 * 6], second[..., : 4 * 6])
    assert not torch.allclose(first[..., 4 * 6 : 4 * 7], second[..., 4 * 6 : 4 * 7])


def test_a_padded_row_decodes_as_alone():
    model = lively(chunk=0)
    codes = torch.randint(16, (1, 5))
    padded = torch.cat([codes, torch.randint(16, (1, 4))], -1)
    both = model(torch.cat([padded, torch.randint(16, (1, 9))]), lengths=torch.tensor([5, 9]))
    assert torch.allclose(both[:1, :, :20], model(codes), atol=1e-4)


def test_guidance_pulls_away_from_the_unconditional():
    plain, guided, codes = lively(guidance=0.0), lively(guidance=3.0), torch.randint(16, (1, 4))
    guided.load_state_dict(plain.state_dict())
    assert not torch.allclose(plain(codes), guided(codes), atol=1e-3)


def test_time_schedule_ends_where_it_should():
    t = cosine_time(torch.linspace(0, 1, 11))
    assert t[0] == 0 and torch.isclose(t[-1], torch.tensor(1.0)) and (t.diff() > 0).all() and t[1] < 0.05


@pytest.mark.parametrize(("solver", "reached"), [("euler", 0.75), ("midpoint", 1.0)])
def test_a_solver_follows_the_velocity(solver, reached):
    """dx/dt = 2t from 0: Euler's four steps end at 3/4, the midpoint rule is exact, on any clock."""
    asked = []
    velocity = lambda x, t, i: (asked.append((i, t.item())), 2 * t)[1].expand(1)  # noqa: E731
    x = integrate(velocity, torch.zeros(1), torch.linspace(0, 1, 5), solver)
    assert x.item() == pytest.approx(reached) and [i for i, _ in asked] == list(range(len(asked)))
    assert len(asked) == FlowSampling(steps=4, solver=solver).evaluations
    if solver == "midpoint":
        assert integrate(
            velocity, torch.zeros(1), cosine_time(torch.linspace(0, 1, 4)), solver
        ).item() == pytest.approx(1)


def test_more_steps_of_either_solver_come_nearer_to_the_same_mel():
    model, codes = lively(), torch.randint(16, (1, 6))
    exact = model(codes, sampling=model.sampling._replace(steps=64, solver="midpoint"))
    for solver in ("euler", "midpoint"):
        few, many = (model(codes, sampling=FlowSampling(5, 0, steps, solver)) - exact for steps in (4, 16))
        assert many.abs().mean() < 0.6 * few.abs().mean()


def test_flow_learns_mean_and_spread_of_every_code():
    """Two codes, two Gaussians: after a toy training the samples have their means and deviations."""
    model = FlowDecoder(
        codes=2,
        bands=2,
        dim=64,
        blocks=1,
        fine_blocks=1,
        flow_blocks=1,
        chunk=1,
        look_ahead=0,
        mel_mean=0.0,
        mel_std=1.0,
        guidance=0.0,
    )
    optimiser = torch.optim.AdamW(model.parameters(), 3e-3)
    means, deviations = torch.tensor([2.0, -2.0]), torch.tensor([0.2, 0.6])
    valid, first = torch.ones(64, 1, dtype=torch.bool), None
    for step in range(120):
        codes = torch.randint(2, (64, 1))
        mel = (means[codes] + deviations[codes] * torch.randn(64, 1))[..., None].expand(64, 2, 4)
        noise, keep = torch.randn(64, 2, 4), torch.rand(64) > 0.1
        flow, coarse_mel = model.losses(codes, mel, valid, torch.rand(64), noise, keep)
        first = flow.item() if first is None else first
        optimiser.zero_grad()
        (flow + coarse_mel).backward()
        optimiser.step()
        optimiser.param_groups[0]["lr"] = 3e-3 * (1 - step / 120)
    assert flow.item() < 0.7 * first
    for code in (0, 1):
        made = model(torch.full((300, 1), code), noise=torch.randn(300, 2, 4))
        assert made.mean().item() == pytest.approx(means[code].item(), abs=0.25)
        assert made.mean((1, 2)).std().item() == pytest.approx(deviations[code].item(), abs=0.2)


def test_saved_and_loaded_decodes_the_same_with_its_statistics(tmp_path):
    task = FlowTask(codes=16, dim=64, code_layers=1, layers=1)
    task.model.set_statistics(-3.25, 2.5)
    task.save_pretrained(tmp_path)
    loaded, codes = FlowDecoder.from_pretrained(tmp_path), torch.randint(16, (1, 3))
    assert loaded.config["mel_mean"] == -3.25 and loaded.config["mel_std"] == 2.5
    assert torch.equal(loaded(codes), task.model.eval()(codes))
