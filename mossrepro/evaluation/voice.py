"""Where the quality of the voice is lost: a fixed list of utterances, on every way from the recording back to sound.

    original      the recordings: the best that any way can do
    griffin_lim   their mel, without a network: the least that a vocoder should beat
    copy          their mel -> vocoder
    coarse        their codes -> the flow decoder's first guess of the mel -> vocoder
    flow          their codes -> flow decoder -> vocoder, as it is set to speak
    euler_1 ...   the same with other numbers of steps; chunk_5, chunk_25, whole: in other chunks

The list is 40 sentences and 100 bare words in the assistant's voice, none of which is said in training. The words are
such that Whisper hears them in the synthesiser's recordings.
"""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mossrepro.evaluation.artifacts import RATED, RunArtifacts
from mossrepro.evaluation.codec import error_rate, pesq_scores, stoi_scores
from mossrepro.evaluation.voice_prompt import measure_prompts
from mossrepro.speech import voices
from mossrepro.speech.mos import predicted_mos
from mossrepro.speech.normalise import normalise
from mossrepro.training.metrics import Metric, read_metrics, wilson
from mossrepro.training.step_data import announce
from mossrepro.utils.audio import SAMPLE_RATE, VOICE_HOP, VOICE_SAMPLE_RATE, mel24, resample
from mossrepro.utils.devices import synchronise
from mossrepro.utils.random import rng
from mossrepro.utils.records import read_json
from mossrepro.utils.spectral import spectral_loss
from mossrepro.vocoder.flow import FRAMES, FlowDecoder
from mossrepro.vocoder.generator import Vocoder
from mossrepro.vocoder.griffin_lim import griffin_lim
from mossrepro.vocoder.pitch import measure_pitch
from mossrepro.vocoder.sampling import FlowSampling, whole_codes

LIST = Path(__file__).with_name("voice_list.json")
STEPS = (1, 2, 4, 10)  # Euler steps
CHUNKS = (5, 25, 0)  # codes; 0: whole utterances
DRAWS = 2_000  # of a bootstrap
PROMPTED = 4  # sentences that are spoken in the voice of each prompt


class VoiceList(NamedTuple):
    """What is said: sentences, and words that stand alone."""

    sentences: list[str]
    words: list[str]


def read_list(trained: Sequence[str] = ()) -> VoiceList:
    """The fixed list, without texts that are in training (`trained`); those left out are announced."""
    known = {normalise(text) for text in trained}
    whole = VoiceList(**read_json(LIST))
    kept = VoiceList(*([text for text in part if normalise(text) not in known] for part in whole))
    lost = sum(map(len, whole)) - sum(map(len, kept))
    if lost:
        announce(f"{LIST.name}: {lost} of its texts are left out, since the training says them too")
    return kept


@dataclass
class Utterances:
    """The list as the assistant's recordings: sentences first, then words."""

    texts: list[str]
    sentences: int  # how many of them are sentences
    waves: list[Tensor]  # (T * 1920,) at 24 kHz, whole codes
    codes: list[Tensor] = field(default_factory=list)  # (T,) each

    @functools.cached_property
    def mels(self) -> list[Tensor]:
        """(80, 4 T) each."""
        return [mel24(wave[None])[0] for wave in self.waves]

    @functools.cached_property
    def pitch(self) -> list[Tensor]:
        """(4 T,) each, in Hz, 0 where unvoiced."""
        return [measure_pitch(wave[None], VOICE_SAMPLE_RATE, VOICE_HOP)[0] for wave in self.waves]


def record_list(chosen: VoiceList) -> Utterances:
    """Speak the list in the assistant's voice; the codes are still missing."""
    texts = [*chosen.sentences, *chosen.words]
    return Utterances(texts, len(chosen.sentences), [whole_codes(voices.say(text)[0]) for text in texts])


@dataclass
class Way:
    """One way back to sound: its name in facts, its title, and what it makes of the utterances, 24 kHz (n,) each."""

    name: str
    title: str
    speak: Callable[[], list[np.ndarray]]


@torch.inference_mode()
def vocoded(vocoder: Vocoder, mels: Sequence[Tensor]) -> list[np.ndarray]:
    """Mels (80, F) each -> samples (480 F,) each."""
    device = next(vocoder.parameters()).device
    waves = (vocoder(mel[None].to(device))[0].float().cpu().numpy() for mel in mels)
    return [np.clip(wave, -1.0, 1.0) for wave in waves]


@torch.inference_mode()
def flow_mels(flow: FlowDecoder, codes: Sequence[Tensor], sampling: FlowSampling) -> list[Tensor]:
    """Codes (T,) each -> mels (80, 4 T) each."""
    return [flow(row[None], sampling=sampling)[0].cpu() for row in codes]


@torch.inference_mode()
def coarse_mels(flow: FlowDecoder, codes: Sequence[Tensor]) -> list[Tensor]:
    """Codes (T,) each -> what the encoder alone makes of them (80, 4 T), where the flow starts."""
    found = []
    for row in codes:
        valid = torch.ones(1, len(row), dtype=torch.bool, device=flow.mean.device)
        hidden = flow.encoder(row[None].to(flow.mean.device), valid, flow.sampling.context)
        found.append((flow.coarse_mel(hidden).transpose(1, 2) * flow.std + flow.mean)[0].cpu())
    return found


def ways(flow: FlowDecoder, vocoder: Vocoder, said: Utterances, others: dict[str, Vocoder]) -> list[Way]:
    """All ways of the table. `others`: more vocoders by name, each from the true mel and from the codes."""

    @functools.cache
    def mels(sampling: FlowSampling) -> list[Tensor]:
        return flow_mels(flow, said.codes, sampling)

    def spoken(sampling: FlowSampling, by: Vocoder = vocoder) -> Callable[[], list[np.ndarray]]:
        return lambda: vocoded(by, mels(sampling))

    now = flow.sampling
    found = [
        Way("original", "the recordings", lambda: [wave.numpy() for wave in said.waves]),
        Way("griffin_lim", "true mel, Griffin-Lim", lambda: [griffin_lim(m[None])[0].numpy() for m in said.mels]),
        Way("copy", "true mel, vocoder", lambda: vocoded(vocoder, said.mels)),
        Way("coarse", "codes, coarse mel, vocoder", lambda: vocoded(vocoder, coarse_mels(flow, said.codes))),
        Way("flow", "codes, flow, vocoder", spoken(now)),
    ]
    for steps in STEPS:
        sampling = now._replace(solver="euler", steps=steps)
        found.append(Way(f"euler_{steps}", f"codes, {steps} Euler step{'s' * (steps > 1)}", spoken(sampling)))
    for chunk in CHUNKS:
        title = f"codes, chunks of {chunk}" if chunk else "codes, whole utterances"
        found.append(Way(f"chunk_{chunk}" if chunk else "whole", title, spoken(now._replace(chunk=chunk))))
    for name, other in others.items():
        found.append(Way(f"copy_{name}", f"true mel, vocoder {name}", functools.partial(vocoded, other, said.mels)))
        found.append(Way(f"flow_{name}", f"codes, flow, vocoder {name}", spoken(now, other)))
    return found


@dataclass
class Heard:
    """What was measured of a way, utterance by utterance; empty where it was not."""

    mos: list[float]  # of sentences
    texts: list[str]  # of all, normalised
    right: list[bool]  # of words


class VoiceBenchmark:
    """The list, the way of every run to speak it, and where the facts go.

    artifacts: the run's parts.
    """

    def __init__(self, artifacts: RunArtifacts):
        self.artifacts = artifacts
        trained = [line.text for line in artifacts.lines if line.voice == "assistant" and line.split == "train"]
        self.said = record_list(read_list(trained))
        self.said.codes = [self._codes(wave) for wave in self.said.waves]
        self._judged: dict[bytes, Heard] = {}  # the same sound is judged once
        self.heard: dict[str, Heard] = {}

    def _codes(self, wave: Tensor) -> Tensor:
        low = torch.from_numpy(resample(wave.numpy(), VOICE_SAMPLE_RATE, SAMPLE_RATE))
        codes = self.artifacts.codec.encode(low[None])[0].cpu()
        return codes[: len(wave) // (FRAMES * VOICE_HOP)]

    def note(self, way: Way, key: str, what: str, value: float, unit: str = "", **more: object) -> None:
        """Record the fact `voice_WAY_KEY`."""
        self.artifacts.record(Metric(f"voice_{way.name}_{key}", f"{way.title}: {what}", value, unit, **more))

    def measure(self, way: Way) -> None:
        """Everything that can be measured of a way."""
        waves = way.speak()
        self.heard[way.name] = heard = self._listen(waves)
        if heard.mos:
            self.note(way, "mos", "predicted MOS of sentences (DistillMOS)", **mean_of(heard.mos))
        n = self.said.sentences
        texts = [normalise(text) for text in self.said.texts[:n]]
        wrong, low, high = error_rate(texts, heard.texts[:n])
        words = sum(len(text.split()) for text in texts)
        bounds = {"low": low, "high": high, "interval": "bootstrap over clips, 95 %", "n": words}
        self.note(way, "wer", "word error rate of sentences (Whisper)", wrong, "%", **bounds)
        low, high = wilson(sum(heard.right), len(heard.right))
        bounds = {"low": 100 * low, "high": 100 * high, "interval": "Wilson 95 %", "n": len(heard.right)}
        self.note(way, "words", "bare words understood (Whisper)", 100 * float(np.mean(heard.right)), "%", **bounds)
        if way.name != "original":
            self._compare(way, waves)

    def _listen(self, waves: list[np.ndarray]) -> Heard:
        key = b"".join(wave.tobytes() for wave in waves)
        if key not in self._judged:
            n, low = self.said.sentences, [resample(wave, VOICE_SAMPLE_RATE, SAMPLE_RATE) for wave in waves]
            texts = [normalise(text) for text in self.artifacts.judge.transcribe(low)]
            mos = predicted_mos(low[: min(n, RATED)], self.artifacts.device)
            right = [understood(one, text) for one, text in zip(self.said.texts[n:], texts[n:], strict=True)]
            self._judged[key] = Heard(mos, texts, right)
        return self._judged[key]

    def _compare(self, way: Way, waves: list[np.ndarray]) -> None:
        """Distances from the recordings: of sentences, which have the same length in time."""
        n = self.said.sentences
        pairs = [(old[: len(new)], torch.from_numpy(new)) for old, new in zip(self.said.waves[:n], waves, strict=False)]
        mel = [(mel24(old[None]) - mel24(new[None])).abs().mean().item() for old, new in pairs]
        self.note(way, "mel", "mel distance of sentences", **mean_of(mel), unit="nat")
        stft = [spectral_loss(new[None], old[None]).item() for old, new in pairs]
        self.note(way, "stft", "multi-resolution STFT distance of sentences", **mean_of(stft))
        cents, same = pitch_errors(self.said.pitch[:n], [new for _, new in pairs])
        self.note(way, "pitch", "pitch error where both are voiced, median", cents, "cents", n=n)
        self.note(way, "voicing", "frames whose voicing is right", 100 * same, "%", n=n)
        low = [tuple(resample(wave.numpy(), VOICE_SAMPLE_RATE, SAMPLE_RATE) for wave in pair) for pair in pairs]
        for key, what, values in (("stoi", "STOI", stoi_scores(low)), ("pesq", "PESQ (wide band)", pesq_scores(low))):
            if values:
                self.note(way, key, f"{what} of sentences", **mean_of(values))

    def conclude(self) -> None:
        """What follows from several ways together: shares and losses, with intervals over utterances."""
        best, least, copy = (np.array(self.heard[name].mos) for name in ("original", "griffin_lim", "copy"))
        if len(best):
            title = "copy synthesis: share of the MOS gap from Griffin-Lim to the recordings that is closed"
            self._conclude("gap_closed", title, "%", gap_closed, best, least, copy)
        ceiling, kept = (np.array(self.heard[name].right) for name in ("original", "flow"))
        title = "bare words understood from codes, share of the ceiling"
        self._conclude("words_kept", title, "%", share_kept, ceiling, kept)
        four, ten = (self._errors(name) for name in ("euler_4", "euler_10"))
        title = "word errors of 4 Euler steps less those of 10, sentences and bare words"
        self._conclude("euler_4_lost", title, "points", points_lost, *four, *ten)
        found = read_metrics(self.artifacts.out)
        back = [found.get(f"rival_{name}_back_wer_assistant") for name in ("ours", "original")]
        if all(back):  # by `eval codec`
            title = "random words lost on the way back from codes, beyond the recordings' own"
            lost = Metric("voice_random_words_lost", title, back[0].value - back[1].value, "points", n=back[0].n)
            self.artifacts.record(lost)

    def _errors(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Word errors and words of every utterance."""
        import jiwer

        texts = [normalise(text) for text in self.said.texts]
        counts = np.array([len(text.split()) for text in texts])
        once = [_once(text) if i >= self.said.sentences else text for i, text in enumerate(self.heard[name].texts)]
        wrong = [jiwer.wer(text, other) for text, other in zip(texts, once, strict=True)]
        return np.minimum(np.array(wrong), 1.0) * counts, counts

    def _conclude(self, key: str, title: str, unit: str, what: Callable[..., float], *values: np.ndarray) -> None:
        low, high = bootstrap(what, *values)
        bounds = {"low": low, "high": high, "interval": "bootstrap over utterances, 95 %", "n": len(values[0])}
        self.artifacts.record(Metric(f"voice_{key}", title, what(*values), unit, **bounds))

    def speed(self) -> None:
        """Seconds of computing for a second of the sentences, codes to samples, one at a time."""
        codes, speaker = self.said.codes[: self.said.sentences], self.artifacts.speaker
        speaker.speak(codes[0].tolist())  # the first call allocates
        started = time.perf_counter()
        made = sum(len(speaker.speak(row.tolist())[0]) for row in codes)
        synchronise(self.artifacts.device)
        took = (time.perf_counter() - started) * speaker.vocoder.rate / made
        title = "codes to sound, whole utterances: seconds of computing a second"
        self.artifacts.record(Metric("voice_real_time", title, took, "x", n=len(codes)))


def understood(word: str, heard: str) -> bool:
    """Whether Whisper heard a bare word. It often writes one again and again, which is not an error of the voice."""
    return _once(heard) == normalise(word)


def _once(text: str) -> str:
    """A word that is repeated and nothing else: once."""
    words = text.split()
    return words[0] if len(set(words)) == 1 else text


def pitch_errors(pitch: Sequence[Tensor], waves: Sequence[Tensor]) -> tuple[float, float]:
    """Median error in cents over frames that are voiced in both, and the share of frames whose voicing is right.

    pitch: (F,) of every recording; waves: (n,) what came back of it, at 24 kHz.
    """
    made = [measure_pitch(wave[None], VOICE_SAMPLE_RATE, VOICE_HOP)[0] for wave in waves]
    true = torch.cat([old[: len(new)] for old, new in zip(pitch, made, strict=True)])
    found = torch.cat([new[: len(old)] for old, new in zip(pitch, made, strict=True)])
    both = (true > 0) & (found > 0)
    cents = 1200 * (found[both] / true[both]).log2().abs()
    return cents.median().item() if len(cents) else float("nan"), ((true > 0) == (found > 0)).float().mean().item()


def mean_of(values: Sequence[float]) -> dict[str, float | int | str | None]:
    """Value, bounds, interval and n of a fact that is a mean; one number says nothing about the spread."""
    mean, n = float(np.mean(values)), len(values)
    if n < 2:
        return {"value": mean, "n": n}
    half = 1.96 * float(np.std(values, ddof=1)) / n**0.5
    return {"value": mean, "low": mean - half, "high": mean + half, "interval": "normal 95 %", "n": n}


def gap_closed(best: np.ndarray, least: np.ndarray, copy: np.ndarray) -> float:
    """Per cent of the way from `least` to `best` that `copy` goes, of the means of (n,) scores each."""
    return float(100 * (copy.mean() - least.mean()) / max(best.mean() - least.mean(), 1e-9))


def share_kept(ceiling: np.ndarray, kept: np.ndarray) -> float:
    """Per cent of the hits `ceiling` (n,) that `kept` (n,) has."""
    return float(100 * kept.sum() / max(ceiling.sum(), 1))


def points_lost(wrong: np.ndarray, words: np.ndarray, other: np.ndarray, others: np.ndarray) -> float:
    """Word error rate less another, in points: errors and words of every utterance (n,), then those of the other."""
    return float(100 * (wrong.sum() / words.sum() - other.sum() / others.sum()))


def bootstrap(what: Callable[..., float], *values: np.ndarray) -> tuple[float, float]:
    """95 % bounds of what(*values) when utterances are drawn anew: values (n,) each, drawn together."""
    chosen = rng(0, "bootstrap").integers(len(values[0]), size=(DRAWS, len(values[0])))
    found = [what(*(value[rows] for value in values)) for rows in chosen]
    low, high = np.quantile(found, (0.025, 0.975))
    return float(low), float(high)


def measure_voice(artifacts: RunArtifacts, others: dict[str, Path] | None = None) -> None:
    """Measure the voice of a run on all ways. `others`: folders of more vocoders, by the name that their facts get."""
    benchmark, speaker = VoiceBenchmark(artifacts), artifacts.speaker
    more = {
        name: Vocoder.from_pretrained(folder).eval().to(artifacts.device) for name, folder in (others or {}).items()
    }
    for way in ways(speaker.flow, speaker.vocoder, benchmark.said, more):
        announce(f"measuring {way.title}")
        benchmark.measure(way)
    benchmark.conclude()
    benchmark.speed()
    if speaker.flow.voice is not None:
        measure_prompts(artifacts, benchmark.said.codes[:PROMPTED])
