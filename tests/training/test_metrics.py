import sys

import pytest

from mossrepro.training.metrics import Metric, read_metrics, record, wilson
from mossrepro.utils.errors import DataError


def test_wilson_against_published_values():
    """Newcombe (1998), table I: 81 of 263 gives 0.2553 to 0.3662; 0 of 20 gives 0 to 0.1611."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(0, 0) == (0.0, 1.0)
    assert wilson(20, 20)[1] == 1.0


def test_record_then_load_keeps_every_field_and_fills_hardware(tmp_path):
    fact = Metric(
        "s2s_a", "S2S on A", 81.5, "%", low=75.0, high=86.0, interval="Wilson 95 %", n=200, paper="63.67", seed=0
    )
    path = record(tmp_path, fact)
    assert path == tmp_path / "facts" / "s2s_a.json"
    loaded = read_metrics(tmp_path)["s2s_a"]
    assert (loaded.value, loaded.low, loaded.n, loaded.paper) == (81.5, 75.0, 200, "63.67")
    assert "cores" in loaded.hardware
    assert list((tmp_path / "facts").iterdir()) == [path]


def test_the_later_record_wins(tmp_path):
    record(tmp_path, Metric("x", "x", 1.0))
    record(tmp_path, Metric("x", "x", 2.0))
    assert read_metrics(tmp_path)["x"].value == 2.0


@pytest.mark.parametrize("text", ["{", "[]", '{"id": "x", "name": "x", "value": 1, "typo": 2}', '{"id": "x"}'])
def test_a_file_that_is_no_fact_is_named(tmp_path, text):
    (tmp_path / "facts").mkdir()
    (tmp_path / "facts" / "bad.json").write_text(text)
    with pytest.raises(DataError, match=r"bad\.json"):
        read_metrics(tmp_path)


def test_a_fact_knows_the_command_that_made_it(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/bin/mossrepro", "eval", "codec", "--encodec", "a b.th"])
    record(tmp_path, Metric("x", "x", 1.0))
    assert read_metrics(tmp_path)["x"].command == "mossrepro eval codec --encodec 'a b.th'"
    monkeypatch.setattr(sys, "argv", ["/bin/pytest", "tests"])
    record(tmp_path, Metric("x", "x", 1.0))
    assert read_metrics(tmp_path)["x"].command == ""
