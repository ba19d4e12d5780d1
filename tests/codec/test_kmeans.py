"""k-means on mel is a codec like any other, only without an encoder."""

import dataclasses

import numpy as np
import pytest
import torch
from codec_toys import TINY

from mossrepro.codec import SpeechCodec
from mossrepro.codec.kmeans import fit_mel, spread_out
from mossrepro.utils.errors import ConfigError, DataError

MEL = dataclasses.replace(TINY, front="mel")


def frames(wave: torch.Tensor) -> torch.Tensor:
    codec = SpeechCodec(MEL)
    return codec.encoder(codec.features(wave))[0].flatten(0, 1)


def test_sounds_that_differ_get_codes_that_differ(tmp_path) -> None:
    time = torch.arange(1280 * 3) / 16_000 * 2 * torch.pi
    tones = torch.cat([0.3 * (hertz * time).sin() for hertz in (200, 500, 900, 1500, 2600) * 4])
    wave = (tones + 0.003 * torch.randn(len(tones), generator=torch.Generator().manual_seed(0)))[None]
    codec = fit_mel(frames(wave), MEL)
    codes = codec.encode(wave)[0].view(20, 3)[:, 1]  # the middle of every tone
    heard = [set(codes[tone::5].tolist()) for tone in range(5)]
    assert sum(map(len, heard)) == len(set().union(*heard))  # no two tones share one
    kept = codec.quantiser(codec.latents(codec.features(wave)))
    assert kept.commitment < 0.2 * codec.latents(codec.features(wave)).var(1).mean()
    codec.save_pretrained(tmp_path)
    again = SpeechCodec.from_pretrained(tmp_path)
    assert again.config == MEL and torch.equal(again.encode(wave), codec.encode(wave))
    session = again.listen()
    parts = [session.push(chunk) for chunk in wave.split(999, dim=1)]
    assert torch.equal(torch.cat([*parts, session.close()], dim=1), codec.encode(wave))


def test_the_same_seed_gives_the_same_codes() -> None:
    wave = 0.1 * torch.randn(1, 1280 * 60)
    one, other = (fit_mel(frames(wave), MEL) for _ in range(2))
    assert torch.equal(one.quantiser.codebook, other.quantiser.codebook)


def test_what_cannot_be_fitted_is_named() -> None:
    with pytest.raises(DataError, match="too few"):
        fit_mel(torch.zeros(3, 640), MEL)
    with pytest.raises(ConfigError, match="whisper, mel or none"):
        SpeechCodec(dataclasses.replace(TINY, front="wave"))


def test_centres_start_far_apart() -> None:
    """Two tight clouds and a few points far from both: every cloud and every far point gets a centre."""
    random = np.random.default_rng(0)
    clouds = [np.full((400, 2), at) + 0.01 * random.standard_normal((400, 2)) for at in (0.0, 5.0)]
    far = np.array([[50.0, 0.0], [0.0, 50.0], [-50.0, 0.0]])
    chosen = spread_out(np.concatenate([*clouds, far]), 5, seed=3)
    near = np.square(chosen[:, None] - np.array([[0.0, 0.0], [5.0, 5.0], *far])).sum(-1).argmin(1)
    assert sorted(near) == [0, 1, 2, 3, 4]
    assert np.array_equal(chosen, spread_out(np.concatenate([*clouds, far]), 5, seed=3))
