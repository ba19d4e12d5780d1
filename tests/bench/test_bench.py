"""The race is fair and its results are facts; how fast anything is, is not tested."""

import json
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from codec_toys import TINY
from lightning.pytorch import LightningModule
from lm_toys import small_model

from mossrepro import cli
from mossrepro.bench import codec, decode, timing, train, vocoders, voice
from mossrepro.data.token_store import TokenWriter
from mossrepro.lm.decode import generate
from mossrepro.lm.task import LayerSplitTask
from mossrepro.lm.tokenizer import SpecialIds, mini_tokenizer
from mossrepro.training import metrics
from mossrepro.utils.errors import MossError
from mossrepro.vocoder.checkpoint import save_module
from mossrepro.vocoder.flow import FlowDecoder
from mossrepro.vocoder.generator import Vocoder


def test_runners_take_turns_after_a_first_call_that_does_not_count() -> None:
    order: list[str] = []
    seconds = timing.race({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert order == ["a", "b"] * 4 and {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}


def test_a_bench_leaves_facts_and_a_table(tmp_path, capsys, monkeypatch) -> None:
    plain = codec.bench_codec
    monkeypatch.setattr(codec, "bench_codec", lambda out, rounds: plain(out, 0.4, rounds, TINY))
    assert cli.main(["bench", "codec", "--rounds", "2", "-o", str(tmp_path)]) == 0
    found = metrics.read_metrics(tmp_path)
    assert set(found) == {f"bench_{kind}{who}" for kind in ("stream", "offline") for who in ("", "_mine", "_theirs")}
    assert all(fact.value > 0 and fact.n == 2 for fact in found.values())
    assert found["bench_stream"].low <= found["bench_stream"].value <= found["bench_stream"].high
    said = capsys.readouterr().out
    assert "Mimi" in said and "EnCodec" in said


@pytest.fixture
def toys(monkeypatch) -> None:
    """Two small models instead of `tiny` and SmolLM2."""
    model = small_model(codes=64, tied=True)
    monkeypatch.setattr(decode, "open_start", lambda *_: (model, None))
    monkeypatch.setattr(decode, "TINY", small_model(codes=64, tied=False).config)
    plain = decode.bench_decode
    monkeypatch.setattr(decode, "bench_decode", lambda out, rounds: plain(out, rounds, 6))


def test_answers_are_compared_token_by_token_and_timed(tmp_path, toys, capsys) -> None:
    assert cli.main(["bench", "decode", "--rounds", "2", "-o", str(tmp_path)]) == 0
    found = metrics.read_metrics(tmp_path)
    pairs = {f"bench_{kind}_{name}{who}" for kind in ("decode", "tails") for name in ("tiny", "small")
             for who in ("", "_mine", "_theirs")}  # fmt: skip
    assert set(found) == pairs | {"bench_decode_bound", "bench_bandwidth"}
    assert all(fact.value > 0 for fact in found.values()) and "both tails" in capsys.readouterr().out


def test_other_tokens_are_no_race(tmp_path, toys, monkeypatch) -> None:
    def other(model, prompts, ids, how, **more):
        (reply,) = generate(model, prompts, ids, how, **more)
        reply.text[-1:] = [9]
        return [reply]

    monkeypatch.setattr(decode, "generate", other)
    with pytest.raises(MossError, match="same tokens"):
        decode.bench_decode(tmp_path, 1)


def test_a_training_step_is_compared_with_a_bare_loop_and_with_the_plan(tmp_path, capsys, monkeypatch) -> None:
    tokenizer = mini_tokenizer(["moss moss user assistant system", "answer in one short sentence"], 300)
    vocab = tokenizer.get_vocab_size()

    def toy(*_, train="all", monologue_at="text", **_more):
        task = LayerSplitTask.__new__(LayerSplitTask)
        LightningModule.__init__(task)
        pad = SpecialIds.of(tokenizer, 64).pad
        task.model, task.tokenizer = small_model(codes=64, tied=True, text_vocab=vocab, modality_pad=pad), tokenizer
        task.model.train_only(train)
        task.train_part = train
        task.monologue_at, task.weights = monologue_at, {"text": 1.0, "speech": 1.0}
        return task

    monkeypatch.setattr(train, "LayerSplitTask", toy)
    monkeypatch.setattr(train, "SPEECH_CODES", 64)
    monkeypatch.setattr(train.multiprocessing, "get_context", lambda kind: Here)
    assert cli.main(["bench", "train", "--rounds", "2", "-o", str(tmp_path)]) == 0
    found = metrics.read_metrics(tmp_path)
    pairs = {
        f"bench_{kind}_small{who}" for kind in ("train", "stage1", "stage1_words") for who in ("", "_mine", "_theirs")
    }
    plans = {f"bench_{what}_{part}" for what in ("memory", "plan") for part in ("speech", "all")}
    assert set(found) == pairs | plans | {"bench_stage1_memory"}
    assert "planned / measured" in capsys.readouterr().out
    bare = train.Bare.forward
    monkeypatch.setattr(train.Bare, "forward", lambda self, grid: {k: 0 * v for k, v in bare(self, grid).items()})
    with pytest.raises(MossError, match="cannot be compared"):
        train.bench_train(tmp_path, 1)


class Here:
    """A pool in this very process."""

    def __init__(self, size: int) -> None: ...

    Pool = staticmethod(lambda size: nullcontext(Here(size)))

    def apply(self, function, args):
        return function(*args)


@pytest.fixture
def small_voice(monkeypatch):
    """Tiny models in the place of `small`, and streams of four chunks."""
    flow = FlowDecoder(64, dim=64, blocks=1, fine_blocks=1, flow_blocks=1, steps=2)
    vocoder = Vocoder(dim=32, blocks=1, fine_dim=32, fine_blocks=1, pitch_dim=16)
    plain = voice.bench_voice
    monkeypatch.setattr(voice, "_of_small", lambda: (flow, vocoder))
    monkeypatch.setattr(voice, "CHUNKS", (2, 5))
    monkeypatch.setattr(voice, "PACKETS", 2)
    monkeypatch.setattr(voice, "bench_voice", lambda out, rounds, run: plain(out, rounds, run, chunks=4))
    return flow, vocoder


SOLVED = {f"bench_voice_{name}" for name in ("euler_1", "euler_2", "euler_4", "euler_10", "midpoint_2", "midpoint_5")}


def test_streams_and_solvers_are_timed(tmp_path, small_voice, capsys) -> None:
    assert cli.main(["bench", "voice", "--rounds", "2", "-o", str(tmp_path)]) == 0
    found = metrics.read_metrics(tmp_path)
    names = ("growth", "real_time", "first_p50", "first_p95", "first_codes", "flops")
    others = {f"bench_voice_{name}{who}" for name in ("hifigan", "vocos") for who in ("", "_mine", "_theirs")}
    assert set(found) == {f"bench_voice_{chunk}_{name}" for chunk in (2, 5) for name in names} | SOLVED | others
    assert all(fact.value > 0 for fact in found.values())
    # 3 codes of look-ahead; 7 convolutions and the inverse STFT hold 11 or more of a chunk's 8 or 20 frames back
    assert found["bench_voice_5_first_codes"].value == 8 and found["bench_voice_2_first_codes"].value == 7
    assert found["bench_voice_5_first_p50"].value <= found["bench_voice_5_first_p95"].value
    assert 0.9 < found["bench_voice_5_flops"].value < 1.2
    said = capsys.readouterr().out
    assert "midpoint, 5 steps" in said and "HiFi-GAN" in said and "Vocos" in said


def test_other_vocoders_have_our_length_and_nearly_our_parameters() -> None:
    ours = vocoders.parameters(Vocoder())
    for kind, step in ((vocoders.HiFiGAN, vocoders.HALVINGS), (vocoders.Vocos, 8)):
        model = vocoders.as_large(kind, step, ours)
        assert abs(vocoders.parameters(model) / ours - 1) < 0.1
        with torch.inference_mode():
            wave = model(torch.randn(2, 80, 5))
        assert wave.shape == (2, 2400) and wave.isfinite().all()
    whole = vocoders.HiFiGAN(512)  # as in the paper, but for the rates: 13.9 M at 22 kHz
    assert 13e6 < vocoders.parameters(whole) < 15e6


def test_the_voice_of_a_run_is_measured_with_its_codes(tmp_path, small_voice, capsys) -> None:
    parts = {name: str(tmp_path / name) for name in ("flow", "vocoder", "tokens")}
    for name, model in zip(("flow", "vocoder"), small_voice, strict=True):
        save_module(model, model.config, parts[name])
    with TokenWriter(parts["tokens"], 64) as tokens:
        tokens.add([("a", np.arange(30)), ("b", np.arange(9))])
    command = ["bench", "voice", "--rounds", "1", "-o", str(tmp_path / "out"), "--run", str(tmp_path)]
    assert cli.main(command) == 2 and "no parts.json" in capsys.readouterr().err
    (tmp_path / "parts.json").write_text(json.dumps(parts))
    assert cli.main(command) == 0
    found = metrics.read_metrics(tmp_path / "out")
    assert {name for name in found if name.endswith("distance")} == {f"{name}_distance" for name in SOLVED}
    assert {name for name in found if name.endswith("seams")} == {f"bench_voice_{chunk}_seams" for chunk in (2, 5)}
    assert voice._codes(64, 12, tmp_path).tolist() == list(range(12))
    assert cli.main(["bench", "codec", "--run", str(tmp_path)]) == 2
