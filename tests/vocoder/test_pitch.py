"""Measured pitch against tones whose pitch is known."""

import pytest
import torch

from mossrepro.vocoder.generator import pulse_train
from mossrepro.vocoder.pitch import follow_pulses, measure_pitch


@pytest.mark.parametrize("hertz", [95.0, 210.0, 377.0])
def test_pitch_of_a_pulse_train(hertz):
    wave = 0.02 * pulse_train(torch.full((1, 12000), hertz), 24000)
    measured = measure_pitch(wave)
    assert measured.shape == (1, 25)
    assert torch.allclose(measured[:, 3:-3], torch.tensor(hertz), rtol=0.01)


def test_noise_and_silence_have_no_pitch():
    assert (measure_pitch(0.1 * torch.randn(2, 24000)) > 0).float().mean() < 0.1
    assert (measure_pitch(torch.zeros(1, 24000)) == 0).all()


def test_a_frame_is_centred_on_its_own_samples():
    f0 = torch.cat([torch.full((1, 20 * 480), 150.0), torch.full((1, 20 * 480), 250.0)], -1)
    measured = measure_pitch(0.02 * pulse_train(f0, 24000))[0]
    assert (measured[3:18] - 150).abs().max() < 5 and (measured[22:37] - 250).abs().max() < 5


def test_followed_pulses_stay_in_step_where_the_measured_pitch_drifts():
    true = torch.linspace(180.0, 240.0, 24000)[None]
    turns = torch.cumsum(true.double() / 24000, -1) + 0.3
    wave = 0.1 * torch.cos(2 * torch.pi * turns).float() + 0.05 * torch.cos(4 * torch.pi * turns + 1).float()
    followed = follow_pulses(wave, true * 1.02)  # 2 % sharp: alone it would be 4 turns off after a second
    error = torch.remainder(followed - turns + 0.5, 1.0) - 0.5
    assert error[:, 1000:-1000].abs().max() < 0.03
