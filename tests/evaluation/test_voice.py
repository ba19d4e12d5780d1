"""The table of where the voice is lost: its list, its numbers on sounds whose answer is known, and its facts."""

import io
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from rich.console import Console

from mossrepro.data.facts import all_facts, practice_facts
from mossrepro.data.families import FAMILIES
from mossrepro.data.script import ScriptRecipe
from mossrepro.data.sentences import vocabulary
from mossrepro.evaluation import voice
from mossrepro.experiments.reproduce import BESIDE
from mossrepro.experiments.voice import other_vocoders
from mossrepro.report.claims import read_claims
from mossrepro.report.voice_tables import voice_table
from mossrepro.speech.normalise import normalise
from mossrepro.training import metrics
from mossrepro.utils.audio import mel24
from mossrepro.utils.errors import CheckpointError, ConfigError
from mossrepro.utils.random import rng
from mossrepro.vocoder.checkpoint import save_module
from mossrepro.vocoder.flow import FlowDecoder
from mossrepro.vocoder.generator import Vocoder, pulse_train
from mossrepro.vocoder.griffin_lim import griffin_lim
from mossrepro.vocoder.speech_decoder import SpeechDecoder

TINY = dict(dim=32, blocks=1, fine_dim=32, fine_blocks=1, pitch_dim=16)


def hum(hertz: float, seconds: float = 0.48) -> np.ndarray:
    f0 = torch.full((1, int(24_000 * seconds)), hertz)
    return (0.02 * pulse_train(f0, 24_000)[0]).numpy()


def test_the_list_is_said_nowhere_in_training() -> None:
    """The assistant says facts, false statements and random sentences of names, frequent words and those of phrasings.

    A sentence of the latter may be a single word; none is a sentence of the list, which holds other words.
    """
    facts = all_facts() + practice_facts(1000, True)
    phrasings = [text for family in FAMILIES.values() for text in family.asked + family.unseen]
    short = {*vocabulary()[: ScriptRecipe.words], *(word for text in phrasings for word in normalise(text).split())}
    names = {normalise(text) for fact in facts for text in (fact.subject, fact.answer, fact.written)}
    chosen = voice.read_list()
    assert (len(set(chosen.sentences)), len(set(chosen.words))) == (40, 100)
    texts = {normalise(text) for text in (*chosen.sentences, *chosen.words)}
    assert sorted(texts & (short | names)) == []
    spoken = short | {word for name in names for word in name.split()}
    assert all(set(normalise(text).split()) - spoken for text in chosen.sentences)
    assert all(len(normalise(word).split()) == 1 for word in chosen.words)


def test_what_a_training_says_is_left_out(capsys) -> None:
    whole = voice.read_list()
    kept = voice.read_list(["Market.", whole.sentences[3].upper()])
    assert len(kept.words) == 99 and "market" not in kept.words and len(kept.sentences) == 39
    assert "2 of its texts are left out" in capsys.readouterr().err


def test_griffin_lim_gives_the_mel_back() -> None:
    wave = 0.05 * torch.randn(2, 24 * 480) * (1 + torch.sin(torch.arange(24 * 480) / 900))
    mel = mel24(wave)
    made = griffin_lim(mel)
    assert made.shape == wave.shape and torch.equal(made, griffin_lim(mel))
    far = (mel24(griffin_lim(mel, rounds=0)) - mel).abs().mean()
    assert (mel24(made) - mel).abs().mean() < 0.3 * far


def test_pitch_errors_are_cents_of_voiced_frames() -> None:
    waves = [torch.from_numpy(hum(200.0)), torch.from_numpy(hum(200.0))]
    said = voice.Utterances(["a", "b"], 2, waves)
    high = torch.from_numpy(hum(200.0 * 2 ** (50 / 1200)))
    cents, same = voice.pitch_errors(said.pitch, [high, high])
    assert cents == pytest.approx(50, abs=3) and same > 0.9
    cents, same = voice.pitch_errors(said.pitch, [torch.zeros_like(high)] * 2)
    assert math.isnan(cents) and same < 0.1


@pytest.mark.parametrize(
    ("heard", "right"), [("market", True), ("market market market", True), ("market place", False), ("", False)]
)
def test_a_word_that_whisper_repeats_was_understood(heard, right) -> None:
    assert voice.understood("Market", heard) == right


def test_shares_and_their_intervals() -> None:
    best, least = np.full(50, 4.0), np.full(50, 2.0)
    copy = 3.0 + 0.5 * rng(0, "x").standard_normal(50)
    value = voice.gap_closed(best, least, copy)
    low, high = voice.bootstrap(voice.gap_closed, best, least, copy)
    assert value == pytest.approx(50 * (copy.mean() - 2.0)) and low < value < high and high - low < 20
    assert voice.share_kept(np.array([True, True, False]), np.array([True, False, False])) == 50
    assert voice.points_lost(np.array([1.0, 1.0]), np.array([2, 2]), np.array([0.0, 1.0]), np.array([2, 2])) == 25
    assert voice.mean_of([2.0]) == {"value": 2.0, "n": 1}
    spread = voice.mean_of([1.0, 2.0, 3.0])
    assert spread["value"] == 2 and spread["high"] - 2 == pytest.approx(1.96 / 3**0.5)


class Judge:
    """Hears every utterance right until a way is spoilt."""

    def __init__(self, texts: list[str]) -> None:
        self.texts, self.calls = texts, 0

    def transcribe(self, waves) -> list[str]:
        assert len(waves) == len(self.texts) and all(wave.dtype == np.float32 for wave in waves)
        self.calls += 1
        return self.texts if self.calls == 1 else ["", *self.texts[1:-1], "mistake"]


@pytest.fixture
def artifacts(tmp_path, monkeypatch) -> SimpleNamespace:
    """Parts that know nothing, two sentences and two words."""
    chosen = voice.VoiceList(["Seven birds sing.", "It rains."], ["market", "budget"])
    monkeypatch.setattr(voice, "read_list", lambda trained: chosen)
    monkeypatch.setattr(voice.voices, "say", lambda text: (hum(100.0 + 10 * len(text)), 24_000))
    monkeypatch.setattr(voice, "predicted_mos", lambda waves, device: [float(np.abs(w).mean() * 100) for w in waves])
    torch.manual_seed(0)
    flow = FlowDecoder(16, dim=64, blocks=1, fine_blocks=1, flow_blocks=1)
    torch.nn.init.normal_(flow.estimator.out.weight, std=0.1)
    decoder = SpeechDecoder(flow, Vocoder(**TINY))
    codec = SimpleNamespace(encode=lambda wave: torch.zeros(1, -(-wave.shape[1] // 1280), dtype=torch.int64))
    made = SimpleNamespace(
        lines=[], out=tmp_path, codec=codec, speaker=decoder, judge=Judge([*chosen.sentences, *chosen.words]),
        device=torch.device("cpu"), record=lambda fact: metrics.record(tmp_path, fact),
    )  # fmt: skip
    return made


def test_every_way_is_measured(artifacts) -> None:
    for name, value in (("ours", 80.0), ("original", 33.0)):
        id = f"rival_{name}_back_wer_assistant"
        metrics.record(artifacts.out, metrics.Metric(id, id, value))
    torch.manual_seed(5)
    other = Vocoder(**TINY)
    folder = artifacts.out / "other"
    save_module(other, other.config, folder)
    voice.measure_voice(artifacts, {"other": folder})
    found = metrics.read_metrics(artifacts.out)
    names = ["original", "griffin_lim", "copy", "coarse", "flow", "euler_1", "euler_2", "euler_4", "euler_10"]
    names += ["chunk_5", "chunk_25", "whole", "copy_other", "flow_other"]
    for name in names:
        keys = {"mos", "wer", "words"} | ({"mel", "stft", "pitch", "voicing", "stoi"} if name != "original" else set())
        assert keys <= {id.removeprefix(f"voice_{name}_") for id in found}, name
        assert found[f"voice_{name}_wer"].n == 5 and found[f"voice_{name}_words"].interval == "Wilson 95 %"
    assert found["voice_original_wer"].value == 0 and found["voice_original_words"].value == 100
    assert found["voice_copy_wer"].value == pytest.approx(60) and found["voice_copy_words"].value == 50
    assert found["voice_flow_mel"].value == found["voice_euler_10_mel"].value == found["voice_chunk_5_mel"].value
    assert found["voice_flow_mel"].value != found["voice_euler_1_mel"].value
    assert found["voice_copy_mel"].value != found["voice_copy_other_mel"].value
    assert artifacts.judge.calls <= len(names) - 2, "the same sound is judged once"
    assert (
        found["voice_words_kept"].value == 50 and found["voice_words_kept"].low <= 50 <= found["voice_words_kept"].high
    )
    assert found["voice_random_words_lost"].value == 47 and found["voice_euler_4_lost"].value == 0
    assert found["voice_real_time"].value > 0 and "voice_gap_closed" in found
    out = Console(file=io.StringIO(), width=160)
    out.print(voice_table(found))
    text = out.file.getvalue()
    assert text.index("true mel, Griffin-Lim") < text.index("codes, 4 Euler steps") < text.index("vocoder other")
    prompts = "voice_prompt_"  # of a flow decoder that knows voices
    claimed = {x.id for x in read_claims() if x.id.startswith("voice_") and not x.id.startswith(prompts)}
    assert claimed <= found.keys() and all(id.startswith(BESIDE) for id in claimed)


def test_vocoders_beside_are_named(tmp_path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert other_vocoders([f"gan={tmp_path}"]) == {"gan": tmp_path}
    for wrong in (["gan"], ["=x"], ["gan="], [f"a-b={tmp_path}"], [f"a={tmp_path}", f"a={tmp_path}"]):
        with pytest.raises(ConfigError, match="--vocoder"):
            other_vocoders(wrong)
    with pytest.raises(CheckpointError, match="nowhere: no config.json"):
        other_vocoders([f"gan={tmp_path / 'nowhere'}"])
