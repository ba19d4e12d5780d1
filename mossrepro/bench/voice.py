"""`mossrepro bench voice`: what it costs to speak while codes arrive, and what fewer steps of the flow save.

Other vocoders of as many parameters run beside ours.

The voice is a run's, or one of size `small` with random weights, whose speed is the same.
"""

import itertools
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from mossrepro.bench.timing import race
from mossrepro.bench.vocoders import race_vocoders
from mossrepro.data.token_store import TokenStore
from mossrepro.training.metrics import Metric, record
from mossrepro.training.runs import read_parts
from mossrepro.training.sizes import load_size
from mossrepro.utils.audio import mel24
from mossrepro.utils.devices import best_device, synchronise
from mossrepro.utils.packed_linear import pack_linear_layers
from mossrepro.utils.random import rng
from mossrepro.vocoder.flow import FRAMES, FlowDecoder
from mossrepro.vocoder.generator import Vocoder
from mossrepro.vocoder.sampling import FlowSampling
from mossrepro.vocoder.speech_decoder import SpeechDecoder

CHUNKS = (5, 25)  # codes
SOLVERS = (("euler", 1), ("euler", 2), ("euler", 4), ("euler", 10), ("midpoint", 2), ("midpoint", 5))
REFERENCE = 40  # Euler steps that others are compared with
CODES = 62  # of the utterance that is decoded with each solver, 5 s
PACKETS = 10  # first packets of a round


def bench_voice(out: Path, rounds: int = 7, run: Path | None = None, chunks: int = 20) -> None:
    """Streams of `chunks` chunks, and solvers in turns. Facts go into `out`.

    run: folder of a finished run; None: random weights. CheckpointError where it is not finished.
    """
    flow, vocoder = _of_run(run) if run else _of_small()
    codes = _codes(flow.codes, chunks * max(CHUNKS) + flow.look_ahead, run)
    asked = [flow.sampling._replace(chunk=chunk) for chunk in CHUNKS]
    counted = SpeechDecoder(flow, vocoder)  # packed weights are not counted
    flops = [_flops(counted, codes[: chunks * s.chunk], s) for s in asked]
    decoder = SpeechDecoder(*(pack_linear_layers(part.to(best_device())) for part in (flow, vocoder)))
    table = Table("chunk", "first packet", "codes it needs", "p95", "chunk 20 / chunk 1", "real-time factor", "FLOPs")
    for sampling, more in zip(asked, flops, strict=True):
        facts = _measured(decoder, codes, sampling, rounds, chunks) | {"flops": (more, "x", 1, "FLOPs beside offline")}
        for name, (value, unit, n, title) in facts.items():
            fact = Metric(
                f"bench_voice_{sampling.chunk}_{name}", f"chunks of {sampling.chunk}: {title}", value, unit, n=n
            )
            record(out, fact)
        if run:
            name, title = f"bench_voice_{sampling.chunk}_seams", "change of the mel at a seam beside that between codes"
            record(out, Metric(name, f"chunks of {sampling.chunk}: {title}", _seams(decoder, codes, sampling), "x"))
        shown = (facts[name] for name in ("first_p50", "first_codes", "first_p95", "growth", "real_time", "flops"))
        table.add_row(str(sampling.chunk), *(f"{value:.3g} {unit}" for value, unit, *_ in shown))
    Console().print(table)
    Console().print(_solvers(decoder, codes[:CODES], out, rounds, trained=run is not None))
    Console().print(race_vocoders(decoder.vocoder, out, rounds))


def _of_small() -> tuple[FlowDecoder, Vocoder]:
    size = load_size("small")
    flow, vocoder = size.flow, size.vocoder
    return (
        FlowDecoder(size.codec.codes, dim=flow.dim, blocks=flow.code_layers, flow_blocks=flow.layers),
        Vocoder(dim=vocoder.dim, fine_dim=vocoder.dim, blocks=vocoder.layers),
    )


def _of_run(run: Path) -> tuple[FlowDecoder, Vocoder]:
    parts = read_parts(run, ("flow", "vocoder"))
    return FlowDecoder.from_pretrained(parts["flow"]), Vocoder.from_pretrained(parts["vocoder"])


def _codes(book: int, count: int, run: Path | None) -> np.ndarray:
    """`count` codes: of a run's clips, one after the other, or random ones."""
    if run is None:
        return rng(0, "bench voice").integers(0, book, count)
    store = TokenStore(read_parts(run, ("tokens",))["tokens"])
    rows = [store[name] for name in itertools.islice(store, count)]
    return np.resize(np.concatenate(rows), count)


def _flops(decoder: SpeechDecoder, codes: np.ndarray, sampling: FlowSampling) -> float:
    """FLOPs of a stream to those of the same utterance decoded at once."""
    with FlopCounterMode(display=False) as offline:
        decoder.speak(codes)
    with FlopCounterMode(display=False) as streaming:
        session = decoder.session(sampling)
        session.push(codes), session.close()
    return streaming.get_total_flops() / offline.get_total_flops()


def _measured(
    decoder: SpeechDecoder, codes: np.ndarray, sampling: FlowSampling, rounds: int, chunks: int
) -> dict[str, tuple[float, str, int, str]]:
    """Value, unit, n and title of every fact about streams with these settings."""
    chunk, seconds, ahead = sampling.chunk, [], decoder.session(sampling).first_packet - sampling.chunk
    first, needed = _first_packets(decoder, codes, sampling, PACKETS * rounds + 1)
    for _ in range(rounds):
        session, row = decoder.session(sampling), []
        session.push(codes[:ahead])
        for i in range(chunks):
            row.append(_timed(lambda: session.push(codes[ahead + i * chunk : ahead + (i + 1) * chunk])))  # noqa: B023
        seconds.append(row)
    growth = np.median([row[-1] / row[0] for row in seconds])
    sound = chunks * chunk * decoder.samples_per_code / decoder.vocoder.rate
    title = "codes to the first samples"
    return {
        "growth": (float(growth), "x", rounds, f"cost of chunk {chunks} beside chunk 1"),
        "real_time": (float(np.median(np.sum(seconds, 1))) / sound, "x", rounds, "seconds of computing a second"),
        "first_p50": (1000 * float(np.quantile(first, 0.5)), "ms", len(first), f"{title}, median"),
        "first_p95": (1000 * float(np.quantile(first, 0.95)), "ms", len(first), f"{title}, 95 % of them"),
        "first_codes": (float(needed), "codes", 1, "codes that the first samples need"),
    }


def _first_packets(
    decoder: SpeechDecoder, codes: np.ndarray, sampling: FlowSampling, count: int
) -> tuple[list[float], int]:
    """Seconds from the last code that the first samples need to these samples, and how many codes they need.

    The first of all warms up and does not count.
    """
    seconds, needed = [], 0
    for _ in range(count):
        session = decoder.session(sampling)
        for needed in range(1, len(codes) + 1):
            came: list[int] = []
            took = _timed(lambda: came.append(len(session.push(codes[needed - 1 : needed]))))  # noqa: B023
            if came[0]:
                break
        seconds.append(took)
    return seconds[1:], needed


def _seams(decoder: SpeechDecoder, codes: np.ndarray, sampling: FlowSampling) -> float:
    """Change of the sound's log-mel from one frame to the next where chunks meet, to that where other codes meet."""
    session = decoder.session(sampling)
    wave = torch.from_numpy(np.concatenate([session.push(codes), session.close()]))
    flux = mel24(wave[None])[0].diff(dim=-1).abs().mean(0)[FRAMES - 1 :: FRAMES]  # (codes - 1,)
    seam = torch.arange(1, len(flux) + 1) % sampling.chunk == 0
    return (flux[seam].mean() / flux[~seam].mean()).item()


def _timed(call: Callable[[], object]) -> float:
    """Seconds of a call, until the device has done its work."""
    started = time.perf_counter()
    call()
    synchronise(best_device())
    return time.perf_counter() - started


def _solvers(decoder: SpeechDecoder, codes: np.ndarray, out: Path, rounds: int, trained: bool) -> Table:
    """Speed of every solver, and of a trained voice also how far its mel is from that of many steps."""
    row = torch.from_numpy(np.asarray(codes, np.int64))[None]
    plain, sound = decoder.flow.sampling, len(codes) * decoder.samples_per_code / decoder.vocoder.rate
    settings = {f"{solver}_{steps}": plain._replace(solver=solver, steps=steps) for solver, steps in SOLVERS}
    times = race({name: lambda s=s: decoder.flow(row, sampling=s) for name, s in settings.items()}, rounds)
    best = decoder.flow(row, sampling=plain._replace(solver="euler", steps=REFERENCE))
    table = Table("solver", "codes to mel, real-time factor", f"mel distance from {REFERENCE} steps")
    for name, sampling in settings.items():
        factor = float(np.median(times[name])) / sound
        title = f"{sampling.solver}, {sampling.steps} steps"
        record(out, Metric(f"bench_voice_{name}", f"codes to mel, seconds a second: {title}", factor, "x", n=rounds))
        gap = (decoder.flow(row, sampling=sampling) - best).abs().mean().item()
        if trained:
            record(
                out, Metric(f"bench_voice_{name}_distance", f"mel distance from {REFERENCE} steps: {title}", gap, "nat")
            )
        table.add_row(title, f"{factor:.3f}", f"{gap:.3f}" if trained else "")
    return table
