"""The encoder hears nothing of the future, streams, and takes over pretrained weights."""

import json
import tempfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mossrepro.codec.encoder import CausalEncoder, sinusoids, windowed_mask
from mossrepro.codec.whisper import HubEncoder
from mossrepro.utils.errors import ConfigError


def small(**sizes) -> CausalEncoder:
    default = {"dim": 32, "heads": 2, "layers": 2, "slow_layers": 1, "window": 6, "slow_window": 3, "ffn_dim": 48}
    return CausalEncoder(**(default | {"positions": 40} | sizes)).eval()


def whisper_like(dim: int, layers: int, feedforward: int) -> dict[str, torch.Tensor]:
    state = {"conv1.weight": torch.randn(dim, 80, 3), "conv2.weight": torch.randn(dim, dim, 3)}
    state |= {"conv1.bias": torch.randn(dim), "conv2.bias": torch.randn(dim)}
    for i in range(layers):
        shapes = {f"attention.{part}": (dim, dim) for part in ("q", "k", "v", "out")}
        shapes |= {"mlp_in": (feedforward, dim), "mlp_out": (dim, feedforward)}
        for name, shape in shapes.items():
            state[f"layers.{i}.{name}.weight"] = torch.randn(shape)
            state[f"layers.{i}.{name}.bias"] = torch.randn(shape[0])
        for name in ("attention_norm", "mlp_norm"):
            state[f"layers.{i}.{name}.weight"] = torch.randn(dim)
            state[f"layers.{i}.{name}.bias"] = torch.randn(dim)
    return state


def test_the_window_shows_itself_and_the_recent_past():
    mask = windowed_mask(2, 5, 3, torch.device("cpu"))
    assert mask.int().tolist() == [[0, 1, 1, 1, 0], [0, 0, 1, 1, 1]]


def test_positions_are_whispers():
    table = sinusoids(1500, 512)
    assert table.shape == (1500, 512)
    assert table[0, :256].abs().max() == 0 and (table[0, 256:] == 1).all()
    assert table[3, 255].item() == pytest.approx(3e-4, rel=1e-3)  # the slowest wave: sin(3 / 10000)


@torch.no_grad()
def test_the_future_does_not_reach_back():
    encoder, mel = small(), torch.randn(1, 80, 80)
    whole, _ = encoder(mel)
    changed = mel.clone()
    changed[:, :, 48:] = torch.randn(1, 80, 32)
    other, _ = encoder(changed)
    torch.testing.assert_close(whole[:, :6], other[:, :6], rtol=0, atol=0)
    assert (whole[:, 6] - other[:, 6]).abs().max() > 1e-3  # and the code whose frames changed does change


@torch.no_grad()
@pytest.mark.parametrize("cuts", [(8,) * 12, (40, 8, 48), (88, 8)])
def test_chunks_equal_the_whole(cuts):
    encoder, mel = small(), torch.randn(2, 80, sum(cuts))
    whole, _ = encoder(mel)
    state, parts = encoder.start(2), []
    for chunk in mel.split(list(cuts), dim=2):
        part, state = encoder(chunk, state)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_past_that_a_stream_carries_stays_small():
    encoder, state = small(), None
    for _ in range(5):
        _, state = encoder(torch.randn(1, 80, 64), state)
    assert [past.shape[3] for past in state.past] == [5, 5, 2]
    encoder, state = small(window=1, slow_window=1), None
    for _ in range(2):
        _, state = encoder(torch.randn(1, 80, 64), state)
    assert [past.shape[3] for past in state.past] == [0, 0, 0]


@torch.no_grad()
def test_offsets_move_the_positions_and_wrap_around():
    encoder, mel = small(), torch.randn(2, 80, 16)
    plain, _ = encoder(mel)
    moved, _ = encoder(mel, offsets=torch.tensor([0, 7]))
    wrapped, _ = encoder(mel, offsets=torch.tensor([40, 47]))
    torch.testing.assert_close(moved[0], plain[0])
    assert (moved[1] - plain[1]).abs().max() > 1e-3
    torch.testing.assert_close(wrapped, moved)


def test_pretrained_weights_land_where_they_belong():
    encoder, state = small(), whisper_like(32, 6, 48)
    encoder.load_whisper(state)
    qkv = torch.cat([state[f"layers.1.attention.{part}.weight"] for part in ("q", "k", "v")])
    assert torch.equal(encoder.layers[1].qkv.weight, qkv)
    assert torch.equal(encoder.slow_layers[0].up.bias, state["layers.2.mlp_in.bias"])  # the layer that follows
    assert torch.equal(encoder.conv2.weight, state["conv2.weight"])


def test_pretrained_weights_of_another_size_are_refused():
    with pytest.raises(ConfigError, match="dim"):
        small(dim=64).load_whisper(whisper_like(32, 6, 48))


@torch.no_grad()
def test_without_causality_it_is_whispers_encoder():
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"d_model": 32, "encoder_layers": 3, "encoder_attention_heads": 2, "encoder_ffn_dim": 48}
    config = transformers.WhisperConfig(**sizes, num_mel_bins=128, max_source_positions=40)
    reference = transformers.models.whisper.modeling_whisper.WhisperEncoder(config).eval()
    for name, parameter in reference.named_parameters():
        if "embed_positions" not in name:
            parameter.normal_(std=0.2)
    encoder = small(layers=3, slow_layers=0, mels=128, causal=False)
    encoder.load_whisper(hub_names(reference))
    mel, seen = torch.randn(2, 128, 80), []
    encoder.pool_norm.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    encoder(mel)
    torch.testing.assert_close(reference.layer_norm(seen[0]), reference(mel).last_hidden_state, atol=1e-5, rtol=0)
    with pytest.raises(ConfigError, match="causal"):
        encoder(mel, encoder.start(2))
    small(layers=3, slow_layers=0, mels=128).load_whisper(hub_names(reference))  # the same weights made causal


def hub_names(reference: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights as `HubEncoder` reads them, by way of a folder."""
    with tempfile.TemporaryDirectory() as folder:
        weights = {f"model.encoder.{name}": value for name, value in reference.state_dict().items()}
        save_file(weights, Path(folder, "model.safetensors"))
        Path(folder, "config.json").write_text(json.dumps({"encoder_layers": len(reference.layers)}))
        return HubEncoder(folder)()
