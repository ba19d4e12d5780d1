"""Initial weights of the encoder: those of a Whisper of any size, from a folder as on the Hugging Face hub.

The embedded Whisper base is the default (`speech.whisper.whisper_encoder_state`); the paper starts from large-v3:

    pretrained:
      class_path: mossrepro.codec.whisper.HubEncoder
      init_args: {folder: whisper-large-v3}
"""

from pathlib import Path

import torch
from torch import Tensor

from mossrepro.utils.errors import CheckpointError
from mossrepro.utils.safetensors_io import Shards, count_layers, read_config, refuse_unknown

NAMES = {  # ours: the hub's
    "attention_norm": "self_attn_layer_norm",
    "attention.q": "self_attn.q_proj",
    "attention.k": "self_attn.k_proj",
    "attention.v": "self_attn.v_proj",
    "attention.out": "self_attn.out_proj",
    "mlp_norm": "final_layer_norm",
    "mlp_in": "fc1",
    "mlp_out": "fc2",
}


# Sinusoids, which we compute, and the norm after all layers.
HARMLESS = r"embed_positions\.weight|layer_norm\.(weight|bias)"


class HubEncoder:
    """A callable that reads the encoder's weights, float32, named as `CausalEncoder.load_whisper` expects them.

    folder: holds config.json and model.safetensors, or shards with their index. A call raises CheckpointError if it
    is no Whisper, is quantised, or a tensor of the encoder is missing or unknown. Nothing but the encoder is read.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def __call__(self) -> dict[str, Tensor]:
        try:
            depth, shards = read_config(self.folder)["encoder_layers"], Shards(self.folder)
            prefix = "model.encoder." if "model.encoder.conv1.weight" in shards.names else "encoder."
            wanted = {f"{conv}.{end}": f"{conv}.{end}" for conv in ("conv1", "conv2") for end in ("weight", "bias")}
            if depth != (held := count_layers(self.folder, shards.names, f"{prefix}layers.")):
                raise CheckpointError(f"config.json says encoder_layers={depth!r}, the files hold {held}")
            for i in range(held):
                wanted |= {
                    f"layers.{i}.{ours}.{end}": f"layers.{i}.{theirs}.{end}"
                    for ours, theirs in NAMES.items()
                    for end in ("weight", "bias")
                }
            inside = {name.removeprefix(prefix) for name in shards.names if name.startswith(prefix)}
            refuse_unknown(self.folder, inside - set(wanted.values()), HARMLESS)
            return {ours: read(shards, prefix + theirs) for ours, theirs in wanted.items()}
        except (KeyError, CheckpointError) as error:
            raise CheckpointError(f"{self.folder}: not a Whisper of the hub ({error})") from error


def shape_of(shards: Shards, name: str) -> tuple[int, ...]:
    """The shape of what `read` returns."""
    no_bias = name not in shards.names and name.endswith("k_proj.bias")
    return shards.shape(name.replace("k_proj", "q_proj") if no_bias else name)


def read(shards: Shards, name: str) -> Tensor:
    """A tensor in float32; zeros for the bias of the keys, which Whisper does not have."""
    if name not in shards.names and name.endswith("k_proj.bias"):
        return torch.zeros(shape_of(shards, name))
    return shards[name].float()
