"""k-means on log-mel: the tokenizer that needs no training, as a rival at the same bit rate.

    mel 100 Hz -> the 8 frames of a code side by side -> principal axes -> nearest of K centres

It is a `SpeechCodec` with front="mel": same codes a second, same files, same recogniser on top.
"""

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor

from mossrepro.codec.model import CodecConfig, SpeechCodec
from mossrepro.errors import DataError


def fit_mel(frames: Tensor, config: CodecConfig, seed: int = 0, rounds: int = 20) -> SpeechCodec:
    """A codec with front="mel" whose axes and centres fit `frames` (N, 8 mels), as `SpeechCodec.encoder` stacks them.

    Raises DataError when there are fewer frames than codes.
    """
    if len(frames) < config.codes:
        raise DataError(f"{len(frames)} frames are too few to place {config.codes} codes")
    codec = SpeechCodec(config).eval()
    points = frames.numpy().astype(np.float64)
    mean = points.mean(0)
    _, axes = np.linalg.eigh(np.cov((points - mean).T))
    axes = axes[:, ::-1][:, : config.code_dim]
    narrow = (points - mean) @ axes
    centres, _ = kmeans2(narrow, config.codes, iter=rounds, minit="++", missing="warn", seed=seed)
    with torch.no_grad():
        codec.narrow.weight.copy_(torch.from_numpy(axes.T.copy()))
        codec.narrow.bias.copy_(torch.from_numpy(-mean @ axes))
        codec.quantiser.codebook.copy_(torch.from_numpy(centres))
        codec.quantiser.started.fill_(True)
    return codec
