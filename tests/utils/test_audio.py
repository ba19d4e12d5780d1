import numpy as np
import pytest
import soundfile
import torch

from mossrepro.utils import audio
from mossrepro.utils.errors import AudioError


def _tone(seconds=0.5, rate=16_000, hertz=440.0):
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_saved_sound_is_read_back(tmp_path, suffix):
    audio.save(tmp_path / f"x{suffix}", _tone(), 16_000)
    wave = audio.load(tmp_path / f"x{suffix}")
    assert wave.dtype == np.float32 and np.abs(wave - _tone()).max() < 1e-4
    assert [path.name for path in tmp_path.iterdir()] == [f"x{suffix}"]


def test_eight_channels_at_eight_kilohertz_are_mixed_and_resampled(tmp_path):
    soundfile.write(tmp_path / "x.wav", np.stack([_tone(1, 8000)] * 8, 1), 8000)
    wave = audio.load(tmp_path / "x.wav")
    assert wave.shape == (16_000,)
    assert np.abs(wave - _tone(1))[500:-500].max() < 1e-2


def test_unusable_files_name_themselves_and_the_reason(tmp_path):
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("this is not sound")
    soundfile.write(tmp_path / "silent.wav", np.zeros(100), 16_000)
    soundfile.write(tmp_path / "none.wav", np.zeros(0), 16_000)
    soundfile.write(tmp_path / "nan.wav", np.array([0.1, np.nan]), 16_000, subtype="FLOAT")
    reasons = {"missing.wav": "no such file", "empty.wav": "is empty", "text.wav": "not a sound file",
               "silent.wav": "silent", "none.wav": "no samples", "nan.wav": "NaN", "": "a folder"}  # fmt: skip
    for name, reason in reasons.items():
        with pytest.raises(AudioError, match=reason) as caught:
            audio.load(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)


def test_too_loud_float_files_are_scaled_not_clipped(tmp_path):
    soundfile.write(tmp_path / "x.wav", 4 * _tone(), 16_000, subtype="FLOAT")
    wave = audio.load(tmp_path / "x.wav")
    assert np.abs(wave).max() == pytest.approx(1.0) and np.abs(wave - 2 * _tone()).max() < 1e-3


def test_an_unknown_format_is_refused(tmp_path):
    with pytest.raises(AudioError, match="unknown sound format"):
        audio.save(tmp_path / "x.xyz", _tone(), 16_000)


def test_centred_mel_equals_whispers_own():
    """Numbers from transformers' WhisperFeatureExtractor for a rising tone, every 16th band and 40th frame."""
    time = np.arange(32_000) / 16_000
    wave = torch.tensor(0.5 * np.sin(2 * np.pi * (200 + 900 * time) * time), dtype=torch.float32)
    floor = -0.5494888
    expected = torch.full((5, 4), floor)
    expected[1, 0], expected[2, 1], expected[3, 2] = 1.080065, 1.406765, -0.49285614
    torch.testing.assert_close(
        audio.whisper_mel(wave[None], causal=False)[0, ::16, 20:180:40], expected, atol=1e-4, rtol=0
    )


def test_causal_mel_does_not_look_ahead():
    wave = torch.randn(2, 16_000)
    whole = audio.whisper_mel(wave)
    assert whole.shape == (2, 80, 100)
    for frames in (1, 7, 50):
        torch.testing.assert_close(audio.whisper_mel(wave[:, : frames * 160]), whole[..., :frames], atol=1e-5, rtol=0)
    louder = torch.cat([wave[:, :8000], 100 * wave[:, 8000:]], 1)
    torch.testing.assert_close(audio.whisper_mel(louder)[..., :50], whole[..., :50], atol=1e-5, rtol=0)
    assert not torch.equal(audio.whisper_mel(louder, causal=False)[..., :40],
                           audio.whisper_mel(wave, causal=False)[..., :40])  # fmt: skip


@pytest.mark.parametrize("samples", [480, 481, 24_000, 24_479])
def test_mel24_has_one_frame_per_hop_and_peaks_at_the_tone(samples):
    wave = torch.from_numpy(_tone(2, 24_000, 1000.0))[None, :samples]
    mel = audio.mel24(wave)
    assert mel.shape == (1, 80, samples // 480)
    if samples >= 24_000:
        centres = audio.mel_filters(24_000, 1_920).argmax(1) * 12.5
        assert abs(float(centres[mel[0].mean(1).argmax()]) - 1000) < 60
    assert float(audio.mel24(torch.zeros(1, 4800)).max()) == pytest.approx(np.log(1e-5))


def test_trim_keeps_a_margin_of_quiet() -> None:
    tone = np.sin(np.arange(8000) / 3).astype(np.float32)
    wave = np.concatenate([np.zeros(16000), tone, 0.005 * np.ones(16000)]).astype(np.float32)
    short = audio.trim(wave, 16_000)
    assert abs(len(short) - 8000 - 2 * 1280) < 20 and short[1300:9000].std() > 0.6
    assert len(audio.trim(wave, 16_000, margin=0.0)) < 8001
    assert np.array_equal(audio.trim(np.zeros(50, np.float32), 16_000), np.zeros(50))
    assert np.array_equal(audio.trim(short, 16_000), short) and len(audio.trim(np.zeros(0, np.float32), 16_000)) == 0


def test_features_of_a_stream_remember_the_loudest_moment() -> None:
    generator = torch.Generator().manual_seed(0)
    wave = torch.randn(1, 16_000, generator=generator)
    wave[:, 6_400:] *= 1e-6  # far more than 80 dB below what came before
    whole, parts, state = audio.whisper_mel(wave), [], None
    for chunk in wave.split([160, 6_400, 1_280, 8_160], dim=1):
        part, state = audio.streaming_mel(chunk, state)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, dim=2), whole, atol=1e-5, rtol=0)
