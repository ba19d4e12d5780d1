"""Backbones of the hub: the text half says what `transformers` says, and what does not fit is named."""

import json

import pytest
import torch
import transformers

from mossrepro import cli
from mossrepro.lm import checkpoint, hub
from mossrepro.lm.init_from import open_start
from mossrepro.lm.tokenizer import mini_tokenizer
from mossrepro.utils.errors import CheckpointError, ConfigError

SIZE = 300
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
PLAIN = {"rope_type": "default", "rope_theta": 5_000.0}


def make(folder, family: str = "Llama", rope: dict = PLAIN, tied: bool = False, shard: str = "5GB"):
    """A random toy model of `transformers` as a hub folder, and the model itself."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(
        hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        head_dim=8, vocab_size=SIZE, rms_norm_eps=1e-6, tie_word_embeddings=tied, rope_parameters=dict(rope),
        max_position_embeddings=256,
    )  # fmt: skip
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder, max_shard_size=shard)
    mini_tokenizer(["the old man and the sea", "system user assistant"], SIZE).save(str(folder / "tokenizer.json"))
    return model


@pytest.mark.parametrize(
    ("family", "rope", "tied", "shard"),
    [
        ("Llama", PLAIN, True, "5GB"),
        ("Llama", LLAMA3, False, "20KB"),
        ("Qwen3", PLAIN, False, "20KB"),
        ("Qwen3", PLAIN, True, "5GB"),
    ],
)
def test_the_text_half_says_what_transformers_says(family, rope, tied, shard, tmp_path) -> None:
    reference = make(tmp_path, family, rope, tied, shard)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard == "20KB")
    model, tokenizer = open_start(str(tmp_path), 64, 2, "copy", 0)
    assert model.config.codes == 64 and tokenizer.token_to_id("<|im_end|>") == 2
    ids = torch.randint(8, SIZE, (2, 90), generator=torch.Generator().manual_seed(2))  # past the original context
    with torch.no_grad():
        ours = model.text_head(model(torch.stack([ids, torch.zeros_like(ids)], -1)).text)
        assert (ours - reference(ids).logits).abs().max() < 1e-5
    assert (model.text_head.weight is model.text_embed.weight) == tied
    assert not any(parameter.is_meta for parameter in model.parameters())
    assert torch.equal(model.speech_tail[0].mlp.up_proj.weight, model.text_tail[0].mlp.up_proj.weight)


def change(folder, **values) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"architectures": ["GPT2LMHeadModel"]}, "GPT2LMHeadModel"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, "yarn"),
        ({"attention_bias": True}, "attention_bias"),
        ({"intermediate_size": 50}, "mlp"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"use_sliding_window": True}, "use_sliding_window"),
        ({"num_attention_heads": None}, "heads=None is not a whole number"),
    ],
)
def test_what_is_not_supported_is_named(values, named, tmp_path) -> None:
    make(tmp_path)
    change(tmp_path, **values)
    with pytest.raises((CheckpointError, ConfigError), match=named):
        hub.load(tmp_path, 64, 2)


def test_what_is_missing_is_named(tmp_path) -> None:
    make(tmp_path, shard="20KB")
    lost = sorted(tmp_path.glob("*.safetensors"))[1]
    content = lost.read_bytes()
    lost.unlink()
    with pytest.raises(CheckpointError, match=f"{lost.name}: this shard is missing"):
        hub.load(tmp_path, 64, 2)
    lost.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="not a safetensors file"):
        hub.load(tmp_path, 64, 2)
    lost.write_bytes(content)
    path = tmp_path / "config.json"
    plain = json.loads(path.read_text())
    del plain["hidden_size"]
    path.write_text(json.dumps(plain))
    with pytest.raises(CheckpointError, match="hidden_size"):
        hub.load(tmp_path, 64, 2)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="tokenizer.json"):
        hub.load(tmp_path, 64, 2)


def test_published_configs_hold_their_rope_elsewhere(tmp_path) -> None:
    reference = make(tmp_path, rope=LLAMA3)
    path = tmp_path / "config.json"
    plain = json.loads(path.read_text())
    del plain["rope_parameters"]
    scaling = {key: value for key, value in LLAMA3.items() if key != "rope_theta"}
    path.write_text(json.dumps(plain | {"rope_theta": 10_000.0, "rope_scaling": scaling}))
    model, _ = open_start(str(tmp_path), 64, 2, "copy", 0)
    ids = torch.randint(8, SIZE, (1, 90))
    with torch.no_grad():
        ours = model.text_head(model(torch.stack([ids, torch.zeros_like(ids)], -1)).text)
        assert (ours - reference(ids).logits).abs().max() < 1e-5


def test_training_starts_in_float32_whatever_the_file_has(tmp_path) -> None:
    make(tmp_path).bfloat16().save_pretrained(tmp_path)
    for tail in ("copy", "random"):
        model, _ = open_start(str(tmp_path), 64, 2, tail, 0)
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        assert all(p.isfinite().all() and p.abs().max() < 3 for p in model.speech_parameters().values())
        copied = torch.equal(model.speech_tail[1].mlp.up_proj.weight, model.text_tail[1].mlp.up_proj.weight)
        assert copied == (tail == "copy")
    assert model.speech_tail[0].input_layernorm.weight.eq(1).all()
    assert 0.01 < model.speech_tail[0].mlp.up_proj.weight.std() < 0.03
    again, _ = open_start(str(tmp_path), 64, 2, "random", 0)
    assert torch.equal(again.speech_tail[0].mlp.up_proj.weight, model.speech_tail[0].mlp.up_proj.weight)


def test_import_keeps_the_files_precision(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "theirs").mkdir()
    make(tmp_path / "theirs").bfloat16().save_pretrained(tmp_path / "theirs")
    assert cli.main(["import", "theirs", "-o", "ours", "--codes", "64", "--tail-layers", "1"]) == 0
    model, _ = checkpoint.from_pretrained(tmp_path / "ours")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    model, _ = open_start(str(tmp_path / "ours"), 64, 1, "copy", 0)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_a_tokenizer_without_chat_tokens_is_refused(tmp_path) -> None:
    make(tmp_path)
    plain = json.loads((tmp_path / "tokenizer.json").read_text())
    text = json.dumps(plain).replace("<|im_start|>", "<|begin|>")
    (tmp_path / "tokenizer.json").write_text(text)
    with pytest.raises(ConfigError, match="im_start"):
        hub.load(tmp_path, 64, 2)


def test_import_splits_a_text_model(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "theirs").mkdir()
    reference = make(tmp_path / "theirs", tied=True)
    assert cli.main(["import", "theirs", "-o", "ours", "--codes", "64", "--tail-layers", "1"]) == 0
    model, _ = checkpoint.from_pretrained(tmp_path / "ours")
    assert len(model.speech_tail) == 1 and model.config.codes == 64
    assert torch.equal(model.text_embed.weight, reference.model.embed_tokens.weight)
    assert torch.equal(model.text_tail[0].mlp.up_proj.weight, reference.model.layers[3].mlp.up_proj.weight)
