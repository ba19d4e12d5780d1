"""All measurements of a run, from top to bottom: codec, vocoder, language model, text. Every number becomes a fact."""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jiwer
from rich.console import Console

from mossrepro.codec.recogniser_data import corpus_lexicon
from mossrepro.data.alignment import phone_times, read_phones
from mossrepro.data.codec_corpus import is_natural
from mossrepro.data.corpus import MANIFEST, Clip, load_clip, read_manifest
from mossrepro.data.facts import Fact, family_of
from mossrepro.data.script import Line
from mossrepro.evaluation import spoken_qa
from mossrepro.evaluation.artifacts import RATED, RunArtifacts, ask_questions, has_text_guidance
from mossrepro.evaluation.one_word import bare_words, by_sound, guided, kept, mouth, of_understood, understood
from mossrepro.evaluation.open_answers import open_answers
from mossrepro.evaluation.spoken_qa import Asked, said
from mossrepro.evaluation.text_retention import measure_text_retention
from mossrepro.lm import checkpoint
from mossrepro.lm.inference import prepare_for_inference
from mossrepro.speech import roster, voices
from mossrepro.speech.normalise import normalise, word_error_rate
from mossrepro.training import metrics
from mossrepro.utils import audio
from mossrepro.utils.audio import SAMPLE_RATE
from mossrepro.utils.errors import ConfigError
from mossrepro.utils.io import write_json
from mossrepro.utils.safetensors_io import read_config

# Group of test voices -> the end of its facts' ids, and of their titles.
_GROUPS = {
    "strangers": ("", " and voices"),
    "assistant": ("_assistant", ", the assistant"),
    "english": ("_english", ", four English voices"),
    "accents": ("_accents", ", three voices with an accent"),
    "natural": ("_natural", " as people say them, these seven voices"),
}
SHOWN = 3  # questions of a set whose sound is kept for the report


def measure(parts: dict[str, str], out: Path, which: Sequence[str] = (), device: str = "auto") -> None:
    """Measure `which` of MEASURES (default: all, in their order); facts and sounds go into the folder `out`.

    ConfigError: one of them wants recordings or answers that this run does not have.

    device: a name for `best_device`.
    """
    (Path(out) / "wav").mkdir(parents=True, exist_ok=True)
    artifacts, console = RunArtifacts(parts, out, device), Console(stderr=True)
    possible = measures_of(artifacts.parts)
    if impossible := next((name for name in which if name not in possible), ""):
        raise ConfigError(f"{impossible}: cannot be measured on this run; choose {', '.join(possible)}")
    for name in which or possible:
        started = time.monotonic()
        MEASURES[name](artifacts)
        console.print(f"  {name} measured in {time.monotonic() - started:.0f} s")


def measures_of(parts: Mapping[str, str | Path]) -> list[str]:
    """All of MEASURES, but for those of answers of one word where the model gives sentences.

    And those of recordings where there are none.
    """
    form = read_config(Path(parts["sft"])).get("system_turns")
    left_out = set() if form == "word" else {*_OF_ONE_WORD}
    if not (Path(parts["script"]) / MANIFEST).is_file():  # codes of a pack
        left_out |= {*_OF_RECORDINGS}
    return [name for name in MEASURES if name not in left_out]


def codec(artifacts: RunArtifacts) -> None:
    """Word and phone errors of the recogniser on codes: unseen sentences of random words, and natural ones."""
    corpus = artifacts.codec_corpus
    spoken, lexicon = read_phones(phone_times(corpus)), corpus_lexicon(corpus)
    test = [clip for clip in read_manifest(corpus) if clip.split == "test" and spoken[clip.id]]
    used: set[int] = set()
    for group, (end, who) in _GROUPS.items():
        clips = [clip for clip in test if _group(clip) == group]
        if not clips:
            continue
        what = f"unseen sentences{who}"
        waves = [load_clip(corpus, clip, SAMPLE_RATE) for clip in clips]
        codes = [artifacts.codec.codes_of(wave) for wave in waves]
        used.update(code for row in codes for code in row.tolist())
        texts = [clip.text.lower() for clip in clips]
        words = sum(len(normalise(text).split()) for text in texts)
        title = f"codec: word error rate, {what}, all {len(lexicon.words)} words equally likely"
        found = [artifacts.codec.transcribe(row, lexicon)[0] for row in codes]
        artifacts.record(metrics.Metric(f"codec_wer{end}", title, 100 * word_error_rate(texts, found), "%", n=words))
        references = [" ".join(phone for phone, _, _ in spoken[clip.id]) for clip in clips]
        errors = 100 * jiwer.wer(references, [artifacts.codec.transcribe(row)[0] for row in codes])
        phones = sum(len(row.split()) for row in references)
        artifacts.record(metrics.Metric(f"codec_per{end}", f"codec: phone error rate, {what}", errors, "%", n=phones))
        judged = artifacts.judge.transcribe(waves)
        whole = f"Whisper base, whole and unquantised: word error rate, {what}"
        artifacts.record(
            metrics.Metric(f"codec_wer{end}_judge", whole, 100 * word_error_rate(texts, judged), "%", n=words)
        )
    artifacts.record(metrics.Metric("codec_used", "codec: codes in use on the test clips", float(len(used)), "codes"))


def _group(clip: Clip) -> str:
    return "natural" if is_natural(clip) else roster.group_of(clip.speaker) or "strangers"


def vocoder(artifacts: RunArtifacts) -> None:
    """The judge's ceiling and floor on the synthesiser's answers, and what is left after wave -> codes -> wave."""
    lines = [line for line in artifacts.lines if line.role == "answer" and line.set != "P"]
    asked = [artifacts.known[line.fact] for line in lines]
    waves = [artifacts.wave(line.id) for line in lines]
    truth = [said(f, heard) for f, heard in zip(asked, artifacts.judge.transcribe(waves), strict=True)]
    again = artifacts.speak([artifacts.codes[line.id] for line in lines])
    heard = artifacts.judge.transcribe(again)
    kept = [said(f, text) for f, text in zip(asked, heard, strict=True)]
    ceiling = artifacts.share("judge_ceiling", "the judge on the synthesiser's own answers", truth)
    value = artifacts.share("resynthesis_heard", "the judge on answers resynthesised from their codes", kept)
    artifacts.record(
        metrics.Metric(
            "resynthesis",
            "wave → codes → wave, share of the ceiling",
            100 * value / max(ceiling, 1e-9),
            "%",
            n=len(kept),
        )
    )
    artifacts.share(
        "judge_floor", "the judge hears the right answer though a wrong one was said", _judge_deceived(artifacts, asked)
    )
    artifacts.mos("synthesiser_mos", "predicted MOS of the synthesiser's own answers (DistillMOS)", waves)
    artifacts.mos("resynthesis_mos", "predicted MOS of answers resynthesised from their codes (DistillMOS)", again)


def _judge_deceived(artifacts: RunArtifacts, asked: list[Fact]) -> list[bool]:
    """Every second sentence with a wrong answer of its family, resynthesised: does the judge hear the right one?

    A judge that knows English could write "The capital of Japan is Tokyo" whatever the last word sounds like.
    """
    wrong = []
    for fact in asked[::2]:
        others = [one.answer for one in asked if one.family == fact.family and not said(fact, one.answer)]
        wrong += [(fact, fact._replace(answer=others[len(wrong) % len(others)]))] if others else []
    codes = []
    for _, told in wrong:
        wave, rate = voices.say(told.written, "assistant")
        codes.append(artifacts.codec.codes_of(audio.resample(wave, rate, SAMPLE_RATE)))
    heard = artifacts.judge.transcribe(artifacts.speak(codes))
    return [said(fact, text) for (fact, _), text in zip(wrong, heard, strict=True)]


def language_model(artifacts: RunArtifacts) -> None:
    """The four pairings on A, B, V, C after SFT, and the share of all replies that did not end.

    Sounds go to wav/, answers by family to families.json.
    """
    model, tokenizer = checkpoint.from_pretrained(artifacts.parts["sft"])
    model = prepare_for_inference(model, artifacts.device)
    grid, text_guidance = model.grid(tokenizer), has_text_guidance(artifacts.parts["sft"])
    one_word = grid.system_turns == "word"
    index, families, cut = [], [], defaultdict(list)
    keys = understood(artifacts) if one_word else set()
    for name in "ABVC":
        lines = [line for line in artifacts.lines if line.role == "test" and line.set == name]
        baselines, written = _chances(artifacts, name, lines), []
        for pairing in ("T2T", "S2T", "T2S", "S2S"):
            asked = ask_questions(artifacts, model, grid, lines, pairing, text_guidance)
            written = written or asked
            cut[pairing] += [not one.reply.ended for one in asked]
            families += spoken_qa.by_family(name, pairing, asked)
            for part, baseline in baselines.items():
                some = spoken_qa.without_stems(asked) if part else asked
                artifacts.record(spoken_qa.score(name, pairing, some, part))
                if pairing != "T2T":
                    artifacts.record(spoken_qa.gain(name, pairing, some, baseline, part))
                if pairing != "T2T" and one_word:
                    same = spoken_qa.without_stems(written) if part else written
                    artifacts.record(kept(name, pairing, some, same, part))
            if pairing[2] == "S" and one_word:
                for fact in of_understood(name, pairing, asked, written, keys):
                    artifacts.record(fact)
            if pairing[2] == "S" and one_word and name in "AC":
                by_sound(artifacts, name, pairing, asked)
            if pairing[2] == "T" and one_word and name == "C":
                guided(artifacts, model, grid, name, pairing, asked)
            if pairing in ("S2T", "S2S"):
                for group, some in spoken_qa.by_group(asked).items():
                    artifacts.record(spoken_qa.score(name, pairing, some, group))
            if pairing == "S2S" and name == "A":
                waves = artifacts.speak([one.reply.codes for one in asked if one.reply.codes][:RATED])
                artifacts.mos("answer_mos", "predicted MOS of the answers (DistillMOS)", waves)
            if pairing == "S2S":
                index += [_keep_sound(artifacts, one, one_word) for one in asked[:SHOWN] if one.reply.codes]
    for pairing, hits in cut.items():
        title = f"{spoken_qa.HEADLINE[pairing]}: replies cut off before their end"
        artifacts.share(f"{pairing.lower()}_cut", title, hits)
    write_json(artifacts.out / "wav" / "index.json", index)
    write_json(artifacts.out / "families.json", families)


def _chances(artifacts: RunArtifacts, name: str, lines: list[Line]) -> dict[str, float]:
    """Part of a set ("": the whole) -> chance on it, which is recorded; NO_STEMS is left out where it is empty."""
    kept = [line for line in lines if not family_of(artifacts.known[line.fact]).stem]
    parts = {"": lines} | ({spoken_qa.NO_STEMS: kept} if kept else {})
    chances = {part: spoken_qa.chance(some, artifacts.known) for part, some in parts.items()}
    for part, value in chances.items():
        id = "_".join(filter(None, ("chance", name.lower(), part)))
        title = f"chance on {name}{', stem families left out' if part else ''}"
        artifacts.record(metrics.Metric(id, title, 100 * value, "%", n=len(parts[part])))
    return chances


def _keep_sound(artifacts: RunArtifacts, one: Asked, one_word: bool) -> dict:
    """Write question and answer as wav files; the entry for wav/index.json."""
    names = [f"{one.line.id}-{part}.wav" for part in ("question", "answer")]
    audio.save(artifacts.out / "wav" / names[0], artifacts.wave(one.line.id), SAMPLE_RATE)
    wave, rate = artifacts.speaker.speak(one.reply.codes)
    audio.save(artifacts.out / "wav" / names[1], wave, rate)
    entry = {"question": names[0], "answer": names[1], "question_text": one.line.text}
    right = one.fact.answer if one_word else one.fact.written
    return {**entry, "reference": right, "heard": one.heard, "set": one.fact.set}


_OF_ONE_WORD, _OF_RECORDINGS = ("words", "mouth", "open"), ("codec", "vocoder")
MEASURES: dict[str, Callable[[RunArtifacts], None]] = {
    "codec": codec,
    "vocoder": vocoder,
    "words": bare_words,
    "mouth": mouth,
    "lm": language_model,
    "open": open_answers,
    "text": measure_text_retention,  # compares with the answers of `lm`
}
