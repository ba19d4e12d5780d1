"""Reading and writing weights: a GGUF backbone, and our own safetensors folders."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from einops import EinopsError, rearrange
from tokenizers import Tokenizer
from torch import Tensor

from mossrepro.lm import lora
from mossrepro.lm.changes import CHANGES_OF, Changed, inherited
from mossrepro.lm.inner_ear import check_names
from mossrepro.lm.model import LayerSplitLM, LMConfig
from mossrepro.lm.tokenizer import SpecialIds, gguf_tokenizer, open_tokenizer
from mossrepro.utils import assets, safetensors_io
from mossrepro.utils.errors import CheckpointError, ConfigError
from mossrepro.utils.gguf import GGUFFile
from mossrepro.utils.old_names import LM_CONFIG, renamed
from mossrepro.utils.packs import find_folder
from mossrepro.utils.pretrained import UNBUILDABLE, check_settings
from mossrepro.utils.records import short

ROPE_SCALING = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")  # Llama 3's
_SMOLLM2_TENSORS = 272  # of which a folder of changes names only those that have changed
_GGUF_LAYER_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def build_config(plain: dict[str, Any], where: Path, tensors: int) -> LMConfig:
    """The fields of an `LMConfig` that a file gives, bounded and checked before anything is built.

    where: the file. tensors: how many tensors there are beside it; it cannot describe more layers. CheckpointError
    names the file and the field.
    """
    plain = check_settings(LMConfig, plain, where, tensors)
    try:
        config = LMConfig(**plain)
    except (ConfigError, TypeError) as error:
        raise CheckpointError(f"{where}: {error}") from error
    empty = next((name for name in ("dim", "heads", "ffn_dim", "text_vocab", "codes") if not getattr(config, name)), "")
    for wrong, problem in (
        (empty, f"{empty}=0"),
        (not config.kv_heads or config.heads % config.kv_heads, f"heads={config.heads}, kv_heads={config.kv_heads}"),
        (not config.head_dim or config.head_dim % 2, f"head_dim={config.head_dim}"),
        (config.theta <= 0, f"theta={config.theta}"),
        (config.eps < 0, f"eps={config.eps}"),
        (config.ears < 0 or (config.ears and len(config.user_turn or ()) < 2), f"user_turn={config.user_turn}"),
        (config.inner_layers and not (config.ears and config.inner_names), f"inner_names={config.inner_names}"),
        (config.inner_passes and not config.inner_layers, "inner_passes=True and no inner ear"),
        (config.mouth < 0 or (config.mouth and config.speech_from is None), f"speech_from={config.speech_from}"),
        (config.modality_pad >= config.text_vocab, f"modality_pad={config.modality_pad} of {config.text_vocab} tokens"),
        (_is_odd(config.rope_scaling), f"rope_scaling={config.rope_scaling}"),
    ):
        if wrong:
            raise CheckpointError(f"{where}: no model has {problem}; take the config.json of these weights")
    return config


def _is_odd(scaling: dict[str, float] | None) -> bool:
    """Whether a rotary scaling is none that `layers.stretched` can compute."""
    if scaling is None:
        return False
    if set(scaling) != set(ROPE_SCALING) or min(scaling.values()) <= 0:
        return True
    return scaling["low_freq_factor"] >= scaling["high_freq_factor"]


def build_unfilled(config: LMConfig, where: Path) -> LayerSplitLM:
    """The model of a config on the meta device, without memory. CheckpointError names the file `where`."""
    try:
        with torch.device("meta"):
            return LayerSplitLM(config)
    except UNBUILDABLE as error:
        raise CheckpointError(f"{where}: no model has these sizes ({str(error).splitlines()[0]})") from error


def load_gguf(path: Path, codes: int, tail_layers: int, split_at: int | None = None) -> tuple[LayerSplitLM, Tokenizer]:
    """Split a Llama-family GGUF (SmolLM2): the text half holds the file's weights, the speech half is untrained.

    Q4_1/Q8_0 blocks are dequantised to float32. CheckpointError for another architecture, and for a file whose sizes
    are not those of its tensors.
    """
    file = GGUFFile(path)
    if (kind := file.metadata.get("general.architecture")) != "llama":
        raise CheckpointError(f"{path}: architecture {kind!r} is not supported, only llama")
    tensors = {name: torch.from_numpy(array) for name, array in file.tensors().items()}
    try:
        tokenizer = gguf_tokenizer(path)
        config = _gguf_config(file, tensors, SpecialIds.of(tokenizer, codes).pad)
        weights = _gguf_to_hf(path, tensors, config)
    except KeyError as error:
        raise CheckpointError(f"{path}: has no {error}; fetch it again") from error
    except (TypeError, ValueError, ArithmeticError, EinopsError) as error:
        raise CheckpointError(f"{path}: sizes that do not fit its tensors ({str(error).splitlines()[0]})") from error
    config = replace(config, codes=codes, tail_layers=tail_layers, split_at=split_at)
    shapes = build_unfilled(config, path).state_dict()
    for name, weight in _text_half(weights, config).items():
        if name not in shapes or shapes[name].shape != weight.shape:
            raise CheckpointError(f"{path}: its sizes do not fit its tensors ({name} is {tuple(weight.shape)})")
    model = LayerSplitLM(config)
    load_text_half(model, weights)
    return model, tokenizer


def _gguf_config(file: GGUFFile, tensors: dict[str, Tensor], pad: int) -> LMConfig:
    """The metadata's sizes -> ours, for a codebook and a split to be chosen. KeyError for one that is not there."""
    field = file.metadata
    layers = safetensors_io.count_layers(file.path, tensors, "blk.")
    if field["llama.block_count"] != layers:
        raise CheckpointError(f"{file.path}: says {field['llama.block_count']} layers and holds {layers}")
    heads, dim = field["llama.attention.head_count"], field["llama.embedding_length"]
    plain = {
        "dim": dim,
        "layers": layers,
        "tail_layers": 0,
        "heads": heads,
        "kv_heads": field["llama.attention.head_count_kv"],
        "head_dim": dim // heads,
        "ffn_dim": field["llama.feed_forward_length"],
        "text_vocab": len(tensors["token_embd.weight"]),
        "theta": field["llama.rope.freq_base"],
        "eps": field["llama.attention.layer_norm_rms_epsilon"],
        "tied": "output.weight" not in tensors,
        "modality_pad": pad,
    }
    return build_config(plain, file.path, len(tensors))


def _gguf_to_hf(path: Path, tensors: dict[str, Tensor], config: LMConfig) -> dict[str, Tensor]:
    """Rename to Hugging Face's names and undo llama.cpp's permutation of q and k rows.

    Rotary pairs are neighbours in GGUF; here the first elements of all pairs come before the second ones.
    """
    names = {"token_embd.weight": "embed_tokens.weight", "output_norm.weight": "norm.weight"}
    if not config.tied:
        names["output.weight"] = "lm_head.weight"
    for i in range(config.layers):
        names |= {f"blk.{i}.{short}.weight": f"layers.{i}.{name}.weight" for short, name in _GGUF_LAYER_NAMES.items()}
    safetensors_io.refuse_unknown(path, set(tensors) - set(names))
    out, pairs = {theirs: tensors[name] for name, theirs in names.items()}, config.head_dim // 2
    for name, weight in out.items():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            out[name] = rearrange(weight, "(h pairs two) d -> (h two pairs) d", pairs=pairs, two=2)
    return out


def _text_half(weights: dict[str, Tensor], config: LMConfig) -> dict[str, Tensor]:
    """A plain LLM's weights (Hugging Face names, no prefix) under our names."""
    state = {"text_embed.weight": weights["embed_tokens.weight"], "text_norm.weight": weights["norm.weight"]}
    state["text_head.weight"] = weights.get("lm_head.weight", weights["embed_tokens.weight"])
    for name, weight in weights.items():
        if name.startswith("layers."):
            _, index, rest = name.split(".", 2)
            part, place = config.locate_layer(int(index))
            state[f"{part}.{place}.{rest}"] = weight
    return state


@torch.no_grad()
def load_text_half(model: LayerSplitLM, weights: dict[str, Tensor]) -> None:
    """Fill trunk, text tail, text embedding, norm and head from a plain LLM (Hugging Face names, no prefix)."""
    missing, unexpected = model.load_state_dict(_text_half(weights, model.config), strict=False)
    missing = [name for name in missing if not name.startswith("speech_")]
    if missing or unexpected:
        raise CheckpointError(f"backbone does not fit the model: missing {missing[:3]}, unexpected {unexpected[:3]}")


def save_pretrained(model: LayerSplitLM, tokenizer: Tokenizer, folder: Path) -> None:
    """Write model.safetensors, config.json and tokenizer.json; all of them or none, LoRA merged in."""
    state = lora.merged(model.state_dict())
    if model.config.tied:
        del state["text_head.weight"]
    safetensors_io.save_whole(folder, state, model.config.to_dict(), tokenizer.to_str(pretty=True))


def from_pretrained(folder: str | Path) -> tuple[LayerSplitLM, Tokenizer]:
    """Load what `save_pretrained` wrote, or a pack of its changes of SmolLM2 (`changes.py`).

    CheckpointError names the folder and the first key that does not fit. folder: as `utils.packs.find_folder` takes it;
    of a packed run the last stage.
    """
    folder = find_folder(folder, "sft")
    if not (folder / "model.safetensors").is_file():
        raise CheckpointError(f"{folder}: no model.safetensors; is this the folder of a finished stage?")
    raw, source = renamed(safetensors_io.read_config(folder), LM_CONFIG), safetensors_io.Shards(folder)
    changed, start = CHANGES_OF in raw, raw.pop(CHANGES_OF, None)
    tensors = len(source.names) + (_SMOLLM2_TENSORS if changed else 0)
    config = build_config(raw, folder / "config.json", tensors)
    if changed:
        source, tokenizer = _changed(source, start, config)
    model = build_unfilled(config, folder / "config.json")
    names = {name: name for name in model.state_dict() if not (config.tied and name == "text_head.weight")}
    safetensors_io.refuse_unknown(folder, source.names - set(names))
    safetensors_io.fill_from(model, source, names)  # mapped into memory: no second copy
    if model.config.tied:
        model.text_head.weight = model.text_embed.weight
    if model.inner_ear is not None:
        check_names(model.inner_ear.names, config.text_vocab, folder)
    return model, tokenizer if changed else open_tokenizer(folder)


def _changed(source: safetensors_io.Shards, start: Any, config: LMConfig) -> tuple[Changed, Tokenizer]:
    if start != "smollm2":
        what = f"changes_of={short(start)}, and only changes of smollm2 can be read"
        raise CheckpointError(f"{source.folder / 'config.json'}: {what}; take the whole weights")
    base, tokenizer = load_gguf(assets.get("smollm2"), 1, config.tail_layers, config.split_at)
    return Changed(source, inherited(base.state_dict())), tokenizer
