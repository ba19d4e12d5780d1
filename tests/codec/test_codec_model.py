"""The whole tokenizer: any length, no future, save and load."""

import dataclasses
import json

import pytest
import torch

from mossrepro.codec import CodecConfig, SpeechCodec
from mossrepro.codec import model as module
from mossrepro.codec.lexicon import Lexicon
from mossrepro.speech.normalise import PHONES
from mossrepro.utils.errors import CheckpointError, ConfigError

TINY = CodecConfig(
    codes=32, code_dim=8, dim=32, heads=2, ffn_dim=48, layers=1, slow_layers=1, window=8, slow_window=4,
    recogniser_dim=16, recogniser_layers=1, recogniser_kernel=3,
)  # fmt: skip


@pytest.fixture
def codec() -> SpeechCodec:
    codec = SpeechCodec(TINY).eval()
    codec.quantiser.codebook.normal_()
    return codec


@pytest.mark.parametrize("samples, codes", [(0, 0), (1, 1), (1280, 1), (1281, 2), (16_000, 13)])
def test_one_code_per_1280_samples(codec, samples, codes):
    out = codec.encode(0.1 * torch.randn(2, samples))
    assert out.shape == (2, codes) and out.dtype == torch.int64
    assert ((out >= 0) & (out < 32)).all()


def test_a_code_never_changes_with_what_comes_later(codec):
    wave = 0.1 * torch.randn(1, 40 * 1280)
    codes = codec.encode(wave)
    assert len(codes.unique()) > 4  # or the comparison would prove nothing
    for cut in (1, 13, 27):
        other = wave.clone()
        other[:, cut * 1280 :] = torch.randn(1, (40 - cut) * 1280)  # much louder, too
        assert torch.equal(codec.encode(other)[:, :cut], codes[:, :cut])


def test_long_sound_is_encoded_in_segments_without_a_seam(codec, monkeypatch):
    wave = 0.1 * torch.randn(1, 60 * 1280)
    whole = codec.encode(wave)
    monkeypatch.setattr(module, "SEGMENT", 7)
    assert torch.equal(codec.encode(wave), whole)


def test_ten_minutes_are_no_problem(codec):
    assert codec.encode(0.1 * torch.randn(1, 600 * 16_000)).shape == (1, 7500)


def test_clips_of_a_batch_end_where_they_end(codec):
    wave = 0.1 * torch.randn(2, 10 * 1280)
    codes = codec.encode(wave, torch.tensor([3 * 1280 + 1, 10 * 1280]))
    assert (codes[0, 4:] == -1).all() and (codes[0, :4] >= 0).all() and (codes[1] >= 0).all()
    alone = codec.transcribe(codes[0, :4])
    assert codec.transcribe(codes)[0] == alone[0]


@pytest.mark.parametrize("causal", [True, False])
def test_codes_do_not_depend_on_the_neighbours_in_a_batch(causal):
    torch.manual_seed(0)
    codec = SpeechCodec(dataclasses.replace(TINY, causal=causal)).eval()
    codec.quantiser.codebook.normal_()
    wave, lengths = 0.1 * torch.randn(2, 30 * 1280), torch.tensor([12 * 1280, 30 * 1280])
    codes = codec.encode(wave, lengths)
    assert torch.equal(codes[0, :12], codec.encode(wave[:1, : 12 * 1280])[0]) and (codes[0, 12:] == -1).all()


def test_text_comes_from_the_codes_alone(codec):
    codes = [3, 1, 4, 1, 5]
    (phones,) = codec.transcribe(codes)
    assert phones and set(phones.split()) <= set(PHONES)
    (words,) = codec.transcribe(codes, Lexicon({phone.lower(): [[phone]] for phone in PHONES}))
    assert words == words.lower() and words.split()
    assert codec.transcribe(torch.zeros(1, 0, dtype=torch.int64)) == [""]


def test_saved_and_loaded_is_the_same(codec, tmp_path):
    codec.save_pretrained(tmp_path)
    again = SpeechCodec.from_pretrained(tmp_path)
    wave = 0.1 * torch.randn(1, 20 * 1280)
    assert again.config == TINY and not again.training
    assert torch.equal(again.encode(wave), codec.encode(wave))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]


def test_a_folder_that_does_not_fit_is_refused(codec, tmp_path):
    with pytest.raises(CheckpointError, match="nowhere"):
        SpeechCodec.from_pretrained(tmp_path / "nowhere")
    codec.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"codes": 64}))
    with pytest.raises(CheckpointError, match="codebook"):
        SpeechCodec.from_pretrained(tmp_path)


@pytest.mark.parametrize("mels, causal", [(128, True), (80, False)])
def test_bands_and_causality_are_settings(mels, causal, tmp_path):
    torch.manual_seed(0)
    codec = SpeechCodec(dataclasses.replace(TINY, mels=mels, causal=causal)).eval()
    codec.quantiser.codebook.normal_()
    wave = 0.1 * torch.randn(1, 30 * 1280)
    codes, louder = codec.encode(wave), codec.encode(torch.cat([wave, torch.randn(1, 12_800)], 1))
    assert codes.shape == (1, 30) and torch.equal(louder[:, :30], codes) == causal
    if not causal:
        with pytest.raises(ConfigError, match="whole recordings"):
            codec.listen()
    codec.save_pretrained(tmp_path)
    assert torch.equal(SpeechCodec.from_pretrained(tmp_path).encode(wave), codes)
