"""The parts of a finished run, loaded when first needed, and where its measured numbers go."""

import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mossrepro.codec.lexicon import Lexicon
from mossrepro.codec.model import SpeechCodec
from mossrepro.data.codec_corpus import codec_corpus
from mossrepro.data.corpus import MANIFEST, Clip, load_clip, read_manifest
from mossrepro.data.facts import Fact, read_facts
from mossrepro.data.script import Line, read_script
from mossrepro.data.sentences import vocabulary
from mossrepro.data.token_store import TokenStore
from mossrepro.evaluation.spoken_qa import Asked, ask
from mossrepro.lm.grid import Grid
from mossrepro.lm.model import LayerSplitLM
from mossrepro.speech.mos import predicted_mos
from mossrepro.speech.normalise import normalise
from mossrepro.speech.sphinx import pronunciations
from mossrepro.speech.whisper import WhisperJudge
from mossrepro.training import metrics
from mossrepro.utils import audio
from mossrepro.utils.audio import SAMPLE_RATE
from mossrepro.utils.devices import best_device
from mossrepro.utils.errors import DataError
from mossrepro.utils.old_names import PARTS, renamed
from mossrepro.utils.records import misfit, read_json
from mossrepro.vocoder.speech_decoder import SpeechDecoder

RATED = 40  # recordings at most, for the mean opinion score


class RunArtifacts:
    """The parts of a run, loaded when first needed onto one device, and the folder for facts and sounds.

    device: a name for `best_device`.
    """

    def __init__(self, parts: dict[str, str], out: Path, device: str = "auto") -> None:
        self.device = best_device(device)
        self.parts = {name: Path(folder) for name, folder in renamed(parts, PARTS).items()}
        self.out = Path(out)
        self.start, self._clock = parts["backbone"], time.monotonic()

    @cached_property
    def judge(self) -> WhisperJudge:
        return WhisperJudge(self.device)

    @cached_property
    def codec(self) -> SpeechCodec:
        return SpeechCodec.from_pretrained(self.parts["recogniser"]).prepare_for_inference(self.device)

    @cached_property
    def word_reader(self) -> SpeechCodec:
        """The tokenizer whose recogniser reads answers of one word; of a run without one, that of sentences."""
        folder = self.parts.get("word_reader", self.parts["recogniser"])
        return SpeechCodec.from_pretrained(folder).prepare_for_inference(self.device)

    @cached_property
    def speaker(self) -> SpeechDecoder:
        return SpeechDecoder.from_pretrained(self.parts["flow"], self.parts["vocoder"], self.device)

    @cached_property
    def lines(self) -> list[Line]:
        return read_script(self.parts["script"])

    @cached_property
    def known(self) -> dict[str, Fact]:
        return {fact.key: fact for fact in read_facts(self.parts["script"])}

    @cached_property
    def codes(self) -> TokenStore:
        return TokenStore(self.parts["tokens"])

    @cached_property
    def clips(self) -> dict[str, Clip]:
        return {clip.id: clip for clip in read_manifest(self.parts["script"])}

    @cached_property
    def recorded(self) -> bool:
        """Whether there are recordings of the script's lines, and not their codes alone (of a pack)."""
        return (self.parts["script"] / MANIFEST).is_file()

    def wave(self, name: str) -> np.ndarray:
        """The recording of a line at 16 kHz; its codes in the assistant's voice, where there is none (a pack)."""
        if not self.recorded:
            return self.speak([self.codes[name]])[0]
        return load_clip(self.parts["script"], self.clips[name], SAMPLE_RATE)

    def speak(self, many: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Codes of several answers -> their 16 kHz samples, through flow decoder and vocoder."""
        waves = self.speaker.speak_all(many) if many else []
        return [audio.resample(wave, self.speaker.vocoder.rate, SAMPLE_RATE) for wave in waves]

    def hear(self, many: Sequence[Sequence[int]]) -> list[str]:
        """What the judge makes out of the sound of several answers, given as codes."""
        return self.judge.transcribe(self.speak(many))

    @cached_property
    def lexicon(self) -> Lexicon:
        """All words that codec's corpora are made of and those of the script: too many to be of help."""
        texts = [*self._corpus_texts(), *(line.text for line in self.lines)]
        texts += [fact.answer for fact in self.known.values()]
        return Lexicon(pronunciations(sorted({word for text in texts for word in normalise(text).split()})))

    def _corpus_texts(self) -> list[str]:
        if (self.parts["codec"] / "spec.json").is_file():
            return [clip.text for clip in read_manifest(self.codec_corpus)]
        return vocabulary(homophones=False)  # of a pack: what a corpus of the recipes draws from

    def read(self, many: Sequence[Sequence[int]]) -> list[str]:
        """What a recogniser makes out of the codes of several answers, all words equally likely."""
        return [self.word_reader.transcribe(np.asarray(codes), self.lexicon)[0] for codes in many]

    @cached_property
    def codec_corpus(self) -> Path:
        """The corpus that the codec was trained on. DataError if its folder does not say."""
        spec = self.parts["codec"] / "spec.json"
        try:
            numbers = read_json(spec)["numbers"]
            return codec_corpus(numbers["size.codec_corpus"], voices=numbers.get("size.roster", "five"))
        except (LookupError, TypeError, AttributeError) as error:
            raise DataError(f"{spec}: does not say what the codec was trained on, no folder of `reproduce`") from error

    def record(self, fact: metrics.Metric) -> None:
        """Write a fact, with the time since the previous fact."""
        now = time.monotonic()
        fact.seconds, self._clock = round(now - self._clock, 1), now
        metrics.record(self.out, fact)

    def share(self, name: str, title: str, hits: list[bool]) -> float:
        """Record a share in per cent with its Wilson interval; returns it."""
        low, high = metrics.wilson(sum(hits), len(hits))
        value = 100 * sum(hits) / max(len(hits), 1)
        self.record(metrics.Metric(name, title, value, "%", 100 * low, 100 * high, "Wilson 95 %", len(hits)))
        return value

    def mos(self, name: str, title: str, waves: list[np.ndarray]) -> None:
        """Record the mean predicted opinion score of the first recordings, with a normal-approximation interval."""
        scores = predicted_mos(waves[:RATED], self.device)
        if not scores:
            return
        mean, low, high = float(np.mean(scores)), None, None
        if len(scores) > 1:  # one recording says nothing about the spread
            half = 1.96 * float(np.std(scores, ddof=1)) / len(scores) ** 0.5
            low, high = mean - half, mean + half
        interval = "normal 95 %" if len(scores) > 1 else ""
        self.record(metrics.Metric(name, title, mean, "", low, high, interval, len(scores)))


def ask_questions(
    artifacts: RunArtifacts,
    model: LayerSplitLM,
    grid: Grid,
    lines: list[Line],
    pairing: str,
    text_guidance: bool = False,
) -> list[Asked]:
    """Ask a model the questions `lines`, with the codes and the judge of a run.

    Answers of one word are judged by their codes: of single words without a sentence around them the judge of the sound
    takes many wrong, originals too.
    """
    hear = artifacts.read if grid.system_turns == "word" else artifacts.hear
    return ask(model, grid, lines, artifacts.known, artifacts.codes, pairing, hear, text_guidance)


def has_text_guidance(stage: Path) -> bool:
    """Whether a stage was trained to write its spoken answers first."""
    path = stage / "fit.json"
    settings = read_json(path) if path.is_file() else {}
    if misfit(settings, dict) or misfit(settings.get("data", {}), dict[str, Any]):
        raise DataError(f"{path}: no settings of a fit")
    data = settings.get("data", {}).get("init_args") or {}
    return bool(data.get("text_guidance", data.get("guide", False)))  # "guide": a stage of version 0.1
