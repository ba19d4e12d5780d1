"""`mossrepro adapt CORPUS`: the tokenizer of a size learns a speaker, a microphone or an accent from recordings.

What it costs everybody else is measured too: the share of codes of the held-out test clips that change.
"""

import argparse
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from mossrepro.codec.model import SpeechCodec
from mossrepro.codec.recogniser_data import corpus_lexicon
from mossrepro.data.alignment import phone_times, read_phones
from mossrepro.data.corpus import Clip, load_clip, read_manifest
from mossrepro.experiments.graph import StageGraph
from mossrepro.speech.normalise import normalise
from mossrepro.training import metrics
from mossrepro.training.runs import changes_of, read_parts, run_folder, write_record
from mossrepro.utils.audio import SAMPLE_RATE
from mossrepro.utils.devices import best_device
from mossrepro.utils.errors import MEASURING, DataError, require
from mossrepro.utils.io import write_json


class AdaptGraph(StageGraph):
    """The stage graph of a size, with its tokenizer adapted to recordings."""

    def adapted(self, own: Path, codec: bool = False) -> Path:
        """The tokenizer after recordings (a corpus folder): its recogniser, or with `codec` its encoder too.

        The codebook is the old one, so that language models which were trained on it can still be used.
        """
        corpus, before = self.codec_corpus(), self.recogniser()
        phone_times(own, cached=self._cached_data)
        if codec:
            return self.fit("adapt_codec", model__codec=before, data__own=own, data__corpus=corpus)
        stores = {"data__tokens": self.tokenise(corpus, self.codec()), "data__own_tokens": self.tokenise(own, before)}
        return self.fit("adapt", model__codec=before, data__own=own, data__corpus=corpus, **stores)


def main(args: argparse.Namespace) -> int:
    """Adapt, measure before and after, and write the tokenizer, and a run that hears with it if the size has one."""
    from mossrepro.utils.threads import set_threads

    require(*MEASURING)
    set_threads()
    check_recordings(args.corpus)
    graph, own, out = AdaptGraph(args.size, *changes_of(args)), args.corpus.absolute(), args.output
    after = graph.adapted(own, args.codec)
    tokenizer = out / "tokenizer"
    SpeechCodec.from_pretrained(after).save_pretrained(tokenizer)
    found = compare(graph.recogniser(), after, own, graph.codec_corpus(), args.device)
    for metric in found:
        metrics.record(out, metric)
    Console().print(_table(found))
    base = _base_run(args)
    if (base / "parts.json").is_file():
        hearing = dict.fromkeys(("codec", "recogniser"), str(tokenizer.absolute()))
        write_record(out, graph.size.name)
        write_json(out / "parts.json", read_parts(base, ()) | hearing)
        print(f"talk to it with `mossrepro talk --run {out} QUESTION.wav`", file=sys.stderr)
    print(tokenizer)
    return 0


def _base_run(args: argparse.Namespace) -> Path:
    """The run whose tokenizer is adapted: settings of the adaptation itself are none of its own."""
    changes = [change for change in args.set or () if not change.startswith("adapt")]
    return run_folder(argparse.Namespace(**{**vars(args), "set": changes or None}))


def check_recordings(corpus: Path) -> None:
    """DataError unless a corpus has clips to learn from, to watch it by, and to measure it on."""
    splits = {clip.split for clip in read_manifest(corpus)}
    for split in ("train", "valid", "test"):
        if split not in splits:
            raise DataError(f"{corpus}: no {split} clips; `mossrepro data add` deals them, from 20 recordings on")


def compare(before: Path, after: Path, own: Path, corpus: Path, device: str = "auto") -> list[metrics.Metric]:
    """Word and phone errors on the recordings' test clips by two tokenizers, and the codes that changed elsewhere."""
    place, lexicon = best_device(device), corpus_lexicon(corpus, own)
    old, new = (SpeechCodec.from_pretrained(folder).prepare_for_inference(place) for folder in (before, after))
    clips = [clip for clip in read_manifest(own) if clip.split == "test"]
    phones, found = read_phones(phone_times(own)), []
    for name, codec in (("before", old), ("after", new)):
        codes = [encode(codec, own, clip) for clip in clips]
        found += _errors(name, codec, codes, clips, lexicon, phones)
    return [*found, changed_codes(before, after, corpus, place)]


def changed_codes(before: Path, after: Path, corpus: Path, place: torch.device) -> metrics.Metric:
    """The share of codes of a corpus's test clips that two tokenizers write differently."""
    old, new = (SpeechCodec.from_pretrained(folder).prepare_for_inference(place) for folder in (before, after))
    clips = [clip for clip in read_manifest(corpus) if clip.split == "test"]
    pairs = [(encode(old, corpus, clip), encode(new, corpus, clip)) for clip in clips]
    total = sum(len(a) for a, _ in pairs)
    changed = 100 * sum(int((a != b).sum()) for a, b in pairs) / max(total, 1)
    title = "codes of the corpus's test clips that adaptation changed"
    return metrics.Metric("adaptation_changed", title, changed, "%", n=total)


def encode(codec: SpeechCodec, corpus: Path, clip: Clip) -> torch.Tensor:
    """The codes (T,) of a clip, in main memory."""
    return codec.encode(torch.from_numpy(load_clip(corpus, clip, SAMPLE_RATE))[None])[0].cpu()


def _errors(name: str, codec: SpeechCodec, codes: list, clips: list[Clip], lexicon, phones: dict) -> list:
    from mossrepro.evaluation.codec import error_rate

    heard = [lexicon.spelt(codec.transcribe(row, lexicon)[0]) for row in codes]
    sounds = [codec.transcribe(row)[0] for row in codes]
    texts = [lexicon.spelt(normalise(clip.text)) for clip in clips]
    said = [" ".join(phone for phone, _, _ in phones.get(clip.id) or ()) for clip in clips]
    out = []
    for kind, spoken, read in (("word", texts, heard), ("phone", said, sounds)):
        wrong, low, high = error_rate(spoken, read)
        n = sum(len(text.split()) for text in spoken)
        title, bounds = f"recordings held out, {kind} error rate {name} adaptation", {"low": low, "high": high}
        out.append(metrics.Metric(f"adaptation_{kind[0]}er_{name}", title, wrong, "%", n=n, **bounds))
    return out


def _table(found: list[metrics.Metric]) -> Table:
    table = Table("what", "value", "95 %", "n", title="adaptation")
    for one in found:
        bounds = f"{one.low:.1f}-{one.high:.1f}" if one.low is not None else ""
        table.add_row(one.name, f"{one.value:.1f} {one.unit}", bounds, str(one.n or ""))
    return table
