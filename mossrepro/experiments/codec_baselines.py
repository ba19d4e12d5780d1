"""`mossrepro eval codec`: the speech tokenizer beside baselines, all trained for about the same minutes.

    ours             causal encoder started from Whisper, one codebook, trained to tell phones
    reconstruction   the same network and bits, trained to give back the mel instead
    kmeans           no network: k-means on mel, the same bits
    acoustic         a small codec of encodec's SEANet networks, one codebook, the same bits
    acoustic_stack   the same with eight codebooks in a residual stack: eight times the bits
    finite           ours with finite scalar quantisation instead of a codebook (`--ablations`)
    distilled        ours, with distillation from Whisper's features: a deviation from the paper (`--ablations`)
    encodec          EnCodec at 24 kHz, where the user has its weights (`--encodec FILE`)
    adapted          ours, adapted to ten minutes of the recorded human speech (`$MOSSREPRO_HUMAN`, `mossrepro adapt`)

Ours and `reconstruction` start from Whisper's encoder, as the paper's does, the SEANet baselines from random weights.
All but EnCodec get the same recogniser on their codes. Everything is a cached, resumable stage of the graph.
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from matplotlib.figure import Figure
from rich.console import Console

from mossrepro.data import human
from mossrepro.data.corpus import load_clip, read_manifest
from mossrepro.data.synthesis import progress
from mossrepro.data.token_store import TokenWriter
from mossrepro.experiments.adapt import AdaptGraph, changed_codes
from mossrepro.experiments.stages import read_cost
from mossrepro.report.codec_tables import LEGEND, draw_robustness, robustness_table, tables
from mossrepro.training import metrics
from mossrepro.utils.audio import SAMPLE_RATE
from mossrepro.utils.devices import best_device
from mossrepro.utils.errors import MEASURING, ConfigError, require
from mossrepro.utils.io import copy_file, copy_files, write_atomic, write_json
from mossrepro.utils.random import rng

if TYPE_CHECKING:
    from mossrepro.evaluation.tokenizers import Tokenizer

ACOUSTIC = {"acoustic": 1, "acoustic_stack": 8}  # codebooks; the stack's 1,000 bit/s are near Mimi's 1,100
ADAPTED = 600  # seconds of recorded speech that our codec is adapted to
VERSION = 7  # raised when what is measured changes
FRAMES = 60_000  # mel frames of a code's length that k-means sees, at most


class BaselineGraph(AdaptGraph):
    """The stage graph of a size, with the baselines of its codec."""

    def reconstruction(self) -> Path:
        """Our network after another objective."""
        return self.fit("codec", data__corpus=self.codec_corpus(), model__objective="mel")

    def finite(self) -> Path:
        """Ours with finite scalar quantisation instead of a learnt codebook, as many codes."""
        levels = ",".join(map(str, finite_levels(self.size.codec.codes)))
        return self.fit("codec", data__corpus=self.codec_corpus(), model__network__levels=f"[{levels}]")

    def distilled(self) -> Path:
        """Ours, with distillation from Whisper's features (a deviation from the paper)."""
        teacher = "mossrepro.speech.whisper.whisper_teacher"
        return self.fit("codec", data__corpus=self.codec_corpus(), model__teacher=teacher, model__distil=1.0)

    def kmeans(self) -> Path:
        """k-means on the mel frames of the training clips."""
        corpus = self.codec_corpus()
        spec = {"corpus": corpus.name, "codes": self.size.codec.codes, "frames": FRAMES, "version": 3}
        return self.cached("kmeans", "kmeans", spec, lambda folder: _fit_kmeans(corpus, self.size.codec.codes, folder))

    def acoustic(self, codebooks: int) -> tuple[Path, Path, Path]:
        """The SEANet baseline, its codes of the corpus, and its recogniser."""
        corpus = self.codec_corpus()
        codec = self.fit("acoustic", data__corpus=corpus, model__network__codebooks=codebooks)
        spec = {"codec": codec.name, "corpus": corpus.name, "version": 3}
        tokens = self.cached("tokens", "acoustic-tokens", spec, lambda folder: _acoustic_codes(codec, corpus, folder))
        shell = self.cached("tokens", "acoustic-reader", spec, lambda folder: _acoustic_reader(codec, folder))
        return codec, tokens, self.read(shell, tokens)

    def human(self) -> Path | None:
        """The recorded human speech as a corpus, or None where there is none."""
        source = human.find()
        if source is None:
            return None
        spec = {"transcripts": (source / "transcripts.tsv").read_text(), "seconds": ADAPTED, "version": 2}
        return self.cached("human", "human", spec, lambda folder: human.make_corpus(folder, ADAPTED))


def finite_levels(codes: int) -> tuple[int, ...]:
    """Levels of about 2.5 bits each whose product is `codes`, a power of two: 1,024 -> 8 8 4 4."""
    bits = codes.bit_length() - 1
    if codes != 1 << bits:
        raise ConfigError(f"{codes} codes: finite scalar quantisation is compared at powers of two only")
    numbers = max(1, round(bits / 2.5))
    return tuple(1 << (bits // numbers + (i < bits % numbers)) for i in range(numbers))


def all_tokenizers(
    graph: BaselineGraph, encodec: Path | None, ablations: bool, alone: bool, at: torch.device
) -> list["Tokenizer"]:
    """All tokenizers, trained, on a device. Bad EnCodec weights are a CheckpointError or DataError before training."""
    from mossrepro.evaluation import tokenizers
    from mossrepro.vocoder.speech_decoder import SpeechDecoder

    late = [tokenizers.encodec(encodec, device=at)] if encodec else []
    ours = graph.codec()
    speaker = SpeechDecoder.from_pretrained(graph.flow(), graph.vocoder(), at)
    corpus = graph.codec_corpus()
    found = [tokenizers.semantic("ours", "our codec", graph.recogniser(), graph.tokenise(corpus, ours), speaker, at)]
    found[0].minutes = _minutes(ours)
    if alone:
        return found + late
    same_bits = [
        ("reconstruction", "our codec, trained by reconstruction", graph.reconstruction),
        ("kmeans", "k-means on mel", graph.kmeans),
    ]
    if ablations:
        same_bits += [
            ("finite", "our codec with finite scalar quantisation", graph.finite),
            ("distilled", "our codec, drawn to Whisper's features too", graph.distilled),
        ]
    for name, title, train in same_bits:
        codec = train()
        tokens = graph.tokenise(corpus, codec)
        found.append(tokenizers.semantic(name, title, graph.read(codec, tokens), tokens, device=at))
        found[-1].minutes = _minutes(codec)
    for name, codebooks in ACOUSTIC.items():
        codec, tokens, reader = graph.acoustic(codebooks)
        title = f"SEANet codec, {codebooks} codebook{'s' if codebooks > 1 else ''}"
        found.append(tokenizers.acoustic(name, title, codec, reader, tokens, at))
        found[-1].minutes = _minutes(codec)
    return found + late


def _minutes(folder: Path) -> float | None:
    """Minutes that a stage took; None where that is not known."""
    return read_cost(folder)["seconds"] / 60 or None


def compare(
    size: str,
    run: Path,
    changes: tuple[Any, ...] = (),
    encodec: Path | None = None,
    ablations: bool = False,
    alone: bool = False,
    device: str = "auto",
) -> None:
    """Train what is missing, measure all tokenizers (cached), and write facts and pictures into the run's folder.

    changes: see `StageGraph`. encodec: file with EnCodec's weights. ablations: also ours with other quantisers and
    objectives. alone: only our codec, without baselines. device: where tokenizers and judges compute.
    """
    require(*MEASURING)
    graph, place = BaselineGraph(size, *changes), best_device(device)
    console = Console(stderr=True)
    baselines, recorded = all_tokenizers(graph, encodec, ablations, alone, place), graph.human()
    adapted = graph.adapted(recorded) if recorded else None
    spec = {"tokenizers": [[r.name, str(r.store.folder.name) if r.store else r.weights] for r in baselines]}
    spec |= {"readers": [graph.recogniser().name, graph.flow().name, graph.vocoder().name], "version": VERSION}
    spec |= {"human": recorded.name if recorded else "", "adapted": adapted.name if adapted else ""}

    def measure(folder: Path) -> None:
        from mossrepro.evaluation import codec, tokenizers
        from mossrepro.evaluation.code_picture import draw

        benchmark = codec.CodecBenchmark(graph.codec_corpus(), folder, recorded, device)
        for name, clips in (("strangers", benchmark.unseen_speakers), ("assistant", benchmark.assistant)):
            codec.sound(benchmark, codec.ORIGINAL, name, clips, clips.waves)
        for tokenizer in baselines:
            console.print(f"  measuring {tokenizer.title}")
            codec.measure(benchmark, tokenizer)
        if not alone:
            _ratios(folder)
        codec.streamed(benchmark, baselines[0])
        console.print(f"  robustness: the worst condition is {codec.robustness(benchmark, baselines[0])}")
        if adapted:
            late = tokenizers.semantic("adapted", "our codec, adapted to ten minutes of it", adapted, device=place)
            _adaptation(benchmark, codec, late)
            metrics.record(folder, changed_codes(graph.recogniser(), adapted, graph.codec_corpus(), place))
        shown, wave = benchmark.assistant.clips[0], benchmark.assistant.waves[0]
        figure = Figure()
        draw(figure, wave, benchmark.assistant.phones[shown.id], baselines[0].encode(wave), shown.text)
        pictures = {"codes.png": figure, "robustness.png": draw_robustness(metrics.read_metrics(folder))}
        for name, picture in pictures.items():
            write_atomic(folder / name, lambda file, picture=picture: picture.savefig(file, format="png", dpi=130))

    measured = graph.cached("evaluation", "codec-comparison", spec, measure)
    copy_files(measured / "facts", run / "facts")
    for picture in ("codes.png", "robustness.png"):
        copy_file(measured / picture, run / picture)
    if not alone:
        sounding = {name: str(graph.acoustic(codebooks)[0]) for name, codebooks in ACOUSTIC.items()}
        write_json(run / "baselines.json", sounding)
    found = metrics.read_metrics(run)
    Console().print(*tables(found), LEGEND, robustness_table(found), sep="\n")


def _ratios(folder: Path) -> None:
    """Word error rate of the baselines at the same bit rate, divided by ours."""
    found = metrics.read_metrics(folder)
    ours = found["rival_ours_wer_strangers"].value
    for name in ("kmeans", "reconstruction", "acoustic"):
        ratio = found[f"rival_{name}_wer_strangers"].value / max(ours, 1e-9)
        title = f"word errors of {name} for each of ours, held-out voices"
        metrics.record(folder, metrics.Metric(f"rival_{name}_ratio", title, ratio, "x"))


def _adaptation(benchmark, codec, late: "Tokenizer") -> None:
    """Recorded speech of a speaker whom the codec was adapted to, other sentences: relative fall of the WER."""
    codes = [late.encode(wave) for wave in benchmark.human.waves]
    after = codec.words(benchmark, late, "recorded speech", benchmark.human, codes)
    before = metrics.read_metrics(benchmark.out)["rival_ours_wer_recorded_speech"].value
    title = "recorded speech: relative fall of the word error rate by adaptation to its speaker"
    metrics.record(benchmark.out, metrics.Metric("adaptation", title, 100 * (1 - after / max(before, 1e-9)), "%"))


def _fit_kmeans(corpus: Path, codes: int, folder: Path) -> None:
    from mossrepro.codec import CodecConfig, SpeechCodec
    from mossrepro.codec.kmeans import fit_mel

    torch.manual_seed(0)  # of the untrained recogniser that comes with it

    config = CodecConfig(codes=codes, front="mel")
    empty, frames = SpeechCodec(config), []
    clips = [clip for clip in read_manifest(corpus) if clip.split == "train"]
    for i in rng(0, "k-means").permutation(len(clips)):
        wave = torch.from_numpy(load_clip(corpus, clips[i], SAMPLE_RATE))[None]
        frames.append(empty.encoder(empty.features(wave))[0][0])
        if sum(map(len, frames)) >= FRAMES:
            break
    fit_mel(torch.cat(frames)[:FRAMES], config).save_pretrained(folder)


def _acoustic_codes(codec: Path, corpus: Path, folder: Path) -> None:
    from mossrepro.codec.acoustic import AcousticCodec
    from mossrepro.evaluation.tokenizers import acoustic_encoder

    model, clips = AcousticCodec.from_pretrained(codec).to(best_device()), read_manifest(corpus)
    encode = acoustic_encoder(model)
    with (
        TokenWriter(folder, model.config.codes * model.config.codebooks) as writer,
        progress("codes", len(clips)) as on,
    ):
        for clip in clips:
            if clip.id not in writer.done:
                writer.add([(clip.id, encode(load_clip(corpus, clip, 16_000)))])
            on(1)


def _acoustic_reader(codec: Path, folder: Path) -> None:
    from mossrepro.codec import CodecConfig
    from mossrepro.codec.acoustic import AcousticCodec

    torch.manual_seed(0)

    AcousticCodec.from_pretrained(codec).reader(CodecConfig()).save_pretrained(folder)


def main(args: argparse.Namespace) -> int:
    """`mossrepro eval codec`."""
    from mossrepro.training.runs import changes_of, run_folder
    from mossrepro.utils.threads import set_threads

    set_threads()
    compare(args.size, run_folder(args), changes_of(args), args.encodec, args.ablations, args.alone, args.device)
    return 0
