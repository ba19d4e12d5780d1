"""Backbones from the Hugging Face hub: folders of the Llama and the Qwen3 family, to be split.

The model is built on the meta device and every tensor is mapped from its shard, so that no second copy is ever made.
"""

from dataclasses import replace
from pathlib import Path

from tokenizers import Tokenizer

from mossrepro.lm.checkpoint import ROPE_SCALING, build_config, build_unfilled
from mossrepro.lm.model import LayerSplitLM, LMConfig
from mossrepro.lm.tokenizer import SpecialIds, open_tokenizer
from mossrepro.utils.errors import CheckpointError
from mossrepro.utils.safetensors_io import (
    Shards,
    architecture,
    count_layers,
    fill_from,
    read_config,
    refuse_unknown,
)

ARCHITECTURES = {"LlamaForCausalLM": False, "Qwen3ForCausalLM": True}  # name: has norms on queries and keys
# Tensors that may be there: tables of rotary positions in old folders, which follow from `theta`; and where config.json
# ties head and embedding, a second copy of the embedding as lm_head.weight.
ROTARY_BUFFERS = r".*rotary_emb\.inv_freq"
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
    is neither plain nor Llama 3's, biases, quantised weights, sizes that are not those of the weights, a missing shard
    or tensor, and unknown tensors.
    """
    folder = Path(folder)
    where, shards = folder / "config.json", Shards(folder)
    tokenizer, plain = open_tokenizer(folder), read_config(folder)
    config = _config(plain, where, SpecialIds.of(tokenizer, codes).pad, shards)
    config = replace(config, codes=codes, tail_layers=tail_layers, split_at=split_at)
    model = build_unfilled(config, where)
    wanted = names(model)
    tied_head = "|lm_head.weight" if config.tied else ""
    refuse_unknown(folder, shards.names - set(wanted.values()), ROTARY_BUFFERS + tied_head)
    fill_from(model, shards, wanted)
    if config.tied:
        model.text_head.weight = model.text_embed.weight
    speech = [model.speech_embed, model.speech_tail, model.speech_norm, model.speech_head]
    dtype = model.text_embed.weight.dtype
    for module in speech:
        module.to_empty(device="cpu").to(dtype)
    return model, tokenizer


def _config(plain: dict, where: Path, pad: int, shards: Shards) -> LMConfig:
    """The hub's names for sizes -> ours, for a codebook and a split to be chosen."""
    name = architecture(plain)
    if name not in ARCHITECTURES:
        raise CheckpointError(f"{where}: architecture {name!r} is not supported, only {', '.join(ARCHITECTURES)}")
    for key, known in PLAIN.items():
        if plain.get(key, known[0]) not in known:
            raise CheckpointError(f"{where}: {key}={plain[key]!r} is not supported, only {known[0]!r}")
    try:
        heads, dim, layers = plain["num_attention_heads"], plain["hidden_size"], plain["num_hidden_layers"]
        rope = plain.get("rope_parameters") or {"rope_theta": plain.get("rope_theta", 10_000.0)}
        sizes = {
            "dim": dim,
            "layers": layers,
            "tail_layers": 0,
            "heads": heads,
            "kv_heads": plain.get("num_key_value_heads", heads),
            "head_dim": plain.get("head_dim") or dim // heads,
            "ffn_dim": plain["intermediate_size"],
            "text_vocab": shards.shape("model.embed_tokens.weight")[0],
            "theta": rope["rope_theta"],
            "rope_scaling": _scaling(plain.get("rope_scaling") or rope, where),
            "eps": plain["rms_norm_eps"],
            "qk_norm": ARCHITECTURES[name],
            "tied": plain.get("tie_word_embeddings", "lm_head.weight" not in shards.names),
            "modality_pad": pad,
            "max_positions": plain.get("max_position_embeddings"),
        }
    except KeyError as error:
        raise CheckpointError(f"{where}: has no {error}") from error
    except (TypeError, AttributeError, ArithmeticError, IndexError) as error:
        raise CheckpointError(f"{where}: a size is not a number ({error})") from error
    config, held = build_config(sizes, where, len(shards.names)), count_layers(where, shards.names, "model.layers.")
    if layers != held:
        raise CheckpointError(f"{where}: num_hidden_layers={layers}, but the files hold {held} layers")
    return config


def _scaling(rope: dict, where: Path) -> dict | None:
    """Llama 3's stretching of rotary positions, None for plain ones."""
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    if kind != "llama3":
        raise CheckpointError(f"{where}: rope_scaling {kind!r} is not supported, only llama3")
    return {key: rope[key] for key in ROPE_SCALING}


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
