"""`mossrepro bench`: speed beside what a user would pick instead, in one process, in turns.

Other programs' architectures run with random weights: only their time is measured.
"""

import statistics
from inspect import signature
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from mossrepro.bench.timing import race
from mossrepro.codec.model import SAMPLES_PER_CODE, CodecConfig, SpeechCodec
from mossrepro.training import metrics
from mossrepro.utils.audio import SAMPLE_RATE
from mossrepro.utils.devices import best_device
from mossrepro.utils.errors import ConfigError
from mossrepro.utils.random import rng

THEIRS = 24_000  # Hz, of Mimi and of EnCodec


def bench_codec(out: Path, seconds: float = 8.0, rounds: int = 7, config: CodecConfig | None = None) -> None:
    """Encoding speed: 80 ms chunks against Mimi, whole recordings against EnCodec at 24 kHz. Facts go into `out`."""
    ours, mimi, encodec = SpeechCodec(config or CodecConfig()), _mimi(), _encodec()
    sizes = {"ours": _parts(ours.encoder, ours.pre_quant_proj)}
    device = best_device()
    ours.prepare_for_inference(device).quantiser.codebook.normal_()
    mimi.to(device), encodec.to(device)
    waves = {rate: torch.from_numpy(_noise(seconds, rate))[None].to(device) for rate in (SAMPLE_RATE, THEIRS)}

    @torch.inference_mode()
    def whole() -> None:
        encodec.encode(waves[THEIRS][None])

    pairs = {
        "stream": (
            "Mimi, 80 ms chunks",
            lambda: _listen(ours, waves[SAMPLE_RATE]),
            lambda: _follow(mimi, waves[THEIRS]),
        ),
        "offline": ("EnCodec, whole recordings", lambda: ours.encode(waves[SAMPLE_RATE]), whole),
    }
    sizes |= {"stream": _parts(mimi.encoder), "offline": _parts(encodec.encoder)}
    table = Table("encoding", "ours, x real time", "theirs, x real time", "faster by", "parameters: ours, theirs")
    for kind, (other, mine, theirs) in pairs.items():
        times = race({"mine": mine, "theirs": theirs}, rounds)
        ratios = sorted(b / a for a, b in zip(times["mine"], times["theirs"], strict=True))
        speeds = {name: seconds / statistics.median(values) for name, values in times.items()}
        middle, low, high = statistics.median(ratios), ratios[0], ratios[-1]
        title = f"encoding speed against {other}"
        metrics.record(out, metrics.Metric(f"bench_{kind}", title, middle, "x", low, high, "all rounds", rounds))
        for name, speed in speeds.items():
            title = f"encoding, {other if name == 'theirs' else 'ours beside ' + other}"
            metrics.record(out, metrics.Metric(f"bench_{kind}_{name}", title, speed, "x real time", n=rounds))
        table.add_row(
            other,
            f"{speeds['mine']:.1f}",
            f"{speeds['theirs']:.1f}",
            f"{middle:.2f} ({low:.2f}-{high:.2f})",
            f"{sizes['ours'] / 1e6:.1f} M, {sizes[kind] / 1e6:.1f} M",
        )
    Console().print(table)


def _noise(seconds: float, rate: int) -> np.ndarray:
    return 0.1 * rng(0, "bench", rate).standard_normal(int(seconds * rate), dtype="float32")


def _parts(*modules: nn.Module) -> int:
    """Parameters of the parts that encode."""
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def _listen(codec: SpeechCodec, wave: Tensor) -> None:
    session = codec.listen()
    for chunk in wave.split(SAMPLES_PER_CODE, dim=1):
        session.push(chunk)


@torch.inference_mode()
def _follow(mimi: nn.Module, wave: Tensor) -> None:
    """Mimi in its own streaming mode, with its caches for convolutions and attention."""
    # transformers 5.24 calls the cache of keys and values by another name
    cache = "encoder_cache" if "encoder_cache" in signature(mimi.encode).parameters else "encoder_past_key_values"
    past = padding = None
    for chunk in wave[:, None].split(THEIRS * SAMPLES_PER_CODE // SAMPLE_RATE, dim=2):
        out = mimi.encode(chunk, **{cache: past}, padding_cache=padding, use_streaming=True)
        past, padding = getattr(out, cache), out.padding_cache


def _mimi() -> nn.Module:
    try:
        from transformers import MimiConfig, MimiModel
    except ImportError as error:
        raise ConfigError("bench codec runs Mimi's architecture from transformers: pip install transformers") from error
    return MimiModel(MimiConfig(num_quantizers=8)).eval()


def _encodec() -> nn.Module:
    from encodec import EncodecModel

    model = EncodecModel.encodec_model_24khz(pretrained=False).eval()
    model.set_target_bandwidth(1.5)
    return model
