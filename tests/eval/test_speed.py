"""The race is fair and its results are facts; how fast anything is, is not tested."""

from codec_toys import TINY

from mossrepro import cli, facts
from mossrepro.eval import speed


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
