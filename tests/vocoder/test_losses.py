"""Distances between waves: zero for equal, growing with damage, safe on silence."""

import torch

from mossrepro.utils.spectral import magnitude, spectral_loss
from mossrepro.vocoder.losses import mel_loss, phase_loss, pitch_loss


def test_equal_waves_are_at_distance_zero_and_damage_grows():
    wave = 0.1 * torch.randn(2, 9600)
    for loss in (spectral_loss, mel_loss):
        a_little, a_lot = loss(wave + 0.01 * torch.randn_like(wave), wave), loss(wave.flip(0), wave)
        assert loss(wave, wave) == 0 < a_little < a_lot


def test_magnitude_keeps_the_deviation_of_noise():
    power = magnitude(0.1 * torch.randn(1, 48000), 512).square().mean()
    assert abs(power.sqrt() - 0.1) < 0.01


def test_gradient_on_silence_is_finite():
    wave = torch.zeros(1, 9600, requires_grad=True)
    (spectral_loss(wave, torch.zeros(1, 9600)) + mel_loss(wave, torch.zeros(1, 9600))).backward()
    assert wave.grad.isfinite().all()


def test_pitch_counts_only_where_voiced():
    f0 = torch.tensor([[200.0, 0.0]])
    sure = torch.tensor([[20.0, -20.0]])
    assert pitch_loss(torch.tensor([[1.0, 9.0]]), sure, f0) < 1e-6
    assert pitch_loss(torch.tensor([[1.1, 0.0]]), sure, f0) > 0.9
    assert pitch_loss(torch.tensor([[1.0, 0.0]]), -sure, f0) > 10


def test_phase_loss_wants_the_right_phase_and_silence_under_noise():
    target = torch.polar(torch.rand(1, 20, 30) + 0.1, 6.3 * torch.rand(1, 20, 30))
    turned = target * torch.polar(torch.ones(1), torch.ones(1))
    unrelated = torch.polar(target.abs(), 6.3 * torch.rand(1, 20, 30))
    silence = torch.zeros_like(target)
    assert phase_loss(target, target) == 0 < phase_loss(turned, target)
    assert phase_loss(silence, target) < phase_loss(unrelated, target)
