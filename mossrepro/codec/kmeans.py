"""k-means on log-mel: a tokenizer without a neural network, the baseline at the same bit rate.

    mel 100 Hz -> the 8 frames of a code side by side -> principal axes -> nearest of K centres

It is a `SpeechCodec` with front="mel": same codes a second, same files, same recogniser on top.
"""

import numpy as np
import torch
from scipy.cluster.vq import kmeans2
from torch import Tensor

from mossrepro.codec.model import CodecConfig, SpeechCodec
from mossrepro.utils.errors import DataError
from mossrepro.utils.random import rng


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
    centres, _ = kmeans2(narrow, spread_out(narrow, config.codes, seed), iter=rounds, minit="matrix", missing="warn")
    with torch.no_grad():
        codec.pre_quant_proj.weight.copy_(torch.from_numpy(axes.T.copy()))
        codec.pre_quant_proj.bias.copy_(torch.from_numpy(-mean @ axes))
        codec.quantiser.codebook.copy_(torch.from_numpy(centres))
        codec.quantiser.started.fill_(True)
    return codec


def spread_out(points: np.ndarray, count: int, seed: int) -> np.ndarray:
    """`count` of the points (N, C) by k-means++ (Arthur 2007): drawn by squared distance to the nearest one so far.

    scipy's k-means++ recomputes all distances for every centre: a quarter of an hour for 1,024 of 60,000 points.
    """
    random, chosen = rng(seed, "k-means++"), np.empty((count, points.shape[1]))
    far = np.full(len(points), np.inf)
    for i in range(count):
        share = far / far.sum() if i and far.any() else None
        chosen[i] = points[random.choice(len(points), p=share)]
        far = np.minimum(far, np.square(points - chosen[i]).sum(1))
    return chosen
