"""Codes to sound through both models."""

import numpy as np
import pytest
import torch

from mossrepro.utils import packed_linear
from mossrepro.utils.errors import CheckpointError, ConfigError, DataError
from mossrepro.vocoder.checkpoint import save_module
from mossrepro.vocoder.flow import FlowDecoder
from mossrepro.vocoder.generator import Vocoder
from mossrepro.vocoder.speech_decoder import SpeechDecoder


@pytest.fixture
def folders(tmp_path):
    flow = FlowDecoder(16, dim=64, blocks=1, fine_blocks=1, flow_blocks=1, steps=2)
    vocoder = Vocoder(dim=32, blocks=1, fine_dim=32, fine_blocks=1, pitch_dim=16)
    for name, model in (("flow", flow), ("vocoder", vocoder)):
        save_module(model, model.config, tmp_path / name)
    return tmp_path / "flow", tmp_path / "vocoder"


@pytest.mark.parametrize("codes", [[3], [0, 15, 7, 7, 2]])
def test_every_code_becomes_80_milliseconds(folders, codes):
    speaker = SpeechDecoder.from_pretrained(*folders)
    wave, rate = speaker.speak(codes)
    assert rate == 24000 and wave.dtype == np.float32
    assert len(wave) == len(codes) * 1920 == len(codes) * speaker.samples_per_code
    assert np.isfinite(wave).all() and np.abs(wave).max() <= 1
    assert np.array_equal(wave, speaker.speak(codes)[0])


def test_side_by_side_sounds_as_alone(folders):
    speaker = SpeechDecoder.from_pretrained(*folders)
    torch.nn.init.normal_(speaker.flow.estimator.out.weight, std=0.1)  # it starts at zero, where codes do not matter
    rng = np.random.default_rng(0)
    many = [rng.integers(0, 16, n).tolist() for n in (7, 2, 12, 2, 5)]
    together = speaker.speak_all(many, batch=3)
    for codes, wave in zip(many, together, strict=True):
        assert wave.shape == (len(codes) * 1920,)
        np.testing.assert_allclose(wave, speaker.speak(codes)[0], atol=2e-4)
    assert speaker.speak_all([]) == []
    with pytest.raises(DataError, match="no codes"):
        speaker.speak_all([[3], []])


@pytest.mark.skipif(not packed_linear._can_pack(torch.float32), reason="this processor keeps the plain order")
def test_a_loaded_speaker_has_ordered_weights_and_sounds_the_same(folders, monkeypatch):
    flow = FlowDecoder.from_pretrained(folders[0])
    torch.nn.init.normal_(flow.estimator.out.weight, std=0.1)  # it starts at zero, where codes do not matter
    save_module(flow, flow.config, folders[0])
    plain = SpeechDecoder.from_pretrained(*folders)
    monkeypatch.setattr(packed_linear, "_WORTH", 0)
    speaker = SpeechDecoder.from_pretrained(*folders)
    for part in (speaker.flow, speaker.vocoder):
        assert any(isinstance(module, packed_linear.PackedLinear) for module in part.modules())
    one, other = speaker.speak([3, 1, 9])[0], plain.speak([3, 1, 9])[0]
    assert np.abs(one - other).mean() < 1e-2 * np.abs(other).mean()  # near its branch a phase may turn a sample
    mels = [part.flow(torch.tensor([[3, 1, 9]]), torch.tensor([3])) for part in (speaker, plain)]
    torch.testing.assert_close(*mels, atol=1e-4, rtol=1e-4)


def test_bad_input_is_named(folders):
    speaker = SpeechDecoder.from_pretrained(*folders)
    with pytest.raises(DataError, match="no codes"):
        speaker.speak([])
    with pytest.raises(DataError, match="book of 16"):
        speaker.speak([16])
    with pytest.raises(CheckpointError, match="config.json: unknown key"):
        SpeechDecoder.from_pretrained(folders[1], folders[0])
    with pytest.raises(ConfigError, match="bands"):
        SpeechDecoder(FlowDecoder(16, bands=40, dim=64), speaker.vocoder)
