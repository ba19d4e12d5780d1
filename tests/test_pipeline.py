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
from mossrepro.vocoder.flow import FlowDecoder
from mossrepro.vocoder.generator import Vocoder
from mossrepro.vocoder.speech_decoder import SpeechDecoder

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


@pytest.fixture
def speaking(assistant) -> Assistant:
    """The same with a small voice, in double precision, whose outputs move; it says 20 codes."""
    flow = FlowDecoder(16, dim=64, blocks=1, fine_blocks=1, flow_blocks=1, steps=2, chunk=0)
    torch.nn.init.normal_(flow.estimator.out.weight, std=0.1)  # it starts at zero, where codes do not matter
    vocoder = Vocoder(dim=32, blocks=1, fine_dim=32, fine_blocks=1, pitch_dim=16, look_ahead=2)
    torch.nn.init.normal_(vocoder.filters.weight, std=0.1)
    assistant.speaker = SpeechDecoder(flow.double(), vocoder.double())
    with torch.no_grad():
        assistant.model.speech_head.weight[16] = 0  # EOSP is not what an untrained model says by chance
    return assistant


TWENTY = GenerationConfig(max_positions=20)


def test_a_streamed_answer_is_the_offline_one_with_the_same_look_ahead(speaking) -> None:
    parts, made, flow = [], [], speaking.speaker.flow
    step = speaking.model.speech_head.register_forward_hook(lambda *_: made.append(len(parts)))
    streamed = speaking.answer(WAVE, config=TWENTY, on_sound=parts.append)
    step.remove()
    assert len(parts) > 2 and 0 < made[-1], "sound comes while codes are still being made"
    assert np.array_equal(np.concatenate(parts), streamed.wave) and len(streamed.wave) == 20 * 1920
    whole = speaking.answer(WAVE, config=TWENTY)
    flow.sampling = flow.sampling.streaming()
    offline = speaking.answer(WAVE, config=TWENTY)
    assert streamed.codes == offline.codes == whole.codes and streamed.ended == offline.ended
    assert offline.wave.std() > 1e-3 and np.abs(streamed.wave - offline.wave).max() < 1e-4
    assert np.abs(whole.wave - offline.wave).max() > 1e-3, "decoded at once it is another sound"


def test_a_streamed_answer_without_sound(assistant, monkeypatch) -> None:
    """A written one, as a model may give though it was asked to speak."""
    assistant.speaker.session = lambda: SimpleNamespace(close=lambda: np.zeros(0, np.float32))
    monkeypatch.setattr(assistant, "reply", lambda *_: [Reply(text=[20], ended=True)])
    parts = []
    assert len(assistant.answer(WAVE, on_sound=parts.append).wave) == 0 and parts == []


def test_talk_streams_into_a_pipe_and_tells_when_it_began(speaking, tmp_path, monkeypatch, capfdbinary) -> None:
    plain = speaking.answer
    monkeypatch.setattr(speaking, "answer", lambda *args, **how: plain(*args, **how, config=TWENTY))
    monkeypatch.setattr(Assistant, "from_run", classmethod(lambda cls, run, device: speaking))
    audio.save(tmp_path / "question.wav", WAVE, 16_000)
    argv = ["talk", str(tmp_path / "question.wav"), "--run", "x", "--stream", "-o"]
    assert cli.main([*argv, str(tmp_path / "answer.wav")]) == 0
    out, err = capfdbinary.readouterr()
    assert out == b"" and b"first sound 0." in err and b"answer.wav: 1.60 s, 20 codes" in err
    assert cli.main([*argv, "-"]) == 0
    out, err = capfdbinary.readouterr()
    sent, saved = np.frombuffer(out, "<i2") / 32_767, audio.load(tmp_path / "answer.wav", 24_000)
    assert len(sent) == 20 * 1920 and np.abs(sent - saved).max() < 1e-3 and b"-: 1.60 s" in err


@pytest.mark.parametrize(("flags", "said"), [(["--stream", "--text"], "no sound"), (["-o", "-"], "give --stream")])
def test_flags_that_contradict_each_other_are_one_line(flags, said, capsys) -> None:
    assert cli.main(["talk", "question.wav", *flags]) == 2
    assert said in capsys.readouterr().err
