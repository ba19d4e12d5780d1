"""Predicted mean opinion score: how natural a recording sounds, 1 to 5, scored by a network (DistillMOS, 2502.05356).

The scales of such networks differ from each other and from people's: compare scores of one network only.
"""

from collections.abc import Sequence

import numpy as np
import torch

from mossrepro.utils import assets
from mossrepro.utils.devices import CPU


@torch.inference_mode()
def predicted_mos(waves: Sequence[np.ndarray], device: torch.device = CPU) -> list[float]:
    """16 kHz waves (n,) -> a score each, computed on `device`.

    AssetError when the package that holds the network is missing.
    """
    weights = assets.get("distillmos")
    from distillmos import ConvTransformerSQAModel

    model = ConvTransformerSQAModel(load_weights=False).eval()
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True)["model"])
    model.to(device)
    return [float(model(torch.from_numpy(np.asarray(wave, np.float32))[None].to(device))) for wave in waves]
