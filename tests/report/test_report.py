"""The report: judgement of claims, exit code, and a page that stands alone."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import soundfile

from mossrepro import cli
from mossrepro.report import claims, figures, page, run_data, tables, verb
from mossrepro.report.claims import FAILED, MISSING, PASSED, SHOWN, Claim
from mossrepro.training.metrics import Metric, record
from mossrepro.utils.errors import ConfigError, DataError

CLAIMS = """
- {id: heard, name: "heard | right", unit: "%", low: 80, sizes: [small], paper: 63.7}
- {id: change, name: change, low: 0, high: 0}
- {id: control, name: control, unit: "%", high: 5, controls: true}
"""


@pytest.fixture
def run(tmp_path):
    """A small run with everything a report shows, one failed claim among it."""
    folder = tmp_path / "runs" / "small"
    (folder / "wav").mkdir(parents=True)
    (folder / "metrics").mkdir()
    (tmp_path / "claims.yaml").write_text(CLAIMS)
    record(
        folder, Metric("heard", "x", 71.0, "%", low=64.4, high=76.8, interval="Wilson 95 %", n=200, command="eval lm")
    )
    record(folder, Metric("change", "x", 0.0))
    record(folder, Metric("extra", "an unclaimed <number>", 0.061))
    stages = [{"stage": "codec", "minutes": 2.5, "cached": True, "hardware": "2 cores"}, {"stage": "sft", "minutes": 1}]
    (folder / "stages.json").write_text(json.dumps(stages))
    lines = [json.dumps({"step": i, "seconds": i, "train/loss": 1 / i, "val/wer": 0.5}) for i in range(1, 50)]
    (folder / "metrics" / "codec.jsonl").write_text("\n".join(lines) + '\n{"step": 50, "tr')
    (folder / "metrics" / "sft.csv").write_text("step,train/loss,val/acc\n1,2.0,\n2,1.5,0.5\n")
    wave = 0.1 * np.sin(np.arange(8000) / 10)
    soundfile.write(folder / "wav" / "q.wav", wave, 16_000)
    soundfile.write(folder / "wav" / "a.wav", wave, 24_000)
    talk = {
        "question": "q.wav",
        "answer": "a.wav",
        "question_text": "Two <b> or not?",
        "reference": "2",
        "heard": "two",
    }
    (folder / "wav" / "index.json").write_text(json.dumps([{**talk, "set": "C"}, {**talk, "answer": "gone.wav"}]))
    return folder


def render(run, *more):
    return cli.main(["report", "--run", str(run), "--claims", str(run.parents[1] / "claims.yaml"), *more])


class Page(HTMLParser):
    """Collects what a page loads, and that its tags close."""

    def __init__(self):
        super().__init__()
        self.sources, self.open, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.sources += [value for key, value in attrs if key in ("src", "href")]
        if tag not in ("meta", "img", "line", "circle"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_answers_are_shown_by_family(run):
    counts = {"facts": 3, "questions": 6, "right": 4}
    rows = [{"set": name, "pairing": pairing, "family": family, "stem": family == "plural", **counts}
            for name in "AC" for pairing in ("T2T", "S2S") for family in ("plural", "capital")]  # fmt: skip
    (run / "families.json").write_text(json.dumps(rows))
    read = run_data.read_run(run, "small", [])
    assert tables.family_rows(read) == [["capital", "3", "4 of 6", "", "", "4 of 6"],
                                        ["plural *", "3", "4 of 6", "", "", "4 of 6"]]  # fmt: skip
    assert "| plural * | 3 | 4 of 6 |" in tables.markdown(read) and "<h2>By family</h2>" in page.render(read)
    (run / "families.json").unlink()
    read = run_data.read_run(run, "small", [])
    assert "By family" not in page.render(read) and tables.FAMILY_NOTE not in tables.markdown(read)


def test_open_questions_are_shown_with_both_replies_and_as_text(run):
    rows = [{"test": test, "question": f"Why {i}?", "voice": "v", "read": "It <b>is</b>.", "heard": "It was."}
            for test in ("heard", "any") for i in range(20)]  # fmt: skip
    (run / "answers.json").write_text(json.dumps(rows))
    read = run_data.read_run(run, "small", [])
    for shown in (page.render(read), tables.markdown(read)):
        assert shown.count("It &lt;b&gt;is&lt;/b&gt;.") == 2 * tables.OPEN_SHOWN and "<b>is" not in shown
    assert tables.markdown(read).count("| It was. |") == 24
    (run / "answers.json").write_text(json.dumps([{**rows[0], "heard": "a | b\n\nc"}]))
    assert "| a / b c |" in tables.markdown(run_data.read_run(run, "small", []))  # a reply may hold anything
    (run / "answers.json").write_text('[{"test": 3}]')
    with pytest.raises(DataError, match="answers.json: entry 1"):
        run_data.read_run(run, "small", [])
    (run / "answers.json").unlink()
    read = run_data.read_run(run, "small", [])
    assert "Open questions" not in page.render(read) and "open question" not in tables.markdown(read)


def test_a_failed_claim_shows_and_makes_the_exit_code_1(run, capsys):
    assert render(run) == 1
    out = capsys.readouterr().out
    assert "FAILED heard: 71.0 % (64.4 to 76.8), expected ≥ 80" in out and "✗" in out
    assert "1 of 2 claims failed: heard" in (run / "report.html").read_text()


def test_when_all_hold_the_exit_code_is_0(run):
    record(run, Metric("heard", "x", 83.5, "%", n=200))
    assert render(run) == 0
    assert "all 2 claims that are expected of this size hold" in (run / "report.html").read_text()


def test_the_page_stands_alone_and_shows_everything(run):
    render(run)
    page = Page()
    page.feed((run / "report.html").read_text())
    assert not page.open
    kinds = [source.split(";")[0] for source in page.sources]
    assert kinds.count("data:audio/wav") == 3 and kinds.count("data:image/png") == 2 and len(kinds) == 5
    text = " ".join(page.text)
    for shown in ("Two <b> or not?", "gone.wav is missing", "an unclaimed <number>", "codec", "3.5", "63.7", "n = 200"):
        assert shown in text, shown


def test_a_bare_run_still_renders(tmp_path):
    record(tmp_path, Metric("change", "x", 0.0))
    (tmp_path / "claims.yaml").write_text(CLAIMS)
    code = cli.main(["report", "--run", str(tmp_path), "--size", "tiny", "--claims", str(tmp_path / "claims.yaml")])
    assert code == 0 and (tmp_path / "report.html").stat().st_size > 1000


def test_the_pairings_are_drawn_with_their_intervals_and_chance(run):
    render(run)
    assert not (run / "pairings.png").exists()
    record(run, Metric("chance_c", "chance", 10.8))
    for id_, value in (("t2t_c", 93.2), ("s2t_a", 86.0), ("s2s_c", 1.4)):
        record(run, Metric(id_, id_, value, "%", low=value - 1, high=value + 2))
    render(run)
    assert (run / "pairings.png").stat().st_size > 5000 and "Asked and answered" in (run / "report.html").read_text()
    axes = figures.pairings(run_data.read_run(run, "small", [])).axes[0]
    assert sorted(text.get_text() for text in axes.texts) == ["1", "86", "93"]
    assert sum(line.get_linestyle() == ":" for line in axes.lines) == 2  # chance is known for C only


def test_growth_is_drawn_from_the_lengths_and_facts_that_were_asked(run):
    assert figures.growth(run_data.read_run(run, "small", [])) is None
    for name, value in (("baseline", 38.0), ("length_20", 12.0), ("no_split", 37.0)):
        record(run, Metric(f"ablation_{name}_s2t_c", name, value, "%", low=value - 9, high=value + 9))
    record(run, Metric("s2t_c", "the run", 58.0, "%"))
    figure = figures.growth(run_data.read_run(run, "small", []))
    assert len(figure.axes) == 1
    whole = [line for line in figure.axes[0].lines if line.get_label() == "S2T on C"]
    assert [list(whole[0].get_xdata()), list(whole[0].get_ydata())] == [[20, 40, 100], [12, 38, 58]]
    record(run, Metric("ablation_facts_25_s2t_c", "a quarter", 20.0, "%"))
    _, by_facts = figures.growth(run_data.read_run(run, "small", [])).axes
    line = next(line for line in by_facts.lines if line.get_label() == "S2T on C")
    assert [list(line.get_xdata()), list(line.get_ydata())] == [[25, 100], [20, 38]]
    render(run)
    assert "What grows with steps" in (run / "report.html").read_text()


def test_the_validation_by_pairing_has_a_panel_of_its_own(run):
    rows = [{"step": float(i), "train/text": 1.0, "val/S2T": 1.0, "val/S2S": 2.0} for i in range(3)]
    loaded = run_data.read_run(run, "small", [])
    loaded.curves = {"sft": rows}
    with_valid = page._curves(loaded)
    loaded.curves = {"sft": [{"step": row["step"], "train/text": 1.0} for row in rows]}
    assert len(with_valid) > 1.2 * len(page._curves(loaded)) > 0


def test_the_loss_of_the_answer_words_is_no_error_rate(run, monkeypatch):
    keys = [f"val/{pairing}{end}" for pairing in ("S2T", "T2S", "S2S") for end in ("", "_answer")]
    loaded, drawn = run_data.read_run(run, "small", []), []
    loaded.curves = {"sft": [{"step": 1.0} | dict.fromkeys([*keys, "val/wer"], 1.0)]}
    monkeypatch.setattr(page, "_panel", lambda axes, stage, rows, keys: drawn.append(keys))
    page._curves(loaded)
    assert drawn == [sorted(keys[::2]), sorted(keys[1::2]), ["val/wer"]]


def test_markdown_is_a_table_of_equal_rows(run, tmp_path):
    render(run, "--markdown", str(tmp_path / "out.md"))
    title, introduction, table, *_ = (tmp_path / "out.md").read_text().split("\n\n")
    assert title == "# Results at `small`" and "configs/claims.yaml" in introduction
    claims = table.splitlines()
    assert len(claims) == 6 and {line.count("|") for line in claims} == {7}
    assert "heard / right" in claims[2] and "71.0 % (64.4 to 76.8)" in claims[2]


@pytest.mark.parametrize(
    ("claim", "value", "size", "status"),
    [
        (Claim("x", "x", above=25), 25.0, "small", FAILED),  # no interval
        (Claim("x", "x", above=25), (40.0, 25.1), "small", PASSED),
        (Claim("x", "x", above=25), (40.0, 25.0), "small", FAILED),
        (Claim("x", "x", low=50, above=25), (40.0, 30.0), "small", FAILED),
        (Claim("x", "x", low=80), 80.0, "small", PASSED),
        (Claim("x", "x", low=80), 79.9, "small", FAILED),
        (Claim("x", "x", high=5), 5.1, "small", FAILED),
        (Claim("x", "x", low=0, high=0), 1e-9, "small", FAILED),
        (Claim("x", "x", low=80), float("nan"), "small", FAILED),
        (Claim("x", "x", low=80, sizes=["small"]), 1.0, "tiny", SHOWN),
        (Claim("x", "x"), 1.0, "small", SHOWN),
        (Claim("x", "x", low=80), None, "small", FAILED),
        (Claim("x", "x", low=80, controls=True), None, "small", MISSING),
        (Claim("x", "x"), None, "small", MISSING),
    ],
)
def test_judgement(claim, value, size, status):
    value, low = value if isinstance(value, tuple) else (value, None)
    fact = None if value is None else Metric("x", "x", value, low=low)
    assert claim.judge(fact, size) == status


@pytest.mark.parametrize(
    ("claim", "said"),
    [
        (Claim("x", "x", low=15, above=0), "≥ 15, interval above 0"),
        (Claim("x", "x", above=25), "interval above 25"),
        (Claim("x", "x", low=0, high=0), "= 0"),
        (Claim("x", "x", low=1, high=2, above=0), "1 to 2, interval above 0"),
        (Claim("x", "x", low=15, sizes=["small"]), "≥ 15"),
        (Claim("x", "x", low=15, sizes=["long"]), ""),
        (Claim("x", "x"), ""),
    ],
)
def test_what_is_expected_is_said_in_words(claim, said):
    assert claim.expectation("small") == said


def test_missing_runs_and_broken_files_are_named(tmp_path, run):
    with pytest.raises(DataError, match="nowhere: no such run"):
        verb.write(tmp_path / "nowhere", "small")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no facts yet"):
        verb.write(tmp_path / "empty", "small")
    (run / "stages.json").write_text("{")
    with pytest.raises(DataError, match=r"stages\.json"):
        verb.write(run, "small")


@pytest.mark.parametrize("text", ["- {id: x, nmae: y}", "- {id: x", "- {id: x, name: a}\n- {id: x, name: b}", "- 3"])
def test_a_broken_claims_file_is_named(tmp_path, text):
    (tmp_path / "claims.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"claims\.yaml"):
        claims.read_claims(tmp_path / "claims.yaml")


def test_the_committed_claims_are_sound():
    committed = claims.read_claims()
    rungs = {"tiny", "small", "long"}
    assert all(re.fullmatch(r"[a-z0-9_]+", claim.id) and set(claim.sizes) <= rungs for claim in committed)
    assert all(claim.low is None or claim.high is None or claim.low <= claim.high for claim in committed)
    bars = {claim.id: (claim.low, claim.high) for claim in committed}
    assert bars["s2s_a"] == (75, None) and bars["codec_wer"] == (None, 15) and bars["s2s_c_gain"] == (20, None)


def test_numbers_read_well():
    shown = {0.0612: "0.0612", 4.312: "4.31", 83.5: "83.5", 1234.5: "1234", 0.0: "0", None: ""}
    assert {value: tables.number(value) for value in shown} == shown


def test_the_terminal_shows_what_the_size_expects_and_where_the_rest_is(run, capsys):
    render(run)
    said = capsys.readouterr().out
    loaded = run_data.read_run(run, "small", claims.read_claims(run.parents[1] / "claims.yaml"))
    assert {row.status for row in tables.expected_rows(loaded)} <= {PASSED, FAILED}
    assert "unclaimed" not in said and "1 more numbers: report.html" in said
    for row in loaded.rows:
        row.status = SHOWN  # a size of which nothing is expected
    assert [row.fact is not None for row in tables.expected_rows(loaded)] == [True] * 3


@pytest.mark.parametrize("bounds", [(0.0, 7_934_506_882_082.0), (float("-inf"), 1.0), (0.0, float("nan"))])
def test_no_interval_is_absurd(bounds):
    shown = tables.measured(Metric("x", "x", 3.0, "x", *bounds))
    assert shown == "3 x (interval too wide to say)"
    assert tables.measured(Metric("x", "x", 81.5, "%", 75.5, 86.3)) == "81.5 % (75.5 to 86.3)"


def test_sounds_come_before_claims_and_what_was_not_run_is_folded(run):
    render(run)
    page = (run / "report.html").read_text()
    assert page.index("<h2>Listen</h2>") < page.index("<h2>Claims</h2>") < page.index("<h2>Training</h2>")
    loaded = run_data.read_run(run, "small", [Claim("never", "never run", "%", controls=True)])
    folded = page_of(loaded)
    assert folded.index("<details>") < folded.index("never run") < folded.index("</details>")


def page_of(loaded) -> str:
    return page.render(loaded)
