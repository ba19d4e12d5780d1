"""Backbones from the Hugging Face hub: folders of the Llama and the Qwen3 family, to be split.

The model is built on the meta device and every tensor is mapped from its shard, so that no second copy is ever made.
"""

from dataclasses import replace
from pathlib import Path

import torch
from tokenizers import Tokenizer

from mossrepro.lm.model import LayerSplitLM, LMConfig
from mossrepro.lm.tokenizer import SpecialIds, open_tokenizer
from mossrepro.utils.errors import CheckpointError
from mossrepro.utils.safetensors_io import Shards, fill_from, read_config

ARCHITECTURES = {"LlamaForCausalLM": False, "Qwen3ForCausalLM": True}  # name: has norms on queries and keys
# Features that our layers lack: for each key of config.json, the values that mean "not used".
PLAIN = {"attention_bias": (False, None), "mlp_bias": (False, None), "use_sliding_window": (False, None),
         "hidden_act": ("silu", "swish")}  # fmt: skip


def is_hub(folder: Path) -> bool:
    """Whether a folder's config.json is one of the hub's, and not one of ours."""
    return (folder / "config.json").is_file() and "architectures" in read_config(folder)


def load(
    folder: str | Path, codes: int, tail_layers: int, split_at: int | None = None
) -> tuple[LayerSplitLM, Tokenizer]:
    """A hub folder as a split model whose speech half has no values yet (`init.start_speech_half` gives them).

    Weights keep the file's precision. Raises CheckpointError for another architecture, a kind of rotary scaling that
    is neither plain nor Llama 3's, biases, a missing shard or tensor, or a wrong shape.
    """
    folder = Path(folder)
    shards = Shards(folder)
    tokenizer, plain = open_tokenizer(folder), read_config(folder)
    config = _config(plain, folder, codes, tail_layers, SpecialIds.of(tokenizer, codes).pad, shards)
    config = replace(config, split_at=split_at)
    with torch.device("meta"):
        model = LayerSplitLM(config)
    fill_from(model, shards, names(model))
    if config.tied:
        model.text_head.weight = model.text_embed.weight
    speech = [model.speech_embed, model.speech_tail, model.speech_norm, model.speech_head]
    dtype = model.text_embed.weight.dtype
    for module in speech:
        module.to_empty(device="cpu").to(dtype)
    return model, tokenizer


def _config(plain: dict, folder: Path, codes: int, tail_layers: int, pad: int, shards: Shards) -> LMConfig:
    """The hub's names for sizes -> ours."""
    name = (plain.get("architectures") or ["none"])[0]
    where = folder / "config.json"
    if name not in ARCHITECTURES:
        raise CheckpointError(f"{where}: architecture {name!r} is not supported, only {', '.join(ARCHITECTURES)}")
    for key, known in PLAIN.items():
        if plain.get(key, known[0]) not in known:
            raise CheckpointError(f"{where}: {key}={plain[key]!r} is not supported, only {known[0]!r}")
    try:
        heads, dim = plain["num_attention_heads"], plain["hidden_size"]
        rope = plain.get("rope_parameters") or {"rope_theta": plain.get("rope_theta", 10_000.0)}
        return LMConfig(
            dim=dim,
            layers=plain["num_hidden_layers"],
            tail_layers=tail_layers,
            heads=heads,
            kv_heads=plain.get("num_key_value_heads", heads),
            head_dim=plain.get("head_dim") or dim // heads,
            ffn_dim=plain["intermediate_size"],
            text_vocab=shards.shape("model.embed_tokens.weight")[0],
            codes=codes,
            theta=float(rope["rope_theta"]),
            rope_scaling=_scaling(plain.get("rope_scaling") or rope, where),
            eps=plain["rms_norm_eps"],
            qk_norm=ARCHITECTURES[name],
            tied=bool(plain.get("tie_word_embeddings", "lm_head.weight" not in shards.names)),
            modality_pad=pad,
            max_positions=plain.get("max_position_embeddings"),
        )
    except KeyError as error:
        raise CheckpointError(f"{where}: has no {error}") from error
    except TypeError as error:
        raise CheckpointError(f"{where}: a size is not a number ({error})") from error


def _scaling(rope: dict, where: Path) -> dict | None:
    """Llama 3's stretching of rotary positions, None for plain ones."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise CheckpointError(f"{where}: rope_scaling {kind!r} is not supported, only llama3")
    keys = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    return {key: float(rope[key]) for key in keys}


def names(model: LayerSplitLM) -> dict[str, str]:
    """Our names of the text half -> the hub's."""
    number, found = {model.config.locate_layer(i): i for i in range(model.config.layers)}, {}
    for ours in model.state_dict():
        part, _, rest = ours.partition(".")
        if part in ("trunk", "text_tail"):
            index, _, inner = rest.partition(".")
            found[ours] = f"model.layers.{number[part, int(index)]}.{inner}"
    found |= {"text_embed.weight": "model.embed_tokens.weight", "text_norm.weight": "model.norm.weight"}
    if not model.config.tied:
        found["text_head.weight"] = "lm_head.weight"
    return found
