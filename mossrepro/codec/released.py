"""The released tokenizer's files (fnlp/MOSS-Speech-Codec): load its encoder, save ours in the same layout.

A Whisper-VQ encoder: `encoder.conv1`, `encoder.conv2`, `encoder.layers.{i}.*` as the hub's Whisper names them (keys
have no bias) and `encoder.codebook.weight`, as wide as the layers. Known from ports of the released weights; we have
not seen the files themselves. Other tensors are refused, but for those of HARMLESS.
"""

from pathlib import Path

import torch

from mossrepro.codec.encoder import POOL, WHISPER_NAMES
from mossrepro.codec.model import CodecConfig, SpeechCodec
from mossrepro.codec.whisper import NAMES, read, shape_of
from mossrepro.utils.errors import CheckpointError, ConfigError
from mossrepro.utils.safetensors_io import Shards, count_layers, refuse_unknown, write

HEAD = 64  # width of a Whisper head, at every size
CONTEXT = 1_500  # frames that a layer looks back: 30 s, all that Whisper has positions for
_CODEBOOK = "encoder.codebook.weight"
# Tensors that may be there and do not change a code: positions (Whisper's sinusoids, which we compute, and those of
# layers after the codebook), averages that train the codebook, the norm after the last layer, and the decoder.
HARMLESS = r"encoder\.(embed_positions2?\.weight|ema_\w+|layer_norm\.(weight|bias))|decoder\..*"


def load(folder: str | Path) -> SpeechCodec:
    """The released encoder as a codec of ours, in evaluation mode; sizes follow from the tensors.

    It can encode and stream; its phone head and recogniser are untrained. CheckpointError when a tensor is missing,
    unknown, quantised, or has another shape.
    """
    folder = Path(folder)
    try:
        held = Shards(folder)
        width, mels, _ = held.shape("encoder.conv1.weight")
        layers = count_layers(folder, held.names, "encoder.layers.")
        names = _names(layers)
        refuse_unknown(folder, held.names - {*names.values(), _CODEBOOK}, HARMLESS)
        codes, code_dim = held.shape(_CODEBOOK)
        config = CodecConfig(
            codes=codes,
            code_dim=code_dim,
            dim=width,
            heads=max(1, width // HEAD),
            ffn_dim=held.shape("encoder.layers.0.fc1.weight")[0],
            layers=layers,
            slow_layers=0,
            window=CONTEXT,
            mels=mels,
            plain=True,
        )
        with torch.device("meta"):  # all shapes are compared before there is memory for one
            shapes = {ours: torch.empty(shape_of(held, theirs)) for ours, theirs in names.items()}
            SpeechCodec(config).encoder.load_whisper(shapes)
        codec = SpeechCodec(config)
        codec.encoder.load_whisper({ours: read(held, theirs) for ours, theirs in names.items()})
        codec.quantiser.codebook.copy_(held[_CODEBOOK].float())
    except (ValueError, RuntimeError, IndexError, CheckpointError, ConfigError) as error:
        raise CheckpointError(f"{folder}: not the released tokenizer's encoder ({error})") from error
    codec.quantiser.started.fill_(True)
    return codec.eval()


def save(codec: SpeechCodec, folder: str | Path) -> None:
    """Write a codec with plain=true in the released layout. ConfigError for others: they have parts that it lacks.

    The bias of the keys is dropped; it does not change the softmax over keys.
    """
    if not codec.config.plain or codec.config.levels:
        raise ConfigError("only a codec with plain=true and a learnt codebook fits the released layout")
    state, out = codec.state_dict(), {}
    for conv in ("conv1", "conv2"):
        for end in ("weight", "bias"):
            out[f"encoder.{conv}.{end}"] = state[f"encoder.{conv}.{end}"]
    for i in range(codec.config.layers):
        for ours, parts in WHISPER_NAMES.items():
            for end in ("weight", "bias"):
                pieces = state[f"encoder.layers.{i}.{ours}.{end}"].chunk(len(parts))
                for part, piece in zip(parts, pieces, strict=True):
                    if (part, end) != ("attention.k", "bias"):
                        out[f"encoder.layers.{i}.{NAMES[part]}.{end}"] = piece
    out[_CODEBOOK] = state["quantiser.codebook"]
    write(out, folder, config=_about(codec.config))


def _about(config: CodecConfig) -> dict:
    """The sizes under the names that Whisper's and the tokenizer's configurations give them."""
    return {
        "d_model": config.dim,
        "encoder_layers": config.layers,
        "encoder_attention_heads": config.heads,
        "encoder_ffn_dim": config.ffn_dim,
        "num_mel_bins": config.mels,
        "pooling_kernel_size": POOL,
        "quantize_vocab_size": config.codes,
        "encoder_causal_attention": config.causal,
        "encoder_causal_convolution": config.causal,
    }


def _names(layers: int) -> dict[str, str]:
    """`CausalEncoder.load_whisper`'s names -> the file's."""
    ends = ("weight", "bias")
    names = {f"{conv}.{end}": f"encoder.{conv}.{end}" for conv in ("conv1", "conv2") for end in ends}
    for i in range(layers):
        for ours, theirs in NAMES.items():
            names |= {f"layers.{i}.{ours}.{end}": f"encoder.layers.{i}.{theirs}.{end}" for end in ends}
    return names
