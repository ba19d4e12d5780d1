"""All measurements of a run, in the order of the claims; every number becomes a fact."""

import json
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import jiwer
import numpy as np
import torch
from rich.console import Console

from mossrepro import audio, facts, voices
from mossrepro.asr import WhisperJudge
from mossrepro.codec.model import SpeechCodec
from mossrepro.data.corpus import Clip, load_clip, read_manifest
from mossrepro.data.facts import Fact
from mossrepro.data.phones import phone_times, read_phones
from mossrepro.data.reader_data import corpus_lexicon
from mossrepro.data.recipes import codec_corpus
from mossrepro.data.script import Line, read_script
from mossrepro.data.tokens import TokenStore
from mossrepro.eval import spoken_qa
from mossrepro.eval.mos import predicted_mos
from mossrepro.eval.spoken_qa import Asked, ask, said
from mossrepro.lm import checkpoint
from mossrepro.lm.model import LayerSplitLM
from mossrepro.lm.ready import ready
from mossrepro.spoken import word_error_rate
from mossrepro.vocab import Grid
from mossrepro.vocoder.resynthesis import Speaker

MEASURES = ("codec", "vocoder", "lm", "text")
RATE = 16_000
SHOWN = 3  # questions of a set whose sound is kept for the report
RATED = 40  # recordings whose naturalness is predicted


class Bench:
    """The parts of a run, loaded when first needed, and the folder for facts and sounds."""

    def __init__(self, parts: dict[str, str], out: Path) -> None:
        self.parts, self.out = {name: Path(folder) for name, folder in parts.items()}, Path(out)
        self.start, self._clock = parts["backbone"], time.monotonic()

    @cached_property
    def judge(self) -> WhisperJudge:
        return WhisperJudge()

    @cached_property
    def codec(self) -> SpeechCodec:
        return SpeechCodec.from_pretrained(self.parts["reader"]).ready()

    @cached_property
    def speaker(self) -> Speaker:
        return Speaker.from_pretrained(self.parts["flow"], self.parts["vocoder"])

    @cached_property
    def lines(self) -> list[Line]:
        return read_script(self.parts["script"])

    @cached_property
    def known(self) -> dict[str, Fact]:
        plain = json.loads((self.parts["script"] / "facts.json").read_text())
        return {fact.key: fact for fact in (Fact(*entry) for entry in plain)}

    @cached_property
    def codes(self) -> TokenStore:
        return TokenStore(self.parts["tokens"])

    @cached_property
    def clips(self) -> dict[str, Clip]:
        return {clip.id: clip for clip in read_manifest(self.parts["script"])}

    def wave(self, name: str) -> np.ndarray:
        """The recording of a line at 16 kHz."""
        return load_clip(self.parts["script"], self.clips[name], RATE)

    def speak(self, many: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Codes of several answers -> their 16 kHz samples, through flow decoder and vocoder."""
        return [audio.resample(wave, self.speaker.vocoder.rate, RATE) for wave in self.speaker.speak_all(many)]

    def record(self, fact: facts.Fact) -> None:
        """Write a fact, with the time since the one before."""
        now = time.monotonic()
        fact.seconds, self._clock = round(now - self._clock, 1), now
        facts.record(self.out, fact)

    def share(self, name: str, title: str, hits: list[bool]) -> float:
        """Record a share in per cent with its Wilson interval; returns it."""
        low, high = facts.wilson(sum(hits), len(hits))
        value = 100 * sum(hits) / max(len(hits), 1)
        self.record(facts.Fact(name, title, value, "%", 100 * low, 100 * high, "Wilson 95 %", len(hits)))
        return value

    def mos(self, name: str, title: str, waves: list[np.ndarray]) -> None:
        """Record the mean predicted opinion score of the first recordings, with a normal interval of the mean."""
        scores = predicted_mos(waves[:RATED])
        if not scores:
            return
        mean, low, high = float(np.mean(scores)), None, None
        if len(scores) > 1:  # one recording says nothing about the spread
            half = 1.96 * float(np.std(scores, ddof=1)) / len(scores) ** 0.5
            low, high = mean - half, mean + half
        interval = "normal 95 %" if len(scores) > 1 else ""
        self.record(facts.Fact(name, title, mean, "", low, high, interval, len(scores)))



def measure(parts: dict[str, str], out: Path, which: tuple[str, ...] = MEASURES) -> None:
    """Measure `which` of codec, vocoder, lm, text; facts and sounds go into the folder `out`. Text comes after lm."""
    from mossrepro.eval.retention import text_retention

    (Path(out) / "wav").mkdir(parents=True, exist_ok=True)
    bench, console = Bench(parts, out), Console(stderr=True)
    steps: dict[str, Callable[[Bench], None]] = {"codec": codec, "vocoder": vocoder, "lm": language_model}
    steps["text"] = text_retention
    for name in which:
        started = time.monotonic()
        steps[name](bench)
        console.print(f"  {name} measured in {time.monotonic() - started:.0f} s")


def codec(bench: Bench) -> None:
    """What the recogniser, which sees only the codes, makes of random words: unseen sentences, held-out voices."""
    size = json.loads((bench.parts["codec"] / "spec.json").read_text())["numbers"]["size.name"]
    corpus = codec_corpus(size)
    spoken, lexicon = read_phones(phone_times(corpus)), corpus_lexicon(corpus)
    test = [clip for clip in read_manifest(corpus) if clip.split == "test" and spoken[clip.id]]
    used: set[int] = set()
    for end, held_out in (("", True), ("_assistant", False)):
        clips = [clip for clip in test if (clip.speaker != "assistant") == held_out]
        what = f"unseen sentences{' and voices' if held_out else ', the assistant'}"
        waves = [load_clip(corpus, clip, RATE) for clip in clips]
        codes = [bench.codec.encode(torch.from_numpy(wave)[None])[0] for wave in waves]
        used.update(code for row in codes for code in row.tolist())
        texts = [clip.text.lower() for clip in clips]
        words = sum(len(text.split()) for text in texts)
        title = f"codec: word error rate, {what}, one of {len(lexicon.words)} words as likely as another"
        heard = [bench.codec.transcribe(row, lexicon)[0] for row in codes]
        bench.record(facts.Fact(f"codec_wer{end}", title, 100 * word_error_rate(texts, heard), "%", n=words))
        said = [" ".join(phone for phone, _, _ in spoken[clip.id]) for clip in clips]
        errors = 100 * jiwer.wer(said, [bench.codec.transcribe(row)[0] for row in codes])
        phones = sum(len(row.split()) for row in said)
        bench.record(facts.Fact(f"codec_per{end}", f"codec: phone error rate, {what}", errors, "%", n=phones))
        judged = bench.judge.transcribe(waves)
        whole = f"Whisper base, whole and unquantised: word error rate, {what}"
        bench.record(facts.Fact(f"codec_wer{end}_judge", whole, 100 * word_error_rate(texts, judged), "%", n=words))
    bench.record(facts.Fact("codec_used", "codec: codes in use on the test clips", float(len(used)), "codes"))


def vocoder(bench: Bench) -> None:
    """The judge's ceiling and floor on the synthesiser's answers, and how much survives wave -> codes -> wave."""
    lines = [line for line in bench.lines if line.role == "answer" and line.set != "P"]
    asked = [bench.known[line.fact] for line in lines]
    waves = [bench.wave(line.id) for line in lines]
    truth = [said(f, heard) for f, heard in zip(asked, bench.judge.transcribe(waves), strict=True)]
    again = bench.speak([bench.codes[line.id] for line in lines])
    heard = bench.judge.transcribe(again)
    kept = [said(f, text) for f, text in zip(asked, heard, strict=True)]
    ceiling = bench.share("judge_ceiling", "the judge on the synthesiser's own answers", truth)
    value = bench.share("resynthesis_heard", "the judge on answers resynthesised from their codes", kept)
    bench.record(
        facts.Fact(
            "resynthesis",
            "wave → codes → wave, share of the ceiling",
            100 * value / max(ceiling, 1e-9),
            "%",
            n=len(kept),
        )
    )
    bench.share("judge_floor", "the judge hears the right answer though a wrong one was said", _deceived(bench, asked))
    bench.mos("synthesiser_mos", "predicted MOS of the synthesiser's own answers (DistillMOS)", waves)
    bench.mos("resynthesis_mos", "predicted MOS of answers resynthesised from their codes (DistillMOS)", again)


def _deceived(bench: Bench, asked: list[Fact]) -> list[bool]:
    """Every second sentence with another answer of its family, from its codes: does the judge hear what it expects?

    A judge that knows English could write "The capital of Japan is Tokyo" whatever the last word sounds like.
    """
    wrong = []
    for fact in asked[::2]:
        others = [one.answer for one in asked if one.family == fact.family and not said(fact, one.answer)]
        wrong += [(fact, fact._replace(answer=others[len(wrong) % len(others)]))] if others else []
    codes = []
    for _, told in wrong:
        wave, rate = voices.say(told.written, "assistant")
        codes.append(bench.codec.encode(torch.from_numpy(audio.resample(wave, rate, RATE))[None])[0])
    heard = bench.judge.transcribe(bench.speak(codes))
    return [said(fact, text) for (fact, _), text in zip(wrong, heard, strict=True)]


def language_model(bench: Bench) -> None:
    """The four pairings on A, B, V, C after SFT."""
    model, tokenizer = checkpoint.from_pretrained(bench.parts["sft"])
    model = ready(model)
    grid, guide = model.grid(tokenizer), is_guided(bench.parts["sft"])
    index = []
    for name in "ABVC":
        lines = [line for line in bench.lines if line.role == "test" and line.set == name]
        baseline = spoken_qa.chance(lines, bench.known)
        bench.record(facts.Fact(f"chance_{name.lower()}", f"chance on {name}", 100 * baseline, "%", n=len(lines)))
        for pairing in ("T2T", "S2T", "T2S", "S2S"):
            asked = put(bench, model, grid, lines, pairing, guide)
            bench.record(spoken_qa.score(name, pairing, asked))
            if pairing != "T2T":
                bench.record(spoken_qa.gain(name, pairing, asked, baseline))
            if pairing == "S2S" and name == "A":
                waves = [one.wave for one in asked if one.wave is not None]
                bench.mos("answer_mos", "predicted MOS of the answers (DistillMOS)", waves)
            if pairing == "S2S":
                index += [_keep_sound(bench, one) for one in asked[:SHOWN] if one.wave is not None]
    (bench.out / "wav" / "index.json").write_text(json.dumps(index, indent=1) + "\n")


def put(
    bench: Bench, model: LayerSplitLM, grid: Grid, lines: list[Line], pairing: str, guide: bool = False
) -> list[Asked]:
    """Questions to a model, by the codes, the voice and the judge of a run."""
    voice = bench.speak, bench.judge.transcribe
    return ask(model, grid, lines, bench.known, bench.codes, pairing, *voice, guide)


def is_guided(stage: Path) -> bool:
    """Whether a stage was trained to write its spoken answers first."""
    path = stage / "fit.json"
    settings = json.loads(path.read_text()) if path.is_file() else {}
    return bool(settings.get("data", {}).get("init_args", {}).get("guide", False))


def _keep_sound(bench: Bench, one: Asked) -> dict:
    """Write question and answer as wav files; the entry for wav/index.json."""
    names = [f"{one.line.id}-{part}.wav" for part in ("question", "answer")]
    audio.save(bench.out / "wav" / names[0], bench.wave(one.line.id), RATE)
    wave, rate = bench.speaker.speak(one.reply.codes)
    audio.save(bench.out / "wav" / names[1], wave, rate)
    entry = {"question": names[0], "answer": names[1], "question_text": one.line.text, "reference": one.fact.written}
    return {**entry, "heard": one.heard, "set": one.fact.set}
