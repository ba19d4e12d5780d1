"""The codebook: nearest rows, straight-through gradient, k-means start, moving averages, dead-code restart."""

import pytest
import torch

from mossrepro.codec import quantiser as module
from mossrepro.codec.acoustic import ResidualQuantiser
from mossrepro.codec.finite_scalar import FiniteScalarQuantiser
from mossrepro.codec.quantiser import RECENT, Quantiser, nearest_code
from mossrepro.utils.errors import ConfigError


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(count: int = 4, each: int = 50) -> torch.Tensor:
    """Well separated clouds (count * each, count): cloud i around 10 on axis i."""
    centres = 10 * torch.eye(count)
    return (centres[:, None] + 0.1 * torch.randn(count, each, count)).flatten(0, 1)


def started(points: torch.Tensor, codes: int = 4) -> Quantiser:
    quantiser = Quantiser(codes, points.shape[1])
    quantiser.remember(points)
    quantiser.start(seeded())
    return quantiser


def test_nearest_code_is_the_nearest():
    x, codebook = torch.randn(3, 7, 5), torch.randn(11, 5)
    assert torch.equal(nearest_code(x, codebook), torch.cdist(x.flatten(0, 1), codebook).argmin(-1).view(3, 7))


def test_the_gradient_passes_straight_through():
    quantiser = started(blobs())
    x = torch.randn(2, 3, 4, requires_grad=True)
    out = quantiser(x)
    assert torch.allclose(out.vectors, quantiser.codebook[out.codes], atol=1e-6)
    weight = torch.randn(2, 3, 4)
    (out.vectors * weight).sum().backward()
    assert torch.equal(x.grad, weight)


def test_codes_under_autocast_are_those_without():
    quantiser, x = Quantiser(64, 16), torch.randn(1, 500, 16)
    quantiser.codebook.normal_(generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        codes = quantiser(x).codes
    assert torch.equal(codes, quantiser(x).codes)


def test_commitment_pulls_valid_frames_only():
    quantiser = started(blobs())
    x = torch.randn(1, 3, 4, requires_grad=True)
    out = quantiser(x, torch.tensor([[True, True, False]]))
    out.commitment.backward()
    expected = (x[0, :2] - quantiser.codebook[out.codes[0, :2]]).square().mean()
    assert out.commitment.item() == pytest.approx(expected.item(), rel=1e-5)
    assert x.grad[0, 2].abs().max() == 0 and x.grad[0, :2].abs().min() > 0


def test_k_means_shares_out_what_was_remembered():
    points = blobs(8)
    quantiser = started(points, codes=64)
    gap = quantiser(points[None]).commitment
    assert quantiser.started and gap < 0.01  # the variance inside a cloud
    assert gap < started(points, codes=4)(points[None]).commitment


def test_the_papers_codebook_starts_from_as_many_latents_as_it_has_codes():
    """16,384 are twice what the ring holds for smaller codebooks; no row may be another's copy."""
    quantiser, latents = Quantiser(16_384, 2), torch.randn(20_000, 2)
    for batch in latents.split(5_000):
        quantiser.remember(batch)
    quantiser.start(seeded())
    assert len(quantiser.codebook.unique(dim=0)) == 16_384 and len(quantiser.recent) == 16_384
    kept = {tuple(row) for row in latents[-16_384:].tolist()}
    assert {tuple(row) for row in quantiser.codebook.tolist()} == kept
    assert len(Quantiser(1024, 2).recent) == RECENT


@pytest.mark.parametrize("make", [lambda: Quantiser(64, 4), lambda: ResidualQuantiser(2, 64, 4)])
def test_a_codebook_does_not_start_from_fewer_latents_than_codes(make):
    quantiser, latents = make(), torch.randn(64, 4)
    quantiser.remember(latents[:40])
    assert quantiser.lacking == 24
    with pytest.raises(ConfigError, match="40 latents are too few to start a quantiser that needs 64"):
        quantiser.start(seeded())
    quantiser.remember(latents[40:])
    quantiser.start(seeded())
    assert quantiser.started and not quantiser.lacking


def test_scalar_levels_do_not_start_without_latents_that_span_them():
    quantiser = FiniteScalarQuantiser((4, 4), 8)
    quantiser.remember(torch.randn(2, 8))
    with pytest.raises(ConfigError, match="2 latents are too few to start a quantiser that needs 3"):
        quantiser.start(seeded())


def test_a_large_codebook_that_was_saved_with_a_shorter_ring_still_loads(monkeypatch):
    """Up to version 3 every ring had RECENT rows; an exported tokenizer of more codes has such a one."""
    monkeypatch.setattr(module, "RECENT", 8)
    old, new = Quantiser(4, 2), Quantiser(12, 2)
    old.remember(torch.randn(20, 2))
    state = new.state_dict() | {name: old.state_dict()[name] for name in ("recent", "seen")}
    new.load_state_dict(state)
    assert torch.equal(new.remembered(), old.recent) and len(new.recent) == 12 and len(state["recent"]) == 8


def test_dead_codes_wait_where_too_few_latents_are_left():
    quantiser = Quantiser(8, 2)
    quantiser.codebook.copy_(torch.randn(8, 2))
    quantiser.sums.copy_(quantiser.codebook)
    quantiser.counts.fill_(1e-3)
    quantiser.counts[0] = quantiser.sums[0] = 100.0
    quantiser.remember(torch.randn(3, 2))
    assert quantiser.update(quantiser.codebook[:1], torch.tensor([0]), seeded()) == 3
    assert len(quantiser.codebook.unique(dim=0)) == 8


def test_a_code_moves_to_the_mean_of_what_chooses_it():
    quantiser = started(blobs(2), codes=2)
    target = torch.tensor([[9.0, 1.0]])
    for step in range(600):
        frames = torch.cat([target, 10 * torch.eye(2)[1:]])
        quantiser.update(frames, nearest_code(frames, quantiser.codebook), seeded(step))
    chosen = quantiser.codebook[nearest_code(target, quantiser.codebook)]
    assert torch.allclose(chosen, target, atol=0.05)


def test_a_dead_code_comes_back_as_a_recent_frame():
    points = blobs()
    quantiser = started(points)
    quantiser.codebook[0] = quantiser.sums[0] = 1e4
    quantiser.counts[1:], quantiser.counts[0] = 100.0, 0.5
    frames = points[60:]
    assert quantiser.update(frames, nearest_code(frames, quantiser.codebook), seeded(), replace=False) == 0
    assert (points - quantiser.codebook[0]).abs().sum(-1).min() > 1e3
    assert quantiser.update(frames, nearest_code(frames, quantiser.codebook), seeded()) == 1
    assert (points - quantiser.codebook[0]).abs().sum(-1).min() < 1e-4
    assert quantiser.update(frames, nearest_code(frames, quantiser.codebook), seeded()) == 0


def test_the_same_seed_gives_the_same_codebook_after_a_reload():
    points = blobs()
    one = started(points, codes=16)
    two = Quantiser(16, 4)
    two.load_state_dict(one.state_dict())
    for quantiser in (one, two):
        for step in range(30):
            quantiser.remember(points[step : step + 20])
            frames = points[:20]
            quantiser.update(frames, nearest_code(frames, quantiser.codebook), seeded(step))
    assert torch.equal(one.codebook, two.codebook) and torch.equal(one.recent, two.recent)
