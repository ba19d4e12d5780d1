"""Finite scalar quantisation against the rounding that it is."""

import dataclasses
import math

import pytest
import torch
from codec_toys import TINY

from mossrepro.codec import SpeechCodec
from mossrepro.codec.finite_scalar import FiniteScalarQuantiser
from mossrepro.utils.errors import ConfigError

LEVELS = (5, 3, 4)
FINITE = dataclasses.replace(TINY, codes=60, levels=LEVELS)


@pytest.fixture
def quantiser() -> FiniteScalarQuantiser:
    torch.manual_seed(0)
    quantiser = FiniteScalarQuantiser(LEVELS, 8)
    torch.nn.init.normal_(quantiser.bend[2].weight, std=0.1)  # zero at the start
    return quantiser


def test_codes_are_the_nearest_levels(quantiser) -> None:
    x = 4 * torch.randn(2, 50, 8)
    out = quantiser(x)
    for vector, code, frame in zip(out.vectors.flatten(0, 1), out.codes.flatten(), x.flatten(0, 1), strict=True):
        place = [int(code) % 5, int(code) // 5 % 3, int(code) // 15]
        for number, level, at in zip(torch.tanh(quantiser.down(frame)).tolist(), LEVELS, place, strict=True):
            distances = [abs(number - (2 * i / (level - 1) - 1)) for i in range(level)]
            assert distances[at] <= min(distances) + 2e-3
        torch.testing.assert_close(vector, quantiser.codebook[code], atol=1e-5, rtol=0)
    assert out.commitment == 0 and len(out.codes.unique()) > 20


def test_every_code_can_be_reached_and_has_a_vector_of_its_own(quantiser) -> None:
    assert quantiser.codebook.shape == (60, 8) and len(quantiser.codebook.unique(dim=0)) == 60
    codes = quantiser(10 * torch.randn(1, 20_000, 8)).codes
    assert len(codes.unique()) == 60


def test_it_starts_where_latents_differ(quantiser) -> None:
    axes = torch.linalg.qr(torch.randn(8, 3)).Q
    latents = 5 + 0.02 * torch.randn(4000, 3) @ axes.T  # one direction in three tells them apart, far from 0
    torch.nn.init.zeros_(quantiser.bend[2].weight)
    before = quantiser(latents[None]).codes.unique()
    quantiser.remember(latents)
    assert not quantiser.started
    quantiser.start(torch.Generator())
    out = quantiser(latents[None])
    assert quantiser.started and len(out.codes.unique()) > 50 > len(before)
    assert (out.vectors[0] - latents).square().mean() < 0.5 * latents.var(0).mean()


def test_the_gradient_passes_the_rounding(quantiser) -> None:
    x = (0.1 * torch.randn(1, 6, 8)).requires_grad_()
    quantiser(x).vectors.sum().backward()
    assert (x.grad.abs().sum(-1) > 0).all() and quantiser.down.weight.grad.abs().sum() > 0


def test_a_codec_takes_levels_instead_of_a_codebook(tmp_path) -> None:
    torch.manual_seed(0)
    codec, wave = SpeechCodec(FINITE).eval(), 0.1 * torch.randn(1, 30 * 1280)
    with torch.no_grad():
        codec.quantiser.down.weight.mul_(4)
    codes = codec.encode(wave)
    assert len(codes.unique()) > 4
    codec.save_pretrained(tmp_path)
    again = SpeechCodec.from_pretrained(tmp_path)
    assert again.config == FINITE and torch.equal(again.encode(wave), codes)
    assert again.code_phone_probs().shape[0] == 60 and isinstance(again.transcribe(codes)[0], str)


@pytest.mark.parametrize("levels, words", [((4, 4), "16 codes"), ((60, 1), "two levels")])
def test_levels_that_do_not_fit_are_refused(levels, words) -> None:
    with pytest.raises(ConfigError, match=words):
        SpeechCodec(dataclasses.replace(FINITE, levels=levels))
    assert math.prod(LEVELS) == FINITE.codes
