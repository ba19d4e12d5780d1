"""Other voices than the assistant's: what the flow decoder makes of a speaker vector, and what it learns it from."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
from sound_toys import Hum, flow
from toy_run import write_toy_run

from mossrepro import cli
from mossrepro.data.corpus import CorpusWriter
from mossrepro.data.token_store import TokenWriter
from mossrepro.speech import speaker
from mossrepro.speech.speaker import VOICE_DIM
from mossrepro.utils.errors import AudioError, ConfigError, DataError
from mossrepro.vocoder import clips
from mossrepro.vocoder.checkpoint import save_module
from mossrepro.vocoder.data import FlowDataModule, VocoderDataModule
from mossrepro.vocoder.flow import FlowDecoder
from mossrepro.vocoder.generator import Vocoder
from mossrepro.vocoder.prompt import read_prompt
from mossrepro.vocoder.speech_decoder import SpeechDecoder

SMALL = dict(codes=16, dim=64, blocks=1, fine_blocks=1, flow_blocks=1, steps=2, look_ahead=2)
CODES = torch.tensor([[3, 1, 9, 9, 4, 0, 2]])


def decoder(voice_dim: int = 8, **changes) -> FlowDecoder:
    """Tiny, with random weights where it starts at zero."""
    torch.manual_seed(0)
    model = FlowDecoder(**{**SMALL, **changes}, voice_dim=voice_dim).eval()
    torch.manual_seed(1)
    torch.nn.init.normal_(model.estimator.out.weight, std=0.1)
    return model


def unit(*numbers: float, size: int = 8) -> torch.Tensor:
    vector = torch.zeros(1, size)
    vector[0, : len(numbers)] = torch.tensor(numbers)
    return torch.nn.functional.normalize(vector)


def test_the_zero_vector_is_the_voice_without_a_prompt():
    model, plain = decoder(), decoder(0)
    assert torch.equal(model(CODES, voice=unit(1.0)), plain(CODES)), "an untrained projection changes nothing"
    torch.nn.init.normal_(model.voice.weight, std=0.3)
    assert torch.equal(model(CODES), plain(CODES)) and torch.equal(model(CODES, voice=torch.zeros(1, 8)), plain(CODES))
    one, other = (model(CODES, voice=unit(*numbers)) for numbers in ((1.0,), (0.0, 1.0)))
    assert (one - other).abs().mean() > 0.01 < (one - plain(CODES)).abs().mean()
    rows = model(CODES.expand(3, -1), voice=torch.cat([unit(1.0), torch.zeros(1, 8), unit(0.0, 1.0)]))
    torch.testing.assert_close(rows, torch.cat([one, plain(CODES), other]), atol=1e-4, rtol=0)
    with pytest.raises(ConfigError, match="one voice"):
        plain(CODES, voice=unit(1.0))


def test_a_decoder_speaks_in_a_voice_at_once_and_in_a_stream():
    model = decoder(voice_dim=VOICE_DIM).double()
    torch.nn.init.normal_(model.voice.weight, std=0.3)
    plain = SpeechDecoder(model, Vocoder(dim=32, blocks=1, fine_dim=32, fine_blocks=1, pitch_dim=16).double())
    mine = plain.in_voice(unit(1.0, 2.0, size=VOICE_DIM)[0].numpy())
    codes = CODES[0].tolist()
    whole = mine.speak(codes)[0]
    assert np.abs(np.concatenate(list(mine.stream(codes))) - whole).max() < 1e-4
    assert np.abs(mine.speak_all([codes[:3], codes])[1] - whole).max() < 1e-4
    assert np.abs(plain.speak(codes)[0] - whole).max() > 1e-3
    assert np.array_equal(mine.in_voice(None).speak(codes)[0], plain.speak(codes)[0])
    for flow_decoder, said in ((decoder(0), "one voice; docs/own-voice.md"), (decoder(8), "256 numbers")):
        with pytest.raises(ConfigError, match=said):
            SpeechDecoder(flow_decoder, plain.vocoder).in_voice(np.ones(VOICE_DIM, np.float32))


def test_voices_are_learnt_and_the_default_stays():
    """One code, three voices: two vectors and none. What is sampled has the mean of the voice that is asked for."""
    model = decoder(2, codes=2, bands=2, chunk=1, look_ahead=0, guidance=0.0, mel_mean=0.0, mel_std=1.0).train()
    voices = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    means = torch.tensor([0.0, 2.0, -2.0])
    optimiser, valid = torch.optim.AdamW(model.parameters(), 3e-3), torch.ones(96, 1, dtype=torch.bool)
    for step in range(100):
        who = torch.arange(96) % 3
        mel = (means[who, None] + 0.2 * torch.randn(96, 1))[..., None].expand(96, 2, 4)
        noise, keep = torch.randn(96, 2, 4), torch.rand(96) > 0.1
        codes = torch.zeros(96, 1, dtype=torch.int64)
        flow, coarse_mel = model.losses(codes, mel, valid, torch.rand(96), noise, keep, voice=voices[who])
        optimiser.zero_grad()
        (flow + coarse_mel).backward()
        optimiser.step()
        optimiser.param_groups[0]["lr"] = 3e-3 * (1 - step / 100)
    for voice, mean in zip(voices, means, strict=True):
        made = model(torch.zeros(200, 1, dtype=torch.int64), noise=torch.randn(200, 2, 4), voice=voice[None])
        assert made.mean().item() == pytest.approx(mean.item(), abs=0.4)


def test_training_goes_on_from_a_folder(tmp_path):
    before = flow().model
    before.set_statistics(-3.0, 2.0)
    save_module(before, before.config, tmp_path / "one")
    after = flow(init_from=str(tmp_path / "one"), voice_dim=8)
    for name, tensor in before.state_dict().items():
        assert torch.equal(after.model.state_dict()[name], tensor), name
    assert after.model.config["voice_dim"] == 8 and not after.model.voice.weight.any()
    torch.nn.init.normal_(after.model.voice.weight)
    save_module(after.model, after.model.config, tmp_path / "many")
    again = flow(init_from=str(tmp_path / "many"))
    assert torch.equal(again.model.voice.weight, after.model.voice.weight), "voices stay without being asked for"
    again.trainer = SimpleNamespace(datamodule=Hum())
    again.on_fit_start()
    assert again.model.config["mel_mean"] == -3.0, "the statistics too"
    for change, said in (({"voice_dim": 4}, "voice_dim is 8, not 4"), ({"look_ahead": 1}, "look_ahead is 3, not 1")):
        with pytest.raises(ConfigError, match=f"many: its {said}"):
            flow(init_from=str(tmp_path / "many"), **change)


def test_a_voice_without_a_place_for_it_is_refused():
    """Vectors in the batches, and a model of one voice."""
    batch = Hum(seed=3).seeded_batch(0, 0, 1) | {"voice": torch.zeros(4, 8)}
    with pytest.raises(ConfigError, match="voice_dim is 0"):
        flow().training_step(batch, 0)


def test_a_model_of_voices_learns_without_vectors_too():
    """A process that shares its gradients with others has one of every weight."""
    task = flow(voice_dim=8)
    task.log_dict = lambda *_, **__: None
    task.training_step(Hum(seed=3).seeded_batch(0, 0, 1), 0).backward()
    assert task.model.voice.weight.grad is not None and not task.model.voice.weight.grad.any()


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    """Clips of a steady tone each: clip i hums at 200 + 20 i Hz and its codes are all i. Its vector has a one at i."""
    with CorpusWriter(tmp_path) as writer, TokenWriter(tmp_path / "tokens", 16) as tokens:
        for i, who in enumerate(["assistant"] * 3 + ["anna"] * 3 + ["ben", "assistant", "anna"]):
            time = np.arange(1920 * (4 + i % 3)) / 24_000
            wave = 0.1 * sum(np.sin(2 * np.pi * (200 + 20 * i) * h * time) / h for h in (1, 2, 3))
            writer.add(f"clip-{i}", wave.astype(np.float32), 24_000, "hum", who, "train" if i < 7 else "valid")
            tokens.add([(f"clip-{i}", np.full(4 + i % 3, i))])

    def embed(wave: np.ndarray) -> np.ndarray:
        peak = np.abs(np.fft.rfft(wave)).argmax() * 16_000 / len(wave)
        return np.eye(VOICE_DIM, dtype=np.float32)[round((peak - 200) / 20)]

    monkeypatch.setattr(speaker.SpeakerEncoder, "pretrained", classmethod(lambda cls: SimpleNamespace(embed=embed)))
    return tmp_path


WHOSE = {"assistant": {0, 1, 2}, "anna": {3, 4, 5}, "ben": {6}}


def test_rows_of_others_have_the_vector_of_another_clip(corpus):
    tokens = str(corpus / "tokens")
    data = FlowDataModule(str(corpus), tokens, batch=64, length=12, others=str(corpus), others_tokens=tokens)
    batch = data.train_batch(0, 0, 1)
    assert batch["voice"].shape == (64, VOICE_DIM) and batch["codes"].shape == (64, 12)
    seen = {name: [] for name in WHOSE}
    for codes, voice in zip(batch["codes"].tolist(), batch["voice"], strict=True):
        (who,) = [name for name, whose in WHOSE.items() if set(codes) <= whose]
        seen[who].append(int(voice.argmax()) if voice.any() else None)
        assert seen[who][-1] is None or {seen[who][-1]} <= WHOSE[who]
        assert who == "ben" or seen[who][-1] != codes[0]
    assert None not in seen["anna"] + seen["ben"], "nobody else is spoken without a vector"
    assert 0.2 < seen["assistant"].count(None) / len(seen["assistant"]) < 0.8 and 16 < len(seen["assistant"]) < 48
    halves = [data.train_batch(0, rank, 2) for rank in (0, 1)]
    for key in ("codes", "mel", "voice"):
        assert torch.equal(torch.cat([half[key] for half in halves]), batch[key]), key
    for valid in data.val_batches():
        assert "voice" not in valid and set(valid["codes"].unique().tolist()) == {7}


def test_vectors_are_of_few_clips(corpus, monkeypatch):
    monkeypatch.setattr(clips, "VECTORS", 1)
    tokens = str(corpus / "tokens")
    data = FlowDataModule(str(corpus), tokens, batch=64, length=6, others=str(corpus), others_tokens=tokens)
    voices = data.train_batch(0, 0, 1)["voice"]
    assert set(voices.argmax(1)[voices.any(1)].tolist()) == {0, 1, 3, 4, 6}


def test_pieces_of_others_are_among_the_vocoders(corpus):
    def tones(batch) -> set[int]:
        peaks = torch.fft.rfft(batch["wave"], 24_000).abs().argmax(-1)  # 1 Hz a bin
        return {round((int(peak) - 200) / 20) for peak in peaks}

    plain = VocoderDataModule(str(corpus), batch=32, frames=16)
    data = VocoderDataModule(str(corpus), batch=32, frames=16, others=str(corpus), others_share=0.5)
    batch = data.train_batch(0, 0, 1)
    assert tones(batch) == set(range(7)) and tones(plain.train_batch(0, 0, 1)) == WHOSE["assistant"]
    assert torch.equal(torch.cat([data.train_batch(0, rank, 2)["wave"] for rank in (0, 1)]), batch["wave"])
    assert tones(data.val_batches()[0]) == {7}


def test_what_is_asked_of_others_must_be_there(corpus, tmp_path):
    tokens = str(corpus / "tokens")
    for bad in (
        {"others": str(corpus)},
        {"others_tokens": tokens},
        {"others": str(corpus), "others_tokens": tokens, "others_share": 1.0},
        {"others": str(corpus), "others_tokens": tokens, "voice_dropout": 0.0},
    ):
        with pytest.raises(ConfigError, match="others|voice_dropout"):
            FlowDataModule(str(corpus), tokens, **bad)
    with CorpusWriter(tmp_path / "alone") as writer:
        writer.add("a", np.full(1920, 0.1, np.float32), 24_000, "a", "assistant", "train")
    with pytest.raises(DataError, match="alone: no training clip of anyone but 'assistant'"):
        VocoderDataModule(str(corpus), others=str(tmp_path / "alone"), batch=8).train_batch(0, 0, 1)


def test_a_pickled_module_goes_on(corpus):
    """As a loader process gets it: without what is kept in memory."""
    import pickle

    tokens = str(corpus / "tokens")
    data = FlowDataModule(str(corpus), tokens, batch=4, length=6, others=str(corpus), others_tokens=tokens)
    batch = data.train_batch(3, 0, 1)
    copied = pickle.loads(pickle.dumps(data))
    assert copied.own._voices == {} and copied.own._sounds.cache_info().currsize == 0
    assert all(torch.equal(batch[key], value) for key, value in copied.train_batch(3, 0, 1).items())


RATE = 16_000
WAVE = (0.3 * np.sin(np.arange(5 * RATE) / 9)).astype(np.float32)
PROMPTS = {  # a file: its samples, what the line says
    "silent.wav": (np.zeros(5 * RATE, np.float32), "silent"),
    "short.wav": (WAVE[: RATE * 3 // 10], "0.3 s of sound"),
    "pause.wav": (np.concatenate([WAVE[:RATE], np.zeros(4 * RATE, np.float32)]), "1.1 s of sound"),
    "long.wav": (np.tile(WAVE, 120), "600 s long; a voice prompt may last 60 s"),
    "nan.wav": (np.where(np.arange(len(WAVE)) == 99, np.nan, WAVE).astype(np.float32), "not finite"),
    "text.wav": (None, "not a sound file"),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_a_prompt_that_is_none_is_one_line_before_the_work(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    soundfile.write("question.wav", WAVE[:RATE], RATE)
    wave, said = PROMPTS[name]
    if wave is None:
        (tmp_path / name).write_text("not a sound")
    else:
        soundfile.write(name, wave, RATE, subtype="FLOAT")
    assert cli.main(["talk", "question.wav", "--run", "nowhere", "--voice-prompt", name]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert name in line and said in line
    with pytest.raises(AudioError, match=name):
        read_prompt(name)


def test_talk_answers_in_the_voice_of_a_prompt(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = write_toy_run(tmp_path / "run", tmp_path / "cache")
    folder = tmp_path / "cache" / "fit-flow" / "flow"
    soundfile.write("me.wav", WAVE, RATE), soundfile.write("question.wav", WAVE[:RATE], RATE)
    argv = ["talk", "question.wav", "--run", str(run), "-o"]
    assert cli.main([*argv, "answer.wav", "--voice-prompt", "me.wav"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "one voice; docs/own-voice.md" in line
    torch.manual_seed(0)
    plain = FlowDecoder.from_pretrained(folder)
    many = FlowDecoder(**plain.config | {"voice_dim": VOICE_DIM})
    torch.nn.init.normal_(many.estimator.out.weight, std=0.1), torch.nn.init.normal_(many.voice.weight)
    save_module(many, many.config, tmp_path / "many")
    others = ["--flow", str(tmp_path / "many")]
    assert (
        cli.main([*argv, "plain.wav", *others]) == 0 == cli.main([*argv, "a.wav", *others, "--voice-prompt", "me.wav"])
    )
    hears = FlowDecoder(**many.config | {"prompts": True})
    hears.load_state_dict(hears.state_dict() | many.state_dict()), torch.nn.init.normal_(hears.shown.weight)
    save_module(hears, hears.config, tmp_path / "hears")
    for which, name in (("many", "c"), ("hears", "b")):
        for end in ([], ["--stream"]):
            told = ["--flow", str(tmp_path / which), "--voice-prompt", "me.wav", *end]
            assert cli.main([*argv, f"{name}{len(end)}.wav", *told]) == 0
    sounds = {name: soundfile.read(f"{name}.wav")[0] for name in ("plain", "a", "b0", "b1", "c0", "c1")}
    assert len({len(sound) for sound in sounds.values()}) == 1 and np.array_equal(sounds["a"], sounds["c0"])
    for one, other in (("plain", "a"), ("b0", "a"), ("b1", "c1")):
        assert np.abs(sounds[one] - sounds[other]).max() > 1e-3, (one, other)
    assert cli.main([*argv, "x.wav", "--flow", "gone"]) == 2 and "gone" in capsys.readouterr().err
    fewer = FlowDecoder(**plain.config | {"codes": 5})
    save_module(fewer, fewer.config, tmp_path / "fewer")
    assert cli.main([*argv, "x.wav", "--flow", "fewer"]) == 2
    assert "fewer: the codec has" in capsys.readouterr().err
    assert cli.main([*argv, "x.wav", "--text", "--voice-prompt", "me.wav"]) == 2
    with pytest.raises(SystemExit):
        cli.main(["talk", "--help"])
    assert "agreed to it" in " ".join(capsys.readouterr().out.split())


def test_a_config_of_before_is_read(tmp_path):
    """One without `voice_dim`."""
    model = decoder(0)
    save_module(model, {key: value for key, value in model.config.items() if key != "voice_dim"}, tmp_path)
    assert "voice_dim" not in json.loads((tmp_path / "config.json").read_text())
    assert torch.equal(FlowDecoder.from_pretrained(tmp_path)(CODES), model(CODES))
