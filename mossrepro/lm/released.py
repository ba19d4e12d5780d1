"""The released checkpoint's layout (fnlp/MOSS-Speech; names and shapes as in ports of its weights): read and write.

    ours                              released
    text_embed, speech_embed          model.embed_tokens, model.audio_embed
    trunk.i                           model.shared_block.layers.i
    text_tail.i, speech_tail.i        model.text_block.layers.i, model.audio_block.layers.i
    text_norm, speech_norm            model.text_norm, model.audio_norm
    text_head, speech_head            text_lm_head, audio_lm_head

At full size there are 446 tensors: 40 layers of 11, and 6 others.
"""

from pathlib import Path

from tokenizers import Tokenizer

from mossrepro.lm.checkpoint import build_config, build_unfilled
from mossrepro.lm.hub import ROTARY_BUFFERS
from mossrepro.lm.model import LayerSplitLM, LMConfig
from mossrepro.lm.tokenizer import SPARE_SPEECH_ROWS, SpecialIds, open_tokenizer
from mossrepro.utils import safetensors_io
from mossrepro.utils.errors import CheckpointError, ConfigError

ARCHITECTURE = "MossSpeechForCausalLM"
FIXED = ("num_shared_layers", "attention_bias", "hidden_act", "channels", "modality_pad_token_id", "sosp_token_id",
         "eosp_token_id", "audio_pad_token_id")  # fmt: skip
_PARTS = {
    "text_embed": "model.embed_tokens",
    "speech_embed": "model.audio_embed",
    "trunk": "model.shared_block.layers",
    "text_tail": "model.text_block.layers",
    "speech_tail": "model.audio_block.layers",
    "text_norm": "model.text_norm",
    "speech_norm": "model.audio_norm",
    "text_head": "text_lm_head",
    "speech_head": "audio_lm_head",
}


def names(model: LayerSplitLM) -> dict[str, str]:
    """Our tensors' names -> the released ones."""
    pairs = (ours.partition(".") for ours in model.state_dict())
    return {f"{part}.{rest}": f"{_PARTS[part]}.{rest}" for part, _, rest in pairs}


def is_released(folder: Path) -> bool:
    """Whether config.json says that a folder is in the released layout."""
    if not (folder / "config.json").is_file():
        return False
    return safetensors_io.architecture(safetensors_io.read_config(folder)) == ARCHITECTURE


def save(model: LayerSplitLM, tokenizer: Tokenizer, folder: str | Path, shard: str = "5GB") -> None:
    """Write a model in the released layout. A tied text head is written twice, and config.json says that it is tied."""
    if model.config.split_layer != len(model.trunk):
        raise ConfigError(f"split_at={model.config.split_at}: the released layout has its split behind the whole trunk")
    if model.config.extra_layers:
        raise ConfigError(
            f"extra_layers={model.config.extra_layers}: the released layout has new layers in a split only"
        )
    for name in ("ears", "mouth"):
        if getattr(model.config, name):
            raise ConfigError(f"{name}={getattr(model.config, name)}: the released layout has no place for it")
    state = model.state_dict()
    out = {theirs: state[ours] for ours, theirs in names(model).items()}
    if model.config.tied:  # two names of one tensor would be written once
        out["text_lm_head.weight"] = out["text_lm_head.weight"].clone()
    config = _described(model.config, tokenizer)
    safetensors_io.write(out, folder, shard, config, tokenizer.to_str(pretty=True))


def load(folder: str | Path) -> tuple[LayerSplitLM, Tokenizer]:
    """A folder in the released layout, mapped into memory in the file's precision.

    Raises CheckpointError for another layout, quantised weights, sizes that are not those of the weights, a missing
    shard or tensor, and unknown tensors.
    """
    folder = Path(folder)
    if not is_released(folder):
        raise CheckpointError(f"{folder / 'config.json'}: does not say {ARCHITECTURE}")
    where, source = folder / "config.json", safetensors_io.Shards(folder)
    plain, tokenizer = safetensors_io.read_config(folder), open_tokenizer(folder)
    try:
        config = build_config(_read(plain), where, len(source.names))
        expected = _described(config, tokenizer)
    except KeyError as error:
        raise CheckpointError(f"{where}: has no {error}") from error
    except TypeError as error:
        raise CheckpointError(f"{where}: a size is not a number ({error})") from error
    for key in FIXED:  # our model supports one value of each, and the ids are the tokenizer's
        if plain.get(key, expected[key]) != expected[key]:
            raise CheckpointError(f"{where}: {key}={plain[key]!r}, this model has {expected[key]!r}")
    model = build_unfilled(config, where)
    wanted = names(model)
    safetensors_io.refuse_unknown(folder, source.names - set(wanted.values()), ROTARY_BUFFERS)
    safetensors_io.fill_from(model, source, wanted)
    if config.tied:
        model.text_head.weight = model.text_embed.weight
    return model, tokenizer


def _described(config: LMConfig, tokenizer: Tokenizer) -> dict:
    """Our config and tokenizer as the contents of the released config.json."""
    ids = SpecialIds.of(tokenizer, config.codes)
    return {
        "architectures": [ARCHITECTURE],
        "model_type": "moss_speech",
        "vocab_size": config.text_vocab,
        "audio_vocab_size": config.speech_vocab,
        "hidden_size": config.dim,
        "intermediate_size": config.ffn_dim,
        "num_hidden_layers": config.layers,
        "num_shared_layers": config.layers - config.tail_layers,
        "num_modality_layers": config.tail_layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.eps,
        "rope_theta": config.theta,
        "rope_scaling": config.rope_scaling,
        **({} if config.max_positions is None else {"max_position_embeddings": config.max_positions}),
        "attention_bias": False,
        "hidden_act": "silu",
        "qk_norm": config.qk_norm,
        "tie_word_embeddings": config.tied,
        "channels": 2,
        "modality_pad_token_id": ids.pad,
        "sosp_token_id": ids.sosp,
        "eosp_token_id": ids.eosp,
        "audio_pad_token_id": ids.speech_pad,
        **({} if config.system_turns == "released" else {"mossrepro_system_turns": config.system_turns}),
    }


def _read(plain: dict) -> dict:
    """The released config.json -> fields of ours. KeyError for one that is not there."""
    return dict(
        dim=plain["hidden_size"],
        layers=plain["num_hidden_layers"],
        tail_layers=plain["num_modality_layers"],
        heads=plain["num_attention_heads"],
        kv_heads=plain["num_key_value_heads"],
        head_dim=plain["head_dim"],
        ffn_dim=plain["intermediate_size"],
        text_vocab=plain["vocab_size"],
        codes=plain["audio_vocab_size"] - SPARE_SPEECH_ROWS,
        theta=plain["rope_theta"],
        rope_scaling=plain.get("rope_scaling"),
        eps=plain["rms_norm_eps"],
        qk_norm=plain.get("qk_norm", True),  # the released model is a Qwen3
        tied=plain["tie_word_embeddings"],
        modality_pad=plain["modality_pad_token_id"],
        system_turns=plain.get("mossrepro_system_turns", "released"),
        max_positions=plain.get("max_position_embeddings"),
    )
