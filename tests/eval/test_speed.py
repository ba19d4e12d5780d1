"""The race is fair and its results are facts; how fast anything is, is not tested."""

import pytest
from codec_toys import TINY
from lm_toys import small_model

from mossrepro import cli, facts
from mossrepro.errors import MossError
from mossrepro.eval import speed, speed_lm
from mossrepro.lm.decode import generate


def test_runners_take_turns_after_a_first_call_that_does_not_count() -> None:
    order: list[str] = []
    seconds = speed.race({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert order == ["a", "b"] * 4 and {name: len(values) for name, values in seconds.items()} == {"a": 3, "b": 3}


def test_a_bench_leaves_facts_and_a_table(tmp_path, capsys, monkeypatch) -> None:
    plain = speed.codec
    monkeypatch.setattr(speed, "codec", lambda out, rounds: plain(out, 0.4, rounds, TINY))
    assert cli.main(["bench", "codec", "--rounds", "2", "-o", str(tmp_path)]) == 0
    found = facts.load(tmp_path)
    assert set(found) == {f"bench_{kind}{who}" for kind in ("stream", "offline") for who in ("", "_mine", "_theirs")}
    assert all(fact.value > 0 and fact.n == 2 for fact in found.values())
    assert found["bench_stream"].low <= found["bench_stream"].value <= found["bench_stream"].high
    said = capsys.readouterr().out
    assert "Mimi" in said and "EnCodec" in said


@pytest.fixture
def toys(monkeypatch) -> None:
    """Two small models instead of `tiny` and SmolLM2."""
    model = small_model(codes=64, tied=True)
    monkeypatch.setattr(speed_lm, "open_start", lambda *_: (model, None))
    monkeypatch.setattr(speed_lm, "TINY", small_model(codes=64, tied=False).config)
    plain = speed_lm.decode
    monkeypatch.setattr(speed_lm, "decode", lambda out, rounds: plain(out, rounds, 6))


def test_answers_are_compared_token_by_token_and_timed(tmp_path, toys, capsys) -> None:
    assert cli.main(["bench", "decode", "--rounds", "2", "-o", str(tmp_path)]) == 0
    found = facts.load(tmp_path)
    pairs = {f"bench_{kind}_{name}{who}" for kind in ("decode", "tails") for name in ("tiny", "small")
             for who in ("", "_mine", "_theirs")}  # fmt: skip
    assert set(found) == pairs | {"bench_decode_bound", "bench_bandwidth"}
    assert all(fact.value > 0 for fact in found.values()) and "both tails" in capsys.readouterr().out


def test_other_tokens_are_no_race(tmp_path, toys, monkeypatch) -> None:
    def other(model, prompts, ids, how, **more):
        (reply,) = generate(model, prompts, ids, how, **more)
        reply.text[-1:] = [9]
        return [reply]

    monkeypatch.setattr(speed_lm, "generate", other)
    with pytest.raises(MossError, match="same tokens"):
        speed_lm.decode(tmp_path, 1)
