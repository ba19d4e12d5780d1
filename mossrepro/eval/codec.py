"""Speech tokenizers side by side: what is left of words, sounds, voices and prosody in a few bits a second.

Words are measured as the paper does (arXiv 2510.00499, tokenizer table): a recogniser is trained on the codes. Here all
get the same small recogniser, the same minutes and the same sentences of random words, which leave nothing to guess.
"""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import jiwer
import numpy as np
import torch

from mossrepro import facts
from mossrepro.asr import WhisperJudge
from mossrepro.codec.lexicon import Lexicon
from mossrepro.codec.model import RATE, SAMPLES_PER_CODE
from mossrepro.data.codec_data import phone_frames, speech_span
from mossrepro.data.corpus import Clip, load_clip, read_manifest
from mossrepro.data.degrade import CONDITIONS
from mossrepro.data.phones import Phone, phone_times, read_phones
from mossrepro.data.reader_data import corpus_lexicon
from mossrepro.eval import prosody, units
from mossrepro.eval.mos import predicted_mos
from mossrepro.eval.prosody import Prosody
from mossrepro.eval.speaker import SpeakerEncoder, similarity
from mossrepro.eval.tokenizers import Tokenizer
from mossrepro.order import rng
from mossrepro.spoken import PHONES, normalise

DELAYS = (0.0, 0.04, 0.08, 0.12)  # seconds by which a code may name a sound late; each tokenizer is taken at its best
PROBED = 240  # training clips that the prosody probe is fitted on
RATED = 40  # recordings whose naturalness is predicted


@dataclass
class Clips:
    """Recordings of one kind, in memory: `phones` holds when each was spoken, as pocketsphinx hears it."""

    folder: Path
    clips: list[Clip]
    phones: dict[str, list[Phone]]
    waves: list[np.ndarray] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.clips = [clip for clip in self.clips if self.phones.get(clip.id)]
        self.waves = self.waves or [load_clip(self.folder, clip, RATE) for clip in self.clips]

    def where(self, keep: Callable[[Clip], bool]) -> "Clips":
        """Those whose clip `keep` accepts."""
        chosen = [i for i, clip in enumerate(self.clips) if keep(clip)]
        return Clips(self.folder, [self.clips[i] for i in chosen], self.phones, [self.waves[i] for i in chosen])

    @property
    def texts(self) -> list[str]:
        return [normalise(clip.text) for clip in self.clips]

    @property
    def said(self) -> list[str]:
        """Phones of every clip, as one string each."""
        return [" ".join(phone for phone, _, _ in self.phones[clip.id]) for clip in self.clips]


class Contest:
    """The recordings on which tokenizers are compared, the judge, and the folder for facts.

    corpus: the codec's corpus: voices held out by identity and the assistant say the same test sentences.
    human: a corpus of recorded speech, or None.
    """

    def __init__(self, corpus: Path, out: Path, human: Path | None = None) -> None:
        self.corpus, self.out, self.human_folder = Path(corpus), Path(out), human
        manifest, self._phones = read_manifest(corpus), read_phones(phone_times(corpus))
        self.manifest = [clip for clip in manifest if self._phones.get(clip.id)]
        self.test = Clips(self.corpus, [c for c in self.manifest if c.split == "test"], self._phones)
        self.strangers = self.test.where(lambda clip: clip.speaker != "assistant")
        self.assistant = self.test.where(lambda clip: clip.speaker == "assistant")

    @cached_property
    def lexicon(self) -> Lexicon:
        return corpus_lexicon(self.corpus, *([self.human_folder] if self.human_folder else []))

    @cached_property
    def human(self) -> Clips | None:
        """The half of the recorded speech that nobody may train on."""
        if self.human_folder is None:
            return None
        clips = [clip for clip in read_manifest(self.human_folder) if clip.split == "test"]
        return Clips(self.human_folder, clips, read_phones(phone_times(self.human_folder)))

    @cached_property
    def judge(self) -> WhisperJudge:
        return WhisperJudge()

    @cached_property
    def speaker(self) -> SpeakerEncoder:
        return SpeakerEncoder.pretrained()

    @cached_property
    def probed(self) -> tuple[list[Clip], list[Prosody]]:
        """Training clips for the prosody probe, and the prosody of these and then of all test clips."""
        train = [clip for clip in self.manifest if clip.split == "train"]
        train = [train[i] for i in rng(0, "probe").permutation(len(train))[:PROBED]]
        waves = [load_clip(self.corpus, clip, RATE) for clip in train] + self.test.waves
        return train, [prosody.measure(wave, -(-len(wave) // SAMPLES_PER_CODE)) for wave in waves]

    def record(self, tokenizer: Tokenizer, name: str, what: str, value: float, unit: str = "", n: int | None = None):
        """One number of one tokenizer: fact `rival_TOKENIZER_NAME`, letters, digits and underscores only."""
        id = re.sub(r"\W+", "_", f"rival_{tokenizer.name}_{name}").strip("_")
        facts.record(self.out, facts.Fact(id, f"{tokenizer.title}: {what}", value, unit, n=n))


def measure(contest: Contest, tokenizer: Tokenizer) -> None:
    """Everything that can be measured of one tokenizer."""
    note = lambda *fact, **more: contest.record(tokenizer, *fact, **more)  # noqa: E731
    note("bits", "bits a second", tokenizer.bits, "bit/s")
    if tokenizer.minutes is not None:
        note("minutes", "training", tokenizer.minutes, "min")
    note("streams", "streams (1 yes, 0 no)", float(tokenizer.streams))
    started = time.perf_counter()
    codes = [tokenizer.encode(wave) for wave in contest.test.waves]
    seconds = sum(len(wave) for wave in contest.test.waves) / RATE
    note("speed", "encoding, whole clips", seconds / (time.perf_counter() - started), "x real time", n=len(codes))
    by_clip = dict(zip((clip.id for clip in contest.test.clips), codes, strict=True))
    if tokenizer.store:
        usage(contest, tokenizer)
    if tokenizer.reader:
        for name, clips in (("strangers", contest.strangers), ("assistant", contest.assistant)):
            words(contest, tokenizer, name, clips, [by_clip[clip.id] for clip in clips.clips])
        meaning(contest, tokenizer, codes)
        prosody_left(contest, tokenizer, codes)
    if tokenizer.decode:
        clips = contest.assistant if tokenizer.voices == "assistant" else contest.test
        sound(contest, tokenizer, clips, [by_clip[clip.id] for clip in clips.clips])


def words(contest: Contest, tokenizer: Tokenizer, name: str, clips: Clips, codes: Sequence[np.ndarray]) -> float:
    """Record word and phone error rates of the recogniser on codes; returns the first, in per cent."""
    heard = [tokenizer.reader.transcribe(row, contest.lexicon)[0] for row in codes]
    phones = [tokenizer.reader.transcribe(row)[0] for row in codes]
    wrong, missed = 100 * jiwer.wer(clips.texts, heard), 100 * jiwer.wer(clips.said, phones)
    for kind, errors, spoken in (("word", wrong, clips.texts), ("phone", missed, clips.said)):
        n = sum(len(text.split()) for text in spoken)
        contest.record(tokenizer, f"{kind[0]}er_{name}", f"{kind} error rate, {name}", errors, "%", n=n)
    return wrong


def usage(contest: Contest, tokenizer: Tokenizer) -> None:
    """Share of codes in use and their perplexity, over the whole corpus; of several books the first."""
    codes = np.concatenate([tokenizer.store[name][:: tokenizer.books] for name in tokenizer.store])
    counts = np.bincount(codes, minlength=tokenizer.store.vocabulary // tokenizer.books)
    found = units.describe(counts[:, None])
    contest.record(tokenizer, "used", "codes in use", 100 * found.used, "%", n=len(codes))
    contest.record(tokenizer, "perplexity", "perplexity of the codes", found.perplexity, "", n=len(codes))


def meaning(contest: Contest, tokenizer: Tokenizer, codes: Sequence[np.ndarray]) -> None:
    """Phone purity and mutual information at the best delay, and how far voices spread; of several books the first."""
    first = [row[:: tokenizer.books] for row in codes]
    size = tokenizer.reader.config.codes // tokenizer.books
    found = []
    for delay in DELAYS:
        spoken = []
        for clip, wave in zip(contest.test.clips, contest.test.waves, strict=True):
            span = speech_span(wave)
            spoken.append(phone_frames(contest.test.phones[clip.id], len(wave), span, span, delay))
        found.append(units.describe(units.contingency(zip(first, spoken, strict=True), size, 1 + len(PHONES))))
    best = max(found, key=lambda one: one.pnmi)
    contest.record(tokenizer, "purity", "phone purity", 100 * best.phone_purity, "%")
    contest.record(tokenizer, "pnmi", "share of the phones' entropy that a code tells", 100 * best.pnmi, "%")
    same, different = units.spread(contest.test.texts, first)
    contest.record(tokenizer, "spread", "edit distance of one text in two voices", same)
    contest.record(tokenizer, "spread_texts", "edit distance of two texts", different)


def prosody_left(contest: Contest, tokenizer: Tokenizer, codes: Sequence[np.ndarray]) -> None:
    """R squared of linear probes for pitch and loudness, fitted on training clips, on the test clips."""
    train, found = contest.probed
    rows = [tokenizer.store[clip.id] for clip in train] + list(codes)
    with torch.inference_mode():
        frames = [tokenizer.reader.frames(torch.from_numpy(row)[None])[0].numpy() for row in rows]
    speakers = [clip.speaker for clip in [*train, *contest.test.clips]]
    pitch, energy = [one.pitch for one in found], [one.energy for one in found]
    for name, what, targets in (
        ("pitch", "variance of pitch that the codes explain", pitch),
        ("melody", "the same around each speaker's mean pitch", prosody.centred(pitch, speakers)),
        ("energy", "variance of loudness that the codes explain", energy),
    ):
        share = prosody.explained(frames, targets, [i >= len(train) for i in range(len(rows))])
        contest.record(tokenizer, name, what, 100 * share, "%", n=len(codes))


def sound(contest: Contest, tokenizer: Tokenizer, clips: Clips, codes: Sequence[np.ndarray]) -> None:
    """What comes back from the codes: words (by Whisper), intelligibility, quality, voice, naturalness."""
    back = [wave[: len(old)] for wave, old in zip(tokenizer.decode(list(codes)), clips.waves, strict=True)]
    pairs = [(old[: len(new)], new) for old, new in zip(clips.waves, back, strict=True)]
    heard = 100 * jiwer.wer(clips.texts, [normalise(text) or "-" for text in contest.judge.transcribe(back)])
    contest.record(tokenizer, "back_wer", "word error rate after resynthesis, by Whisper", heard, "%", n=len(back))
    alike = similarity(contest.speaker, *zip(*pairs, strict=True))
    contest.record(tokenizer, "similarity", "speaker similarity after resynthesis", float(np.mean(alike)), n=len(back))
    contest.record(tokenizer, "stoi", "STOI after resynthesis", float(np.mean(_stoi(pairs))), n=len(back))
    rated = predicted_mos(back[:RATED])
    natural = "predicted MOS after resynthesis (DistillMOS)"
    contest.record(tokenizer, "mos", natural, float(np.mean(rated)), n=len(rated))
    quality = _pesq(pairs)
    if quality:
        value = float(np.mean(quality))
        contest.record(tokenizer, "pesq", "PESQ (wide band) after resynthesis", value, n=len(quality))


def _stoi(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[float]:
    from torchmetrics.functional.audio import short_time_objective_intelligibility as stoi

    return [float(stoi(torch.from_numpy(new.copy()), torch.from_numpy(old.copy()), RATE)) for old, new in pairs]


def _pesq(pairs: Sequence[tuple[np.ndarray, np.ndarray]]) -> list[float]:
    """PESQ of every pair that it can rate; none where the package is missing (`pip install mossrepro[pesq]`)."""
    try:
        import pesq
    except ImportError:
        return []
    scores = []
    for old, new in pairs:
        try:
            scores.append(float(pesq.pesq(RATE, old, new, "wb")))
        except pesq.PesqError:  # nothing that it takes for an utterance
            continue
    return scores


def robustness(contest: Contest, tokenizer: Tokenizer) -> str:
    """Word error rates of held-out voices under every condition, and of recorded speech; returns the worst's name."""
    found = {}
    for name, change in CONDITIONS.items():
        waves = [change(w, rng(0, name, i)) for i, w in enumerate(contest.strangers.waves)]
        codes = [tokenizer.encode(wave) for wave in waves]
        found[name] = words(contest, tokenizer, name, contest.strangers, codes)
    if contest.human:
        codes = [tokenizer.encode(wave) for wave in contest.human.waves]
        found["recorded speech"] = words(contest, tokenizer, "recorded speech", contest.human, codes)
    return max(found, key=found.get)
