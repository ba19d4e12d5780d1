"""Speech tokenizers side by side: what is left of words, sounds, voices and prosody in a few bits a second.

Words are measured as in the paper (arXiv 2510.00499, tokenizer table): a recogniser is trained on the codes. Here every
tokenizer gets the same small recogniser, minutes and sentences of random words, where no language model can guess.
"""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import torch

from mossrepro.codec.data import phone_frames, speech_span
from mossrepro.codec.lexicon import Lexicon
from mossrepro.codec.model import SAMPLES_PER_CODE
from mossrepro.codec.recogniser_data import corpus_lexicon
from mossrepro.data.alignment import Phone, phone_times, read_phones
from mossrepro.data.codec_corpus import is_natural
from mossrepro.data.corpus import Clip, load_clip, read_manifest
from mossrepro.data.degrade import CONDITIONS
from mossrepro.evaluation import prosody, units
from mossrepro.evaluation.prosody import Prosody
from mossrepro.evaluation.tokenizers import Tokenizer
from mossrepro.speech.mos import predicted_mos
from mossrepro.speech.normalise import PHONES, normalise
from mossrepro.speech.roster import HELD_OUT, group_of
from mossrepro.speech.speaker import SpeakerEncoder, similarity
from mossrepro.speech.whisper import WhisperJudge
from mossrepro.training import metrics
from mossrepro.utils.audio import SAMPLE_RATE
from mossrepro.utils.devices import best_device
from mossrepro.utils.random import rng

DELAYS = (0.0, 0.04, 0.08, 0.12)  # seconds by which a code may name a sound late; each tokenizer is taken at its best
PROBED = 240  # training clips that the prosody probe is fitted on
RATED = 40  # recordings whose naturalness is predicted


# What the judges say of the recordings themselves: the best that any decoder can do.
ORIGINAL = Tokenizer("original", "the recordings", encode=lambda wave: wave, bits=256_000.0, streams=True)


@dataclass
class Clips:
    """Recordings of one kind, in memory: `phones` holds when each was spoken, as pocketsphinx hears it; for those that
    it cannot align there is nothing.
    """

    folder: Path
    clips: list[Clip]
    phones: dict[str, list[Phone]]
    waves: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.waves = self.waves or [load_clip(self.folder, clip, SAMPLE_RATE) for clip in self.clips]

    def where(self, keep: Callable[[Clip], bool]) -> "Clips":
        """The recordings whose clip `keep` accepts."""
        chosen = [i for i, clip in enumerate(self.clips) if keep(clip)]
        return Clips(self.folder, [self.clips[i] for i in chosen], self.phones, [self.waves[i] for i in chosen])

    @property
    def texts(self) -> list[str]:
        return [normalise(clip.text) for clip in self.clips]

    @property
    def said(self) -> list[str]:
        """Phones of every clip, as one string each; empty where they are not known."""
        return [" ".join(phone for phone, _, _ in self.phones.get(clip.id) or ()) for clip in self.clips]


class CodecBenchmark:
    """The recordings on which tokenizers are compared, the judge, and the folder for facts.

    corpus: the codec's corpus: voices held out by identity and the assistant say the same test sentences, and the
    former natural ones, a group of their own.
    human: a corpus of recorded speech, or None. device: that of the judges, a name for `best_device`.
    """

    def __init__(self, corpus: Path, out: Path, human: Path | None = None, device: str = "auto") -> None:
        self.device = best_device(device)
        self.corpus, self.out, self.human_folder = Path(corpus), Path(out), human
        manifest, self._phones = read_manifest(corpus), read_phones(phone_times(corpus))
        self.manifest = [clip for clip in manifest if self._phones.get(clip.id)]  # as everybody trains on
        test = [clip for clip in self.manifest if clip.split == "test"]
        self.test = Clips(self.corpus, [clip for clip in test if not is_natural(clip)], self._phones)
        self.groups = {name: self.test.where(partial(_is_of, name)) for name in (*HELD_OUT, "assistant")}
        self.groups["natural"] = Clips(self.corpus, [clip for clip in test if is_natural(clip)], self._phones)
        self.groups = {name: clips for name, clips in self.groups.items() if clips.clips}
        self.unseen_speakers, self.assistant = self.groups["strangers"], self.groups["assistant"]

    @cached_property
    def lexicon(self) -> Lexicon:
        return corpus_lexicon(self.corpus)

    @cached_property
    def human_lexicon(self) -> Lexicon:
        """The corpus's words and those of the recorded speech."""
        return corpus_lexicon(self.corpus, self.human_folder)

    @cached_property
    def human(self) -> Clips | None:
        """The half of the recorded speech that is never trained on, without texts that the other half has too."""
        if self.human_folder is None:
            return None
        clips = read_manifest(self.human_folder)
        trained = {normalise(clip.text) for clip in clips if clip.split == "train"}
        clips = [clip for clip in clips if clip.split == "test" and normalise(clip.text) not in trained]
        return Clips(self.human_folder, clips, read_phones(phone_times(self.human_folder)))

    @cached_property
    def judge(self) -> WhisperJudge:
        return WhisperJudge(self.device)

    @cached_property
    def speaker(self) -> SpeakerEncoder:
        return SpeakerEncoder.pretrained().to(self.device)

    @cached_property
    def probed(self) -> tuple[list[Clip], list[Prosody]]:
        """Training clips for the prosody probe, and the prosody of these and then of all test clips."""
        train = [clip for clip in self.manifest if clip.split == "train"]
        train = [train[i] for i in rng(0, "probe").permutation(len(train))[:PROBED]]
        waves = [load_clip(self.corpus, clip, SAMPLE_RATE) for clip in train] + self.test.waves
        return train, [prosody.measure(wave, -(-len(wave) // SAMPLES_PER_CODE)) for wave in waves]

    def record(self, tokenizer: Tokenizer, name: str, what: str, value: float, unit: str = "", **more: Any) -> None:
        """One number of one tokenizer: fact `rival_TOKENIZER_NAME`, letters, digits and underscores only."""
        id = re.sub(r"\W+", "_", f"rival_{tokenizer.name}_{name}").strip("_")
        metrics.record(self.out, metrics.Metric(id, f"{tokenizer.title}: {what}", value, unit, **more))


def _is_of(group: str, clip: Clip) -> bool:
    """Whether a voice of this group speaks; recorded speakers of a corpus of one's own count as strangers."""
    return (group_of(clip.speaker) or "strangers") == group


def measure(benchmark: CodecBenchmark, tokenizer: Tokenizer) -> None:
    """Everything that can be measured of one tokenizer."""
    note = lambda *fact, **more: benchmark.record(tokenizer, *fact, **more)  # noqa: E731
    note("bits", "bits a second", tokenizer.bits, "bit/s")
    if tokenizer.minutes is not None:
        note("minutes", "training", tokenizer.minutes, "min")
    note("streams", "streams (1 yes, 0 no)", float(tokenizer.streams))
    tokenizer.encode(benchmark.test.waves[0])  # the first call allocates
    started = time.perf_counter()
    codes = [tokenizer.encode(wave) for wave in benchmark.test.waves]
    seconds = sum(len(wave) for wave in benchmark.test.waves) / SAMPLE_RATE
    note("speed", "encoding, whole clips", seconds / (time.perf_counter() - started), "x real time", n=len(codes))
    by_clip = dict(zip((clip.id for clip in benchmark.test.clips), codes, strict=True))
    if tokenizer.store:
        usage(benchmark, tokenizer)
    if tokenizer.recogniser:
        for name, clips in benchmark.groups.items():
            known = (by_clip.get(clip.id) for clip in clips.clips)  # all but natural sentences
            rows = [tokenizer.encode(w) if row is None else row for row, w in zip(known, clips.waves, strict=True)]
            words(benchmark, tokenizer, name, clips, rows)
        meaning(benchmark, tokenizer, codes)
        prosody_left(benchmark, tokenizer, codes)
    if tokenizer.decode:
        for name, clips in (("strangers", benchmark.unseen_speakers), ("assistant", benchmark.assistant)):
            waves = tokenizer.decode([by_clip[clip.id] for clip in clips.clips])
            sound(benchmark, tokenizer, name, clips, waves)


def words(
    benchmark: CodecBenchmark, tokenizer: Tokenizer, name: str, clips: Clips, codes: Sequence[np.ndarray]
) -> float:
    """Record word and phone error rates of the recogniser on codes; returns the first, in per cent."""
    lexicon = benchmark.human_lexicon if clips is benchmark.human else benchmark.lexicon
    texts = [lexicon.spelt(text) for text in clips.texts]
    heard = [lexicon.spelt(tokenizer.recogniser.transcribe(row, lexicon)[0]) for row in codes]
    phones = [tokenizer.recogniser.transcribe(row)[0] for row in codes]
    wrong = 0.0
    for kind, spoken, found in (("phone", clips.said, phones), ("word", texts, heard)):
        wrong, low, high = error_rate(spoken, found)
        bounds = {"low": low, "high": high, "interval": "bootstrap over clips, 95 %"}
        n = sum(len(text.split()) for text in spoken)
        benchmark.record(tokenizer, f"{kind[0]}er_{name}", f"{kind} error rate, {name}", wrong, "%", n=n, **bounds)
    return wrong


def whisper(
    benchmark: CodecBenchmark, tokenizer: Tokenizer, name: str, clips: Clips, waves: Sequence[np.ndarray]
) -> None:
    """Record what Whisper base, which sees the whole sound and knows English, gets wrong on the same waves."""
    lexicon = benchmark.human_lexicon if clips is benchmark.human else benchmark.lexicon
    heard = [lexicon.spelt(normalise(text)) for text in benchmark.judge.transcribe(waves)]
    texts = [lexicon.spelt(text) for text in clips.texts]
    wrong, low, high = error_rate(texts, heard)
    bounds = {"low": low, "high": high, "interval": "bootstrap over clips, 95 %"}
    title = f"Whisper base on the same clips: word error rate, {name}"
    benchmark.record(tokenizer, f"whisper_wer_{name}", title, wrong, "%", n=len(" ".join(texts).split()), **bounds)


def error_rate(said: Sequence[str], heard: Sequence[str], draws: int = 2_000) -> tuple[float, float, float]:
    """Errors for 100 words, and the 95 % interval of a bootstrap over clips. Clips of unknown content are left out."""
    pairs = [(one, other) for one, other in zip(said, heard, strict=True) if one]
    counts = np.array([len(one.split()) for one, _ in pairs])
    wrong = np.array([jiwer.wer(one, other) for one, other in pairs]) * counts
    chosen = rng(0, "bootstrap").integers(len(pairs), size=(draws, len(pairs)))
    low, high = np.quantile(wrong[chosen].sum(1) / counts[chosen].sum(1), (0.025, 0.975))
    return tuple(float(100 * value) for value in (wrong.sum() / counts.sum(), low, high))


def usage(benchmark: CodecBenchmark, tokenizer: Tokenizer) -> None:
    """Share of codes in use and their perplexity, over the whole corpus; of several codebooks the first."""
    codes = np.concatenate([tokenizer.store[name][:: tokenizer.codebooks] for name in tokenizer.store])
    counts = np.bincount(codes, minlength=tokenizer.store.vocabulary // tokenizer.codebooks)
    found = units.describe(counts[:, None])
    benchmark.record(tokenizer, "used", "codes in use", 100 * found.used, "%", n=len(codes))
    benchmark.record(tokenizer, "perplexity", "perplexity of the codes", found.perplexity, "", n=len(codes))


def meaning(benchmark: CodecBenchmark, tokenizer: Tokenizer, codes: Sequence[np.ndarray]) -> None:
    """Phone purity and mutual information at the best delay, and spread of voices; of several codebooks the first."""
    first = [row[:: tokenizer.codebooks] for row in codes]
    size = tokenizer.recogniser.config.codes // tokenizer.codebooks
    found = []
    for delay in DELAYS:
        spoken = []
        for clip, wave in zip(benchmark.test.clips, benchmark.test.waves, strict=True):
            span = speech_span(wave)
            spoken.append(phone_frames(benchmark.test.phones.get(clip.id) or [], len(wave), span, span, delay))
        found.append(units.describe(units.contingency(zip(first, spoken, strict=True), size, 1 + len(PHONES))))
    best = max(found, key=lambda one: one.pnmi)
    benchmark.record(tokenizer, "purity", "phone purity", 100 * best.phone_purity, "%")
    benchmark.record(tokenizer, "pnmi", "share of the phones' entropy that a code tells", 100 * best.pnmi, "%")
    same, different = units.spread(benchmark.test.texts, first)
    benchmark.record(tokenizer, "spread", "edit distance of one text in two voices", same)
    benchmark.record(tokenizer, "spread_texts", "edit distance of two texts", different)


def prosody_left(benchmark: CodecBenchmark, tokenizer: Tokenizer, codes: Sequence[np.ndarray]) -> None:
    """R squared of linear probes for pitch and loudness, fitted on training clips, on the test clips."""
    train, found = benchmark.probed
    rows = [tokenizer.store[clip.id] for clip in train] + list(codes)
    with torch.inference_mode():
        frames = [tokenizer.recogniser.frames(torch.from_numpy(row)[None])[0].cpu().numpy() for row in rows]
    speakers = [clip.speaker for clip in [*train, *benchmark.test.clips]]
    pitch, energy = [one.pitch for one in found], [one.energy for one in found]
    for name, what, targets in (
        ("pitch", "variance of pitch that the codes explain", pitch),
        ("melody", "pitch around each speaker's own mean", prosody.centred(pitch, speakers)),
        ("energy", "variance of loudness that the codes explain", energy),
    ):
        share = prosody.explained(frames, targets, [i >= len(train) for i in range(len(rows))])
        benchmark.record(tokenizer, name, what, 100 * share, "%", n=len(codes))


def sound(
    benchmark: CodecBenchmark, tokenizer: Tokenizer, name: str, clips: Clips, waves: Sequence[np.ndarray]
) -> None:
    """The decoded sound: words (by Whisper), intelligibility, quality, voice, naturalness."""
    back = [wave[: len(old)] for wave, old in zip(waves, clips.waves, strict=True)]
    pairs = [(old[: len(new)], new) for old, new in zip(clips.waves, back, strict=True)]
    heard = 100 * jiwer.wer(clips.texts, [normalise(text) or "-" for text in benchmark.judge.transcribe(back)])
    found = [("back_wer", "word error rate by Whisper", heard, "%", len(back))]
    for key, what, values in (
        ("similarity", "speaker similarity", similarity(benchmark.speaker, *zip(*pairs, strict=True))),
        ("stoi", "STOI", stoi_scores(pairs)),
        ("pesq", "PESQ (wide band)", pesq_scores(pairs)),
        ("mos", "predicted MOS (DistillMOS)", predicted_mos(back[:RATED], benchmark.device)),
    ):
        if values:
            found.append((key, what, float(np.mean(values)), "", len(values)))
    for key, what, value, unit, n in found:
        benchmark.record(tokenizer, f"{key}_{name}", f"after resynthesis, {name}: {what}", value, unit, n=n)


def stoi_scores(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[float]:
    """STOI (0 to 1) of pairs (recording, what came back), 16 kHz samples (n,) each."""
    from torchmetrics.functional.audio import short_time_objective_intelligibility as stoi

    return [float(stoi(torch.from_numpy(new.copy()), torch.from_numpy(old.copy()), SAMPLE_RATE)) for old, new in pairs]


def pesq_scores(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[float]:
    """PESQ of every pair that it can rate; none where the package is missing (`pip install mossrepro[pesq]`)."""
    try:
        import pesq
    except ImportError:
        return []
    scores = []
    for old, new in pairs:
        try:
            scores.append(float(pesq.pesq(SAMPLE_RATE, old, new, "wb")))
        except pesq.PesqError:  # PESQ finds no utterance in it
            continue
    return scores


def streamed(benchmark: CodecBenchmark, tokenizer: Tokenizer) -> None:
    """How many codes of the test clips change when the sound comes in chunks of 80 ms (float32), and for how many of
    these the two nearest codes are not tied (1e-4).
    """
    codec, differ, clear, total = tokenizer.recogniser, 0, 0, 0
    for wave in benchmark.test.waves:
        session, sound = codec.listen(), torch.from_numpy(wave)[None].to(codec.device)
        codes = torch.cat([*(session.push(part) for part in sound.split(SAMPLES_PER_CODE, 1)), session.close()], 1)
        other = codes != codec.encode(sound)
        with torch.inference_mode():
            near = torch.cdist(codec.latents(codec.features(sound)), codec.quantiser.codebook[None])
        near = near.topk(2, largest=False).values
        differ += int(other.sum())
        clear += int((other & (near[..., 1] - near[..., 0] >= 1e-4)).sum())
        total += other.numel()
    what = "codes that differ when the sound comes in chunks of 80 ms"
    benchmark.record(tokenizer, "stream_differs", what, float(differ), "codes", n=total)
    benchmark.record(tokenizer, "stream_differs_clear", f"{what}, no near tie", float(clear), "codes", n=total)


def robustness(benchmark: CodecBenchmark, tokenizer: Tokenizer) -> str:
    """Word error rates of every group of voices under every condition, and of recorded speech; the worst's name.

    A condition of the strangers has the fact `wer_CONDITION`, of another group `wer_GROUP_CONDITION`. Beside each
    stands Whisper base on the same waves (`whisper_wer_...`). The worst of the strangers is a fact too.
    """
    found = {}
    for group, clips in benchmark.groups.items():
        whisper(benchmark, tokenizer, group, clips, clips.waves)
        for name, change in CONDITIONS.items():
            waves = [change(w, rng(0, name, i)) for i, w in enumerate(clips.waves)]
            wanted = name if group == "strangers" else f"{group} {name}"
            wrong = words(benchmark, tokenizer, wanted, clips, [tokenizer.encode(wave) for wave in waves])
            whisper(benchmark, tokenizer, wanted, clips, waves)
            if group == "strangers":
                found[name] = wrong
    if benchmark.human:
        clips = benchmark.human
        codes = [tokenizer.encode(wave) for wave in clips.waves]
        found["recorded speech"] = words(benchmark, tokenizer, "recorded speech", clips, codes)
        whisper(benchmark, tokenizer, "recorded speech", clips, clips.waves)
    worst = max(found, key=found.get)
    benchmark.record(tokenizer, "wer_worst", f"word error rate, the worst condition: {worst}", found[worst], "%")
    return worst
