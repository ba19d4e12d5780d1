"""The released checkpoint's layout: lossless both ways, with the names and the number of tensors of the real one."""

import json
from dataclasses import replace

import pytest
import torch
from lm_toys import small_model
from safetensors.torch import load_file, save_file

from mossrepro import cli
from mossrepro.lm import checkpoint, released
from mossrepro.lm.model import LayerSplitLM, LMConfig
from mossrepro.lm.tokenizer import mini_tokenizer
from mossrepro.utils.errors import CheckpointError

FULL = LMConfig(
    dim=4096, layers=36, tail_layers=4, heads=32, kv_heads=8, head_dim=128, ffn_dim=12_288, text_vocab=151_680,
    codes=16_384, theta=1e6, eps=1e-6, qk_norm=True, tied=False, modality_pad=151_667,
)  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return mini_tokenizer(["the old man and the sea", "system user assistant"], 300)


def toy(tied: bool = False, qk_norm: bool = True) -> LayerSplitLM:
    return small_model(text_vocab=300, codes=64, modality_pad=4, tied=tied, qk_norm=qk_norm, max_positions=4096)


def test_at_full_size_it_is_the_released_model() -> None:
    with torch.device("meta"):
        model = LayerSplitLM(FULL)
    shapes = {theirs: tuple(model.state_dict()[ours].shape) for ours, theirs in released.names(model).items()}
    assert len(shapes) == 446 == len(set(shapes))
    assert sum(parameter.numel() for parameter in model.parameters()) == 9_095_694_336
    assert shapes["model.embed_tokens.weight"] == shapes["text_lm_head.weight"] == (151_680, 4096)
    assert shapes["model.audio_embed.weight"] == shapes["audio_lm_head.weight"] == (16_512, 4096)
    assert shapes["model.shared_block.layers.31.self_attn.k_norm.weight"] == (128,)
    assert "model.audio_block.layers.3.post_attention_layernorm.weight" in shapes
    assert "model.shared_block.layers.32.mlp.up_proj.weight" not in shapes
    assert sum(p.numel() for p in model.speech_parameters().values()) == pytest.approx(907.1e6, rel=1e-4)


@pytest.mark.parametrize("shard", ["5GB", "40KB"])
@pytest.mark.parametrize(("tied", "qk_norm"), [(False, True), (True, False)])
def test_out_and_in_again_loses_nothing(tied, qk_norm, shard, tokenizer, tmp_path) -> None:
    model = toy(tied, qk_norm)
    released.save(model, tokenizer, tmp_path, shard)
    assert (tmp_path / "model.safetensors.index.json").is_file() == (shard == "40KB")
    again, words = released.load(tmp_path)
    assert again.config == model.config and words.to_str() == tokenizer.to_str()
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    assert again.grid(words).system_turns == "short"
    plain = json.loads((tmp_path / "config.json").read_text())
    assert plain["max_position_embeddings"] == 4096
    del plain["mossrepro_system_turns"]  # the authors' own file has none
    (tmp_path / "config.json").write_text(json.dumps(plain))
    theirs = released.load(tmp_path)[0]
    assert theirs.config == replace(model.config, system_turns="released")
    assert len(theirs.grid(words).system(True)) > len(again.grid(words).system(True))  # a longer turn
    assert plain["architectures"] == ["MossSpeechForCausalLM"] and plain["num_shared_layers"] == 2
    assert plain["audio_vocab_size"] == 64 + 128 and plain["eosp_token_id"] == 64 and plain["audio_pad_token_id"] == 2


def test_a_smaller_checkpoint_over_a_larger_one_leaves_nothing_behind(tokenizer, tmp_path) -> None:
    released.save(toy(), tokenizer, tmp_path, "40KB")
    released.save(toy(), tokenizer, tmp_path)
    assert [path.name for path in tmp_path.glob("*.safetensors*")] == ["model.safetensors"]
    released.load(tmp_path)


def test_what_does_not_fit_is_named(tokenizer, tmp_path) -> None:
    with pytest.raises(CheckpointError, match="MossSpeech"):
        released.load(tmp_path)
    released.save(toy(), tokenizer, tmp_path)
    held = load_file(tmp_path / "model.safetensors")
    missing = {name: value for name, value in held.items() if name != "model.audio_norm.weight"}
    for state, named in (
        (missing, "model.audio_norm.weight is missing"),
        (held | {"model.depth_transformer.weight": torch.zeros(1)}, "depth_transformer"),
        (held | {"audio_lm_head.weight": torch.zeros(3, 32)}, "audio_lm_head"),
    ):
        save_file(state, tmp_path / "model.safetensors")
        with pytest.raises(CheckpointError, match=named):
            released.load(tmp_path)


def test_import_and_export_are_verbs(tokenizer, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint.save_pretrained(toy(), tokenizer, tmp_path / "ours")
    assert cli.main(["export", "ours", "-o", "theirs", "--shard", "40KB"]) == 0
    assert cli.main(["import", "theirs", "-o", "again"]) == 0
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("ours", "again"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert "parameters" in capsys.readouterr().err
    assert cli.main(["export", "ours", "-o", "half", "--dtype", "bfloat16"]) == 0
    half = load_file(tmp_path / "half" / "model.safetensors")
    assert {value.dtype for value in half.values()} == {torch.bfloat16} and len(half) == len(one) + 0
    capsys.readouterr()
    assert cli.main(["import", "theirs", "-o", "again"]) == 2 and "holds weights already" in capsys.readouterr().err
    assert cli.main(["import", "nowhere", "-o", "x"]) == 2 and "no such folder" in capsys.readouterr().err
    assert cli.main(["export", "nowhere", "-o", "x"]) == 2 and "config.json" in capsys.readouterr().err
    for command in (["--shard", "big"], []):
        target = "y" if command else "again/config.json"
        assert cli.main(["export", "ours", "-o", target, *command]) == 2
        assert ("no size" if command else "is a file") in capsys.readouterr().err


@pytest.mark.parametrize(
    ("key", "value"),
    [("num_shared_layers", 99), ("eosp_token_id", 3), ("modality_pad_token_id", 8), ("attention_bias", True),
     ("hidden_act", "gelu"), ("hidden_size", None)],
)  # fmt: skip
def test_a_config_that_asks_for_another_model_is_refused(tokenizer, tmp_path, key, value, capsys) -> None:
    released.save(toy(), tokenizer, tmp_path / "theirs")
    path = tmp_path / "theirs" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    assert cli.main(["import", str(tmp_path / "theirs"), "-o", str(tmp_path / "ours")]) == 2
    assert {"hidden_size": "dim=None"}.get(key, key) in capsys.readouterr().err


@pytest.mark.parametrize(("name", "content"), [("config.json", "{"), ("tokenizer.json", "[]"), ("index", "")])
def test_broken_files_are_named(tokenizer, tmp_path, name, content, capsys) -> None:
    released.save(toy(), tokenizer, tmp_path / "theirs", "40KB")
    if name == "index":  # it sends a tensor to a shard that does not hold it
        path = tmp_path / "theirs" / "model.safetensors.index.json"
        index = json.loads(path.read_text())
        files = sorted(set(index["weight_map"].values()))
        lost = next(key for key, file in index["weight_map"].items() if file == files[0])
        index["weight_map"][lost] = files[1]
        name, content = files[1], json.dumps(index)
        path.write_text(content)
    else:
        (tmp_path / "theirs" / name).write_text(content)
    assert cli.main(["import", str(tmp_path / "theirs"), "-o", str(tmp_path / "ours")]) == 2
    assert name in capsys.readouterr().err
