"""Folders and files that others made: what does not fit is one line, before memory is taken for it."""

import json
import struct
import time

import pytest
import torch
from gguf_toys import mergeable, write_gguf
from lm_toys import small_model
from safetensors.torch import load_file, save_file

from mossrepro import cli
from mossrepro.lm import checkpoint, hub, released
from mossrepro.lm.init_from import open_start
from mossrepro.lm.tokenizer import mini_tokenizer
from mossrepro.training.config import changed_size
from mossrepro.utils.errors import CheckpointError, ConfigError

VOCAB = 300
SIZES = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32, "intermediate_size": 48,
    "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "rms_norm_eps": 1e-6,
    "vocab_size": VOCAB, "rope_theta": 5e3, "tie_word_embeddings": True,
}  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return mini_tokenizer(["the old man and the sea", "system user assistant"], VOCAB)


def layout(kind: str, folder, tokenizer):
    """A toy model of ours, in the layout of the hub, of the released checkpoint, or of a stage."""
    model = small_model(text_vocab=VOCAB, codes=64, modality_pad=tokenizer.token_to_id("<empty_output>"))
    if kind == "released":
        released.save(model, tokenizer, folder)
    elif kind == "ours":
        checkpoint.save_pretrained(model, tokenizer, folder)
    else:
        folder.mkdir(exist_ok=True)
        state = {theirs: model.state_dict()[ours] for ours, theirs in hub.names(model).items()}
        save_file(state, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(SIZES))
        tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(params=["hub", "released", "ours"])
def weights(request, tokenizer, tmp_path):
    return layout(request.param, tmp_path / "theirs", tokenizer)


def change(folder, **settings) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


def opened(folder):
    return open_start(str(folder), 64, 2, "copy", 0)


def test_the_toys_can_be_opened(weights) -> None:
    assert opened(weights)[0].config.layers == 4


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.int8, torch.uint8])
def test_weights_of_eight_bits_are_refused_everywhere(weights, dtype) -> None:
    path = weights / "model.safetensors"
    save_file({name: value.to(dtype) for name, value in load_file(path).items()}, path)
    with pytest.raises(CheckpointError, match=r"theirs: quantised weights \(.* is [FIU]8.*bf16 weights"):
        opened(weights)


def test_a_config_that_says_quantised_is_refused_everywhere(weights, tmp_path, capsys) -> None:
    change(weights, quantization_config={"quant_method": "compressed-tensors"})
    with pytest.raises(CheckpointError, match=r"theirs: quantised weights \(compressed-tensors\)"):
        opened(weights)
    if (kind := json.loads((weights / "config.json").read_text()).get("architectures")) is None:
        return
    assert cli.main(["import", str(weights), "-o", str(tmp_path / "ours")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "theirs: quantised weights (compressed-tensors)" in line and not (tmp_path / "ours").exists()
    if kind == SIZES["architectures"]:  # before any data are made
        assert cli.main(["reproduce", "--size", "smoke", "--backbone", str(weights)]) == 2
        assert "quantised weights (compressed-tensors)" in capsys.readouterr().err


def test_scales_beside_the_weights_are_refused(weights) -> None:
    path, state = weights / "model.safetensors", load_file(weights / "model.safetensors")
    some = next(name for name in state if name.endswith("q_proj.weight"))
    save_file(state | {f"{some}_scale_inv": torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match=r"quantised weights \(it holds .*q_proj.weight_scale_inv\)"):
        opened(weights)


def test_unknown_tensors_are_counted_and_refused(weights) -> None:
    path, state = weights / "model.safetensors", load_file(weights / "model.safetensors")
    save_file(state | {f"model.experts.{i}.weight": torch.ones(1) for i in range(7)}, path)
    with pytest.raises(CheckpointError, match=r"theirs: 7 tensors are not part .*experts.0.weight, .*2.weight, \.\.\."):
        opened(weights)


def test_a_layer_more_than_config_json_says_is_not_dropped(tokenizer, tmp_path) -> None:
    folder = layout("hub", tmp_path / "theirs", tokenizer)
    change(folder, num_hidden_layers=3)
    with pytest.raises(CheckpointError, match="num_hidden_layers=3, but the files hold 4 layers"):
        hub.load(folder, 64, 2)


def test_what_is_known_to_change_nothing_may_be_there(tokenizer, tmp_path) -> None:
    folder = layout("hub", tmp_path / "theirs", tokenizer)
    path, state = folder / "model.safetensors", load_file(folder / "model.safetensors")
    buffers = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(4) for i in range(4)}
    save_file(state | buffers | {"lm_head.weight": torch.ones(VOCAB, 32)}, path)
    model, _ = hub.load(folder, 64, 2)
    assert torch.equal(model.text_head.weight, state["model.embed_tokens.weight"])
    change(folder, tie_word_embeddings=False)
    assert hub.load(folder, 64, 2)[0].text_head.weight.eq(1).all()


HUB = dict.fromkeys(("num_hidden_layers", "num_attention_heads", "hidden_size", "intermediate_size"))
ODD = ["4", -4, 0, 10**9, 10**30, 1.5, float("nan"), True, [4], {"a": 1}, None]


@pytest.mark.parametrize("value", ODD, ids=str)
@pytest.mark.parametrize("key", HUB)
def test_sizes_that_no_model_has_are_one_line_at_once(tokenizer, tmp_path, key, value) -> None:
    folder = layout("hub", tmp_path / "theirs", tokenizer)
    change(folder, **{key: value})
    started = time.monotonic()
    with pytest.raises(CheckpointError, match="theirs"):
        hub.load(folder, 64, 2)
    assert time.monotonic() - started < 20  # not the hours that so many layers take


@pytest.mark.parametrize(
    ("key", "value"),
    [("rope_theta", "x"), ("rope_theta", float("nan")), ("rope_theta", -1.0), ("rms_norm_eps", "x"),
     ("rms_norm_eps", float("inf")), ("rms_norm_eps", -1e-6), ("head_dim", 7), ("head_dim", -8), ("head_dim", "8"),
     ("num_key_value_heads", 0), ("num_key_value_heads", 3), ("num_key_value_heads", "2"),
     ("tie_word_embeddings", "no"), ("max_position_embeddings", "x"), ("max_position_embeddings", -1),
     ("architectures", 3), ("architectures", [["a"]]), ("architectures", {}), ("rope_scaling", [1]),
     ("rope_scaling", {"rope_type": "llama3", "factor": 8.0}), ("rope_parameters", 7),
     ("rope_scaling", {"rope_type": "llama3", "factor": "x", "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                       "original_max_position_embeddings": 32}),
     ("rope_scaling", {"rope_type": "llama3", "factor": 0.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                       "original_max_position_embeddings": 32}),
     ("rope_scaling", {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 4.0,
                       "original_max_position_embeddings": 32})],
    ids=str,
)  # fmt: skip
def test_settings_of_a_hub_folder_that_no_model_has_are_one_line(tokenizer, tmp_path, key, value) -> None:
    folder = layout("hub", tmp_path / "theirs", tokenizer)
    change(folder, **{key: value})
    with pytest.raises(CheckpointError, match="theirs"):
        opened(folder)


NO_THETA = ["4", -4, 0, 10**400, float("nan"), True, [4], None]


@pytest.mark.parametrize("kind", ["released", "ours"])
@pytest.mark.parametrize(
    ("key", "value"),
    [*((key, value) for key in ("layers", "dim", "codes") for value in ODD), *(("theta", value) for value in NO_THETA)],
    ids=lambda one: str(one)[:20],
)
def test_settings_of_other_layouts_that_no_model_has_are_one_line(tokenizer, tmp_path, kind, key, value) -> None:
    names = {"layers": "num_hidden_layers", "dim": "hidden_size", "codes": "audio_vocab_size", "theta": "rope_theta"}
    folder = layout(kind, tmp_path / "theirs", tokenizer)
    change(folder, **{key if kind == "ours" else names[key]: value})
    started = time.monotonic()
    with pytest.raises(CheckpointError, match="theirs"):
        opened(folder)
    assert time.monotonic() - started < 20  # not the hours that so many layers take


@pytest.mark.parametrize(
    ("key", "value"),
    [("tied", "yes"), ("qk_norm", 1), ("system_turns", 3), ("split_at", "1"), ("split_at", 99), ("extra_layers", -1),
     ("extra_layers", 10**9), ("tail_layers", 10**9), ("rope_scaling", {"rope_type": "yarn"}), ("rope_scaling", []),
     ("rope_scaling", {"factor": 2.0}), ("modality_pad", VOCAB), ("modality_pad", -1), ("kv_heads", 0)],
    ids=str,
)  # fmt: skip
def test_settings_of_a_stage_that_no_model_has_are_one_line(tokenizer, tmp_path, key, value) -> None:
    folder = layout("ours", tmp_path / "theirs", tokenizer)
    change(folder, **{key: value})
    with pytest.raises(CheckpointError, match="theirs"):
        opened(folder)


def test_a_flag_of_the_user_is_not_blamed_on_the_folder(tokenizer, tmp_path) -> None:
    folder = layout("hub", tmp_path / "theirs", tokenizer)
    with pytest.raises(ConfigError, match="tail_layers=4 must be at least 0 and below the backbone's 4 layers"):
        hub.load(folder, 64, 4)


@pytest.mark.parametrize(
    ("key", "value"),
    [("num_hidden_layers", 10**9), ("hidden_size", "32"), ("num_attention_heads", 0), ("vocab_size", float("nan"))],
)
def test_the_shape_of_a_backbone_is_bounded(tokenizer, tmp_path, key, value, capsys) -> None:
    folder = layout("hub", tmp_path / "theirs", tokenizer)
    assert changed_size("smoke", backbone=folder)["size"]["backbone"]["layers"] == 4
    change(folder, **{key: value})
    with pytest.raises(ConfigError, match=f"theirs/config.json: {key}="):
        changed_size("smoke", backbone=folder)
    (tmp_path / "size.yaml").write_text(f"base: tiny\nsize: {{backbone: {{shape: {folder}}}}}\n")
    assert cli.main(["plan", "-c", "configs/stage1.yaml", "-c", str(tmp_path / "size.yaml")]) == 2
    assert f"theirs/config.json: {key}=" in capsys.readouterr().err


@pytest.fixture
def merged(tokenizer):
    return mergeable(tokenizer, VOCAB)


def test_a_toy_gguf_is_read(merged, tmp_path) -> None:
    write_gguf(tmp_path / "toy.gguf", merged)
    model, _ = checkpoint.load_gguf(tmp_path / "toy.gguf", 64, 1)
    assert model.config.layers == 2 and model.config.codes == 64 and model.trunk[0].mlp.up_proj.weight.eq(1).all()


@pytest.mark.parametrize(
    ("changes", "extra", "named"),
    [
        ({"llama.block_count": 4_000_000_000}, (), "says 4000000000 layers and holds 2"),
        ({"llama.block_count": "2"}, (), "layers and holds 2"),
        ({"llama.embedding_length": 1 << 30}, (), "dim=1073741824 is not from 0"),
        ({"llama.embedding_length": 32}, (), "sizes"),
        ({"llama.feed_forward_length": 1 << 19}, (), r"mlp.gate_proj.weight is \(24, 16\)"),
        ({"llama.attention.head_count": 0}, (), "sizes"),
        ({"llama.attention.head_count_kv": 0}, (), "kv_heads=0"),
        ({"llama.attention.head_count": "2"}, (), "sizes"),
        ({"llama.rope.freq_base": float("nan")}, (), "theta=nan"),
        ({"llama.rope.freq_base": None}, (), "has no 'llama.rope.freq_base'"),
        ({"general.architecture": "other"}, (), "architecture 'other'"),
        ({}, ("blk.0.attn_q_norm", "rope_freqs"), "2 tensors are not part of this model"),
        ({}, ("blk.1000000000.ffn_up",), "blk.2 is missing"),
    ],
)
def test_a_gguf_whose_sizes_are_not_those_of_its_tensors_is_one_line(merged, tmp_path, changes, extra, named) -> None:
    write_gguf(tmp_path / "toy.gguf", merged, changes, extra)
    started = time.monotonic()
    with pytest.raises(CheckpointError, match=f"toy.gguf: .*{named}"):
        checkpoint.load_gguf(tmp_path / "toy.gguf", 64, 1)
    assert time.monotonic() - started < 20  # not the hours that so many layers take


@pytest.mark.parametrize("cut", [0, 4, 8, 100, -1])
def test_a_torn_file_is_one_line(weights, cut, tmp_path, capsys) -> None:
    path = weights / "model.safetensors"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(CheckpointError, match="model.safetensors: not a safetensors file"):
        opened(weights)
    path.write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
    verb = ["import"] if "architectures" in (weights / "config.json").read_text() else ["export"]
    assert cli.main([*verb, str(weights), "-o", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "model.safetensors: not a safetensors file" in line
