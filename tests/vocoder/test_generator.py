"""The waveform generator: exact lengths, pitch under control, an inverse STFT that inverts."""

import math

import pytest
import torch

from mossrepro.utils.errors import CheckpointError
from mossrepro.vocoder.checkpoint import save_module
from mossrepro.vocoder.generator import SpectrumHead, Vocoder, fixed_noise, pulse_train, vocoder_noise
from mossrepro.vocoder.task import VocoderTask

TINY = dict(dim=32, blocks=1, fine_dim=32, fine_blocks=1, pitch_dim=16)


@pytest.mark.parametrize("frames", [1, 3, 10])
def test_a_mel_frame_becomes_480_samples(frames):
    wave = Vocoder(**TINY)(torch.randn(2, 80, frames))
    assert wave.shape == (2, frames * 480)
    assert wave.isfinite().all()


@pytest.mark.parametrize("upsample", [1, 2, 4])
def test_spectrum_head_inverts_its_own_analysis(upsample):
    head = SpectrumHead(4 * 480 // upsample, 480 // upsample)
    wave = torch.randn(2, 12 * 480)
    spectrum = head.analyse(wave)
    assert spectrum.shape == (2, 2 * 480 // upsample + 1, 12 * upsample)
    back = head.synthesise(spectrum)
    inside = slice(0, -960 // upsample)  # the last samples lack the frame centred on the end
    assert torch.allclose(back[:, inside], wave[:, inside], atol=1e-4)


@pytest.mark.parametrize("frames", [1, 2, 9])
def test_the_inverse_is_torchs_bit_for_bit(frames):
    """Gradients too; torch.istft itself reads a number back from the device at every call."""
    head, spectrum = SpectrumHead(480, 120), torch.randn(2, 241, frames, dtype=torch.complex64, requires_grad=True)
    padded = torch.nn.functional.pad(spectrum, (0, 1))
    expected = torch.istft(padded, 480, 120, window=head.window, center=True, length=120 * frames)
    made, weight = head.synthesise(spectrum), torch.randn(2, 120 * frames)
    assert torch.equal(made, expected)
    mine, theirs = (torch.autograd.grad((wave * weight).sum(), spectrum)[0] for wave in (made, expected))
    assert torch.equal(mine, theirs) and mine.stride() == theirs.stride()


def test_pulse_train_is_the_sum_of_its_harmonics():
    f0, rate, count = 2000.0, 24000, 5  # 2, 4, 6, 8, 10 kHz lie below 11 kHz
    made = pulse_train(torch.full((1, 600), f0), rate)[0]
    phase = 2 * math.pi * f0 * torch.arange(1, 601).double() / rate
    expected = sum(torch.cos(h * phase) for h in range(1, count + 1))
    assert torch.allclose(made.double(), expected, atol=1e-3)


def test_no_pulses_where_unvoiced():
    f0 = torch.cat([torch.full((1, 1000), 200.0), torch.zeros(1, 1000)], -1)
    made = pulse_train(f0, 24000)
    assert made[:, :1000].abs().max() > 1 and made[:, 1000:].abs().max() == 0


def test_the_given_pitch_is_heard():
    model = Vocoder(**TINY)
    with torch.no_grad():
        wave = model(torch.zeros(1, 80, 50), f0=torch.full((1, 50), 300.0))[0]
    spectrum = torch.fft.rfft(wave * torch.hann_window(24000)).abs()
    harmonics = [spectrum[300 * h - 2 : 300 * h + 3].max() for h in range(1, 8)]
    between = [spectrum[300 * h + 130 : 300 * h + 170].max() for h in range(1, 8)]
    assert min(harmonics) > 10 * max(between)


def test_same_mel_same_wave():
    model, mel = Vocoder(**TINY).eval(), torch.randn(1, 80, 6)
    first = model(mel)
    torch.manual_seed(1)
    assert torch.equal(first, model(mel))


def test_fixed_noise_of_a_longer_piece_begins_like_that_of_a_shorter_one():
    long, short = (fixed_noise(9, frames, vocoder_noise()) for frames in (50, 20))
    assert torch.equal(long[:, :20], short)
    assert long.abs().square().mean() == pytest.approx(1.0, abs=0.15)


def test_the_future_beyond_the_convolutions_reach_changes_nothing():
    model, mel = Vocoder(**TINY).eval(), torch.randn(1, 80, 60)
    changed = mel.clone()
    changed[..., 50:] += 1.0
    f0 = torch.full((1, 60), 200.0)
    first, second = model(mel, f0=f0), model(changed, f0=f0)
    assert torch.allclose(first[:, : 35 * 480], second[:, : 35 * 480], atol=1e-5)
    assert not torch.allclose(first[:, 50 * 480 :], second[:, 50 * 480 :], atol=1e-5)


def test_saved_and_loaded_speaks_the_same(tmp_path):
    task = VocoderTask(dim=32, layers=1, fine_layers=1, pitch_dim=16)
    task.save_pretrained(tmp_path)
    mel = torch.randn(1, 80, 5)
    assert torch.equal(Vocoder.from_pretrained(tmp_path)(mel), task.model.eval()(mel))


def test_weights_of_another_size_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="config.json"):
        Vocoder.from_pretrained(tmp_path)
    save_module(Vocoder(**TINY), {**Vocoder(**TINY).config, "dim": 64}, tmp_path)
    with pytest.raises(CheckpointError, match=r"mel_in.weight is \(32, 80, 7\), the model's is \(64, 80, 7\)"):
        Vocoder.from_pretrained(tmp_path)
