"""Reading and writing weights: a GGUF backbone, and our own safetensors folders."""

import dataclasses
from pathlib import Path

import torch
from einops import rearrange
from tokenizers import Tokenizer
from torch import Tensor

from mossrepro.lm import lora
from mossrepro.lm.model import LayerSplitLM, LMConfig
from mossrepro.lm.tokenizer import SpecialIds, gguf_tokenizer, open_tokenizer
from mossrepro.utils import safetensors_io
from mossrepro.utils.errors import CheckpointError
from mossrepro.utils.gguf import GGUFFile
from mossrepro.utils.old_names import LM_CONFIG, renamed

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


def load_gguf(path: Path, codes: int, tail_layers: int, split_at: int | None = None) -> tuple[LayerSplitLM, Tokenizer]:
    """Split a Llama-family GGUF (SmolLM2): the text half holds the file's weights, the speech half is untrained.

    Q4_1/Q8_0 blocks are dequantised to float32. Raises CheckpointError for another architecture.
    """
    file = GGUFFile(path)
    field = file.metadata
    if field["general.architecture"] != "llama":
        raise CheckpointError(f"{path}: architecture {field['general.architecture']!r} is not supported, only llama")
    heads, dim = field["llama.attention.head_count"], field["llama.embedding_length"]
    tokenizer = gguf_tokenizer(path)
    tensors = {name: torch.from_numpy(array) for name, array in file.tensors().items()}
    config = LMConfig(
        dim=dim,
        layers=field["llama.block_count"],
        tail_layers=tail_layers,
        heads=heads,
        kv_heads=field["llama.attention.head_count_kv"],
        head_dim=dim // heads,
        ffn_dim=field["llama.feed_forward_length"],
        text_vocab=tensors["token_embd.weight"].shape[0],
        codes=codes,
        theta=field["llama.rope.freq_base"],
        eps=field["llama.attention.layer_norm_rms_epsilon"],
        tied="output.weight" not in tensors,
        modality_pad=SpecialIds.of(tokenizer, codes).pad,
        split_at=split_at,
    )
    model = LayerSplitLM(config)
    load_text_half(model, _gguf_to_hf(tensors, config))
    return model, tokenizer


def _gguf_to_hf(tensors: dict[str, Tensor], config: LMConfig) -> dict[str, Tensor]:
    """Rename to Hugging Face's names and undo the GGUF order of q and k rows.

    Rotary pairs are neighbours in GGUF; here the first elements of all pairs come before the second ones.
    """
    out = {"embed_tokens.weight": tensors["token_embd.weight"], "norm.weight": tensors["output_norm.weight"]}
    if "output.weight" in tensors:
        out["lm_head.weight"] = tensors["output.weight"]
    for i in range(config.layers):
        for short, name in _GGUF_LAYER_NAMES.items():
            weight = tensors[f"blk.{i}.{short}.weight"]
            if short in ("attn_q", "attn_k"):
                pairs = config.head_dim // 2
                weight = rearrange(weight, "(h pairs two) d -> (h two pairs) d", pairs=pairs, two=2)
            out[f"layers.{i}.{name}.weight"] = weight
    return out


@torch.no_grad()
def load_text_half(model: LayerSplitLM, weights: dict[str, Tensor]) -> None:
    """Fill trunk, text tail, text embedding, norm and head from a plain LLM (Hugging Face names, no prefix)."""
    state = {"text_embed.weight": weights["embed_tokens.weight"], "text_norm.weight": weights["norm.weight"]}
    state["text_head.weight"] = weights.get("lm_head.weight", weights["embed_tokens.weight"])
    for name, weight in weights.items():
        if name.startswith("layers."):
            _, index, rest = name.split(".", 2)
            part, place = model.config.locate_layer(int(index))
            state[f"{part}.{place}.{rest}"] = weight
    missing, unexpected = model.load_state_dict(state, strict=False)
    missing = [name for name in missing if not name.startswith("speech_")]
    if missing or unexpected:
        raise CheckpointError(f"backbone does not fit the model: missing {missing[:3]}, unexpected {unexpected[:3]}")


def save_pretrained(model: LayerSplitLM, tokenizer: Tokenizer, folder: Path) -> None:
    """Write model.safetensors, config.json and tokenizer.json; the weights are written atomically, LoRA merged in."""
    state = lora.merged(model.state_dict())
    if model.config.tied:
        del state["text_head.weight"]
    safetensors_io.save_whole(folder, state, model.config.to_dict())
    tokenizer.save(str(folder / "tokenizer.json"))


def from_pretrained(folder: Path) -> tuple[LayerSplitLM, Tokenizer]:
    """Load what `save_pretrained` wrote. CheckpointError names the folder and the first key that does not fit."""
    folder = Path(folder)
    if not (folder / "model.safetensors").is_file():
        raise CheckpointError(f"{folder}: no model.safetensors; is this the folder of a finished stage?")
    raw = renamed(safetensors_io.read_config(folder), LM_CONFIG)
    known = {f.name for f in dataclasses.fields(LMConfig)}
    if unknown := set(raw) - known:
        raise CheckpointError(f"{folder / 'config.json'}: unknown key {sorted(unknown)[0]!r}")
    try:
        with torch.device("meta"):
            model = LayerSplitLM(LMConfig(**raw))
    except TypeError as error:
        raise CheckpointError(f"{folder / 'config.json'}: a size is not a number ({error})") from error
    source = safetensors_io.Shards(folder)
    names = {name: name for name in model.state_dict() if not (model.config.tied and name == "text_head.weight")}
    if extra := source.names - set(names):
        raise CheckpointError(f"{folder}: {sorted(extra)[0]} is not part of this model")
    safetensors_io.fill_from(model, source, names)  # mapped into memory: no second copy
    if model.config.tied:
        model.text_head.weight = model.text_embed.weight
    return model, open_tokenizer(folder)
