"""The released layout: out and in again gives the same codes, and what is missing is named."""

import dataclasses
import json

import pytest
import torch
from codec_toys import TINY
from safetensors.torch import load_file, save_file

from mossrepro import cli
from mossrepro.codec import SpeechCodec, released
from mossrepro.utils.errors import CheckpointError, ConfigError

PLAIN = dataclasses.replace(
    TINY, plain=True, dim=128, heads=2, code_dim=128, layers=2, slow_layers=0, window=released.CONTEXT
)


@pytest.fixture
def codec() -> SpeechCodec:
    codec = SpeechCodec(PLAIN).eval()
    for parameter in codec.encoder.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    wave = torch.randn(1, 1280 * 40)
    codec.quantiser.codebook.copy_(codec.latents(codec.features(wave))[0, ::2][:16])
    codec.quantiser.started.fill_(True)
    return codec


def test_out_and_in_again_gives_the_same_codes(codec, tmp_path) -> None:
    released.save(codec, tmp_path)
    held = load_file(tmp_path / "model.safetensors")
    assert held["encoder.codebook.weight"].shape == (16, 128)
    assert held["encoder.layers.1.self_attn.q_proj.weight"].shape == (128, 128)
    assert "encoder.layers.0.self_attn.k_proj.bias" not in held
    assert len(held) == 4 + 2 * 15 + 1
    again, wave = released.load(tmp_path), torch.randn(1, 1280 * 30)
    wanted = codec.encode(wave)
    assert len(wanted.unique()) > 4 and torch.equal(again.encode(wave), wanted)
    assert again.config.plain and again.config.layers == 2 and again.config.heads == 2
    session = again.listen()
    parts = [session.push(chunk) for chunk in wave.split(777, dim=1)]
    assert torch.equal(torch.cat([*parts, session.close()], 1), wanted)


def test_plain_is_the_average_of_four_frames(codec) -> None:
    mel = codec.features(torch.randn(1, 1280 * 3))
    latents = codec.latents(mel)
    codec.encoder.pool = torch.nn.Identity()
    frames, _ = codec.encoder(mel)  # (1, 3, 4 x 128): not averaged yet
    torch.testing.assert_close(latents, frames.view(1, 3, 4, 128).mean(2))


def test_only_what_fits_the_layout_is_written(tmp_path) -> None:
    with pytest.raises(ConfigError, match="plain=true"):
        released.save(SpeechCodec(TINY), tmp_path)
    with pytest.raises(ConfigError, match="slow_layers"):
        SpeechCodec(dataclasses.replace(PLAIN, slow_layers=1))
    with pytest.raises(ConfigError, match="code_dim"):
        SpeechCodec(dataclasses.replace(PLAIN, code_dim=8))


def test_what_is_missing_or_does_not_fit_is_named(codec, tmp_path) -> None:
    with pytest.raises(CheckpointError, match="no .safetensors"):
        released.load(tmp_path)
    released.save(codec, tmp_path)
    held = load_file(tmp_path / "model.safetensors")
    missing = {name: value for name, value in held.items() if "layers.0.fc2.weight" not in name}
    save_file(missing, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="layers.0.fc2.weight"):
        released.load(tmp_path)
    save_file(held | {"encoder.layers.0.fc2.weight": torch.zeros(3, 3)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="layers.0.down.weight"):
        released.load(tmp_path)


def test_what_does_not_belong_to_the_encoder_is_refused_but_for_a_few_names(codec, tmp_path) -> None:
    released.save(codec, tmp_path)
    held, path = load_file(tmp_path / "model.safetensors"), tmp_path / "model.safetensors"
    harmless = ("encoder.embed_positions.weight", "encoder.embed_positions2.weight", "encoder.ema_count")
    harmless += ("encoder.ema_weight", "encoder.layer_norm.bias", "decoder.layers.0.fc1.weight")
    save_file(held | {name: torch.ones(1) for name in harmless}, path)
    wave = torch.randn(1, 1280 * 9)
    assert torch.equal(released.load(tmp_path).encode(wave), codec.encode(wave))
    save_file(held | {f"encoder.new.{i}.weight": torch.ones(1) for i in range(5)}, path)
    with pytest.raises(CheckpointError, match=r"5 tensors are not part .*new.0.weight, .*new.2.weight, \.\.\.\)"):
        released.load(tmp_path)
    save_file(held | {"encoder.layers.1000000000.fc1.weight": torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match=r"encoder.layers.2 is missing"):
        released.load(tmp_path)
    for name, shape in (("codebook", (1 << 40, 0)), ("codebook", (16,)), ("conv1", (0, 80, 3)), ("layers.0.fc1", (0,))):
        save_file(held | {f"encoder.{name}.weight": torch.zeros(shape)}, path)
        with pytest.raises(CheckpointError, match="not the released tokenizer"):
            released.load(tmp_path)


@pytest.mark.parametrize("how", ["fp8", "config"])
def test_a_quantised_tokenizer_is_refused(codec, tmp_path, how, capsys) -> None:
    released.save(codec, tmp_path / "theirs")
    path = tmp_path / "theirs" / ("model.safetensors" if how == "fp8" else "config.json")
    if how == "fp8":
        save_file({name: value.to(torch.float8_e4m3fn) for name, value in load_file(path).items()}, path)
    else:
        path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": {"quant_method": "awq"}}))
    assert cli.main(["import", str(tmp_path / "theirs"), "-o", str(tmp_path / "ours")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "theirs: quantised weights (" in line and "bf16 weights" in line


def test_the_verbs_know_a_tokenizer_from_a_language_model(codec, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    codec.save_pretrained(tmp_path / "ours")
    assert cli.main(["export", "ours", "-o", "theirs"]) == 0 and cli.main(["import", "theirs", "-o", "again"]) == 0
    wave = torch.randn(1, 1280 * 20)
    assert torch.equal(SpeechCodec.from_pretrained("again").encode(wave), codec.encode(wave))
    SpeechCodec(TINY).save_pretrained(tmp_path / "other")
    assert cli.main(["export", "other", "-o", "x"]) == 2
