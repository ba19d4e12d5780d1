"""Adversarial training of the vocoder: networks that tell its sound from recordings, their losses, and a balance.

    recording, wave (B, N) --+--> multi-scale STFT discriminator (EnCodec) --+--> logits: is it a recording?
                             `--> multi-period discriminator (HiFi-GAN) -----'    features of every layer

Spectral distances are least for the mean of all sounds that fit a mel, which is a blurred one. Discriminators ask for
one of them instead. Sources: EnCodec (arXiv 2210.13438, section 3.4), HiFi-GAN (arXiv 2010.05646, section 2.3).
"""

import warnings
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from encodec.msstftd import MultiScaleSTFTDiscriminator
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from mossrepro.utils.distributed import mean_over_ranks, norm_over_ranks, world_size

FILTERS = 32  # of the STFT discriminator at width 1
PERIODS = (2, 3, 5, 7, 11)  # samples
CHANNELS = (32, 128, 512, 1024, 1024)  # of a period's layers at width 1
SHORTEST = 2048  # samples: a frame of the longest STFT
SLOPE = 0.2  # of the leaky ReLU, as in EnCodec's
LOUD = 0.05  # of full scale, about the level of speech; the networks' input is near 1


class Verdict(NamedTuple):
    """What the discriminators say of B waves: float32 logits and features of their layers, (B, ...) each."""

    logits: list[Tensor]  # one for each discriminator
    features: list[Tensor]  # one for each layer of each


class PeriodDiscriminator(nn.Module):
    """Looks at samples that lie a period apart: they are a column of an image, which no filter mixes with others.

    Args:
        period: samples.
        width: share of the usual channels.
    """

    def __init__(self, period: int, width: float):
        super().__init__()
        self.period = period
        channels = [1, *(max(1, round(width * count)) for count in CHANNELS)]
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(channels[i], channels[i + 1], (5, 1), (3 if i < 4 else 1, 1), (2, 0)))
            for i in range(len(CHANNELS))
        )
        self.last = weight_norm(nn.Conv2d(channels[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, wave: Tensor) -> tuple[Tensor, list[Tensor]]:
        """wave (B, N) -> logits (B, 1, rows, period), features of every layer (B, channels, rows, period)."""
        padded = F.pad(wave, (0, -wave.shape[-1] % self.period), "reflect")
        x = rearrange(padded, "b (rows period) -> b 1 rows period", period=self.period)
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), SLOPE)
            features.append(x)
        return self.last(x), features


class Discriminators(nn.Module):
    """EnCodec's multi-scale STFT discriminator and a multi-period one.

    Args:
        width: share of their usual channels; a quarter is what two CPU cores can pay for.
    """

    def __init__(self, width: float = 0.25):
        super().__init__()
        with warnings.catch_warnings():  # its weight norm is of an older kind
            warnings.simplefilter("ignore", FutureWarning)
            self.scales = MultiScaleSTFTDiscriminator(max(1, round(width * FILTERS)))
        self.periods = nn.ModuleList(PeriodDiscriminator(period, width) for period in PERIODS)
        _awaken(self)

    def forward(self, wave: Tensor) -> Verdict:
        """wave (B, N), N at least SHORTEST."""
        wave = wave / LOUD
        logits, features = self.scales(wave[:, None])
        for part in self.periods:
            one, more = part(wave)
            logits, features = [*logits, one], [*features, more]
        return Verdict([x.float() for x in logits], [x.float() for layers in features for x in layers])


@torch.no_grad()
def _awaken(network: nn.Module) -> None:
    """Scale the initial weights so that features keep their size through the leaky ReLUs.

    PyTorch's defaults make them 2.4 times smaller at every layer, and a few hundred steps would be spent on that.
    """
    gain = nn.init.calculate_gain("leaky_relu", SLOPE) * 3**0.5
    sizes = ("weight_g", "original0", "conv.weight")  # of both kinds of weight norm, and without
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
        elif name.endswith(sizes):
            parameter.mul_(gain)


def discriminator_loss(recorded: Verdict, made: Verdict) -> Tensor:
    """Hinge loss: logits above 1 are asked for recordings, below -1 for what was made. The mean of all discriminators.

    In a training on several ranks this and the losses below are those of all ranks' rows, which have one length.
    """
    pairs = zip(recorded.logits, made.logits, strict=True)
    parts = [F.relu(1 - real).mean() + F.relu(1 + fake).mean() for real, fake in pairs]
    return mean_over_ranks(torch.stack(parts), len(made.logits[0])).mean()


def adversarial_loss(made: Verdict) -> Tensor:
    """What the generator is told: the logits of what it made, negative. The mean of all discriminators."""
    return -mean_over_ranks(torch.stack([fake.mean() for fake in made.logits]), len(made.logits[0])).mean()


def feature_loss(recorded: Verdict, made: Verdict) -> Tensor:
    """Feature matching: L1 distance of a layer's features over the mean size of a recording's, the mean of all layers.

    No gradient reaches the features of the recording.
    """
    pairs = [(real.detach(), fake) for real, fake in zip(recorded.features, made.features, strict=True)]
    rows = len(made.features[0])
    apart = mean_over_ranks(torch.stack([F.l1_loss(fake, real) for real, fake in pairs]), rows)
    size = mean_over_ranks(torch.stack([real.abs().mean() for real, _ in pairs]), rows)
    return (apart / size.clamp_min(1e-3)).mean()


class Balancer(nn.Module):
    """Gradients of several losses at the generator's output, each as large as asked (EnCodec, section 3.4).

    The first loss keeps its gradient g. Of every other one, with the gradient g_i and the share s_i, comes
    s_i |g| / |g_i| g_i, where |.| is the running mean of norms. The balance is then that of the shares alone, whatever
    the scale of a loss is and however it changes.

    Args:
        shares: a loss's name -> its share; the first loss is not among them.
        decay: of the running means.
    """

    norms: Tensor
    steps: Tensor

    def __init__(self, shares: dict[str, float], decay: float = 0.99):
        super().__init__()
        self.shares, self.decay = shares, decay
        self.register_buffer("norms", torch.zeros(1 + len(shares)))
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, first: Tensor, others: dict[str, Tensor], output: Tensor) -> Tensor:
        """Losses () of output (B, N), a leaf -> the balanced gradient (B, N) at it. The losses' graphs are kept."""
        losses = [first, *(others[name] for name in self.shares)]
        gradients = [torch.autograd.grad(loss, output, retain_graph=True)[0] for loss in losses]
        with torch.no_grad():
            norms = torch.stack([norm_over_ranks(g.norm(), len(g)) for g in gradients]) / world_size()
            self.norms.lerp_(norms, 1 - self.decay)
            self.steps.add_(1)
            mean = (self.norms / (1 - self.decay**self.steps)).clamp_min(1e-12)
            sizes = [mean[0] / mean[i + 1] * share for i, share in enumerate(self.shares.values())]
            return sum((size * g for size, g in zip(sizes, gradients[1:], strict=True)), gradients[0])
