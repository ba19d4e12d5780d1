"""Initial weights of the encoder: those of a Whisper of any size, from a folder as on the Hugging Face hub.

The embedded Whisper base is the default (`speech.whisper.whisper_encoder_state`); the paper starts from large-v3:

    pretrained:
      class_path: mossrepro.codec.whisper.HubEncoder
      init_args: {folder: whisper-large-v3}
"""

import json
from pathlib import Path

import torch
from torch import Tensor

from mossrepro.utils.errors import CheckpointError
from mossrepro.utils.safetensors_io import Shards

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


class HubEncoder:
    """A callable that reads the encoder's weights, float32, named as `CausalEncoder.load_whisper` expects them.

    folder: holds config.json and model.safetensors, or shards with their index. A call raises CheckpointError if it
    is no Whisper or a tensor is missing. Nothing but the encoder is read.
    """

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def __call__(self) -> dict[str, Tensor]:
        try:
            config = json.loads((self.folder / "config.json").read_text())
            depth = int(config["encoder_layers"])
            shards = Shards(self.folder)
            prefix = "model.encoder." if "model.encoder.conv1.weight" in shards.names else "encoder."
            wanted = {f"{conv}.{end}": f"{conv}.{end}" for conv in ("conv1", "conv2") for end in ("weight", "bias")}
            for i in range(depth):
                wanted |= {
                    f"layers.{i}.{ours}.{end}": f"layers.{i}.{theirs}.{end}"
                    for ours, theirs in NAMES.items()
                    for end in ("weight", "bias")
                }
            return {ours: read(shards, prefix + theirs) for ours, theirs in wanted.items()}
        except (OSError, ValueError, KeyError, CheckpointError) as error:
            raise CheckpointError(f"{self.folder}: not a Whisper of the hub ({error})") from error


def read(shards: Shards, name: str) -> Tensor:
    """A tensor in float32; zeros for the bias of the keys, which Whisper does not have."""
    if name not in shards.names and name.endswith("k_proj.bias"):
        return torch.zeros(shards.shape(name.replace("k_proj", "q_proj")))
    return shards[name].float()
