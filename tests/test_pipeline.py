"""From question to answer: an answer that the limit cut off says so."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from codec_toys import TINY
from lm_toys import small_model

from mossrepro import cli
from mossrepro.codec import SpeechCodec
from mossrepro.lm.decode import GenerationConfig, Reply
from mossrepro.lm.tokenizer import mini_tokenizer
from mossrepro.pipeline import Answer, Assistant
from mossrepro.utils import audio
from mossrepro.utils.errors import ConfigError

WAVE = 0.1 * np.random.default_rng(0).standard_normal(16_000).astype(np.float32)


@pytest.fixture
def assistant() -> Assistant:
    """Untrained parts; its voice is a stub of 1,920 samples a code."""
    tokenizer = mini_tokenizer(["the old man and the sea", "system user assistant"], 300)
    model = small_model(text_vocab=300, codes=16, modality_pad=tokenizer.token_to_id("<empty_output>")).eval()
    speak = lambda codes: (np.full(1920 * len(codes), 0.1, np.float32), 24_000)  # noqa: E731
    return Assistant(
        SpeechCodec(TINY), model, tokenizer, SimpleNamespace(speak=speak, vocoder=SimpleNamespace(rate=24_000))
    )


@pytest.mark.parametrize("spoken", [True, False])
def test_an_answer_says_whether_the_model_ended_it(assistant, spoken, monkeypatch) -> None:
    with torch.no_grad():
        assistant.model.speech_head.weight[16] = 0  # EOSP is not what an untrained model says by chance
    cut = assistant.answer(WAVE, spoken, GenerationConfig(max_positions=3))
    assert not cut.ended and len(cut.codes) == 3 * spoken
    reply = Reply(text=[] if spoken else [20], codes=[1, 2] if spoken else [], ended=True)
    monkeypatch.setattr(assistant, "reply", lambda *_: [reply])
    assert assistant.answer(WAVE, spoken).ended


@pytest.mark.parametrize("flags", [[], ["--text"]])
@pytest.mark.parametrize("ended", [True, False])
def test_talk_says_when_an_answer_was_cut(ended, flags, tmp_path, monkeypatch, capsys) -> None:
    answer = Answer(np.full(36_000, 0.1, np.float32), 24_000, [1] * 19, "one two three", ended)
    stub = SimpleNamespace(answer=lambda *_, **__: answer)
    monkeypatch.setattr(Assistant, "from_run", classmethod(lambda cls, run, device: stub))
    audio.save(tmp_path / "question.wav", WAVE, 16_000)
    argv = ["talk", str(tmp_path / "question.wav"), "-o", str(tmp_path / "answer.wav"), "--run", "x", *flags]
    assert cli.main(argv) == 0
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if "cut" in line]
    where = "3 words" if flags else "1.5 s"
    expected = f"the answer was cut at {where}; the model did not end it within 120 positions, ask for a shorter one"
    assert lines == ([] if ended else [expected]) and out == ("one two three\n" if flags else "")


@pytest.mark.parametrize(("form", "asked"), [("", "Say one short sentence."), ("word", "Say one word."),
                                             ("sentence", "Say one short sentence.")])  # fmt: skip
def test_the_form_of_an_answer_is_asked_for(assistant, form, asked, monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(assistant, "reply", lambda prompts, *_: seen.extend(prompts) or [Reply(codes=[1], ended=True)])
    assistant.answer(WAVE, form=form)
    assert assistant.tokenizer.decode(seen[0].text.tolist()).startswith("system\n" + asked)
    with pytest.raises(ConfigError, match="word or sentence"):
        assistant.answer(WAVE, form="verse")


def test_talk_asks_for_the_form_that_is_wanted(tmp_path, monkeypatch) -> None:
    seen = []
    stub = SimpleNamespace(answer=lambda *_, **how: seen.append(how) or Answer(np.ones(9), 24_000, [1], "x", True))
    monkeypatch.setattr(Assistant, "from_run", classmethod(lambda cls, run, device: stub))
    audio.save(tmp_path / "question.wav", WAVE, 16_000)
    argv = ["talk", str(tmp_path / "question.wav"), "-o", str(tmp_path / "answer.wav"), "--run", "x"]
    assert cli.main([*argv, "--form", "sentence"]) == 0 and cli.main(argv) == 0
    assert [how["form"] for how in seen] == ["sentence", ""]
