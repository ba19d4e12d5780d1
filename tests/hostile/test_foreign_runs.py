"""A run of somebody else, and names that are paths: nothing is read or written elsewhere, no text is markup."""

import base64
import json
import re

import pytest
import soundfile
from hostile_sounds import RATE, WAVE, sparse
from matplotlib.figure import Figure

from mossrepro import cli
from mossrepro.experiments import reproduce
from mossrepro.report import figures, run_data
from mossrepro.training.metrics import Metric, record
from mossrepro.training.runs import run_folder
from mossrepro.utils.errors import DataError

CLAIMS = '- {id: heard, name: heard, unit: "%", low: 80}\n'
TALK = {"question": "q.wav", "answer": "a.wav", "question_text": "What?", "reference": "2", "heard": "two", "set": "A"}


@pytest.fixture
def run(tmp_path):
    """A run with a fact, a curve and two sounds, in a folder that also holds a secret."""
    folder = tmp_path / "runs" / "x"
    (folder / "wav").mkdir(parents=True)
    (folder / "metrics").mkdir()
    (tmp_path / "secret.txt").write_text("the secret")
    (tmp_path / "claims.yaml").write_text(CLAIMS)
    record(
        folder, Metric("heard", "heard", 90.0, "%", low=80.0, high=95.0, n=9, command="eval", hardware="h", commit="c")
    )
    (folder / "metrics" / "sft.jsonl").write_text('{"step": 1, "train/loss": 2.0}\n{"step": 2, "train/loss": 1.0}\n')
    for name in ("q", "a"):
        soundfile.write(folder / "wav" / f"{name}.wav", WAVE, RATE)
    (folder / "wav" / "index.json").write_text(json.dumps([TALK]))
    (folder / "stages.json").write_text(json.dumps([{"stage": "sft", "minutes": 1.5, "cached": True, "hardware": "h"}]))
    return folder


@pytest.fixture
def report(run, capsys, monkeypatch):
    """Renders the run: (exit code, what it said, the page)."""
    monkeypatch.chdir(run.parents[1])

    def render(*flags):
        code = cli.main(["report", "--run", str(run), "--claims", "claims.yaml", *flags])
        out, err = capsys.readouterr()
        page = run / "report.html"
        return code, out + err, page.read_text() if page.is_file() else ""

    return render


def secrets(page: str) -> list[bytes]:
    """What a page has embedded as sound, where it is none."""
    found = [base64.b64decode(text) for text in re.findall(r"audio/\w+;base64,([^\"]*)", page)]
    return [data for data in found if not data.startswith(b"RIFF")]


ELSEWHERE = ["/etc/passwd", "../../../secret.txt", "../../../secret.txt\0", "linked.wav", "sub/x.wav", "text.wav",
             "pipe.wav", ".", "", "..", "q.wav/..", "~/secret.txt", "x" * 5_000]  # fmt: skip


def test_a_page_embeds_sounds_of_its_run_and_nothing_else(run, report, tmp_path):
    (run / "wav" / "linked.wav").symlink_to(tmp_path / "secret.txt")
    (run / "wav" / "sub").symlink_to(tmp_path, target_is_directory=True)
    soundfile.write(tmp_path / "x.wav", WAVE, RATE)  # not even a sound
    (run / "wav" / "text.wav").write_text("the secret")
    talks = [{**TALK, key: name} for key, name in zip(("question", "answer") * 7, ELSEWHERE, strict=False)]
    (run / "wav" / "index.json").write_text(json.dumps([TALK, *talks]))
    code, said, page = report()
    assert code == 0 and len(re.findall("<audio", page)) == 2 + len(ELSEWHERE) and secrets(page) == [], said


def test_a_sound_that_is_too_large_is_not_embedded(run, report):
    sparse(run / "wav" / "a.wav", 3_600)
    code, said, page = report()
    assert code == 0 and len(page) < 2 << 20 and "a.wav is not" in page, said


@pytest.mark.parametrize("link", ["report.partial", "report.html", "pairings.png"])
def test_a_report_is_written_into_its_run(link, run, report, tmp_path):
    for pairing in ("t2t_c", "s2t_c"):
        record(run, Metric(pairing, pairing, 50.0, "%"))
    (run / link).symlink_to(tmp_path / "secret.txt")
    assert report()[0] == 0 and (tmp_path / "secret.txt").read_text() == "the secret"


LINKED = ["facts/heard.json", "facts", "metrics/sft.jsonl", "metrics", "stages.json", "wav/index.json", "wav",
          "families.json", "answers.json"]  # fmt: skip


@pytest.mark.parametrize("name", LINKED)
def test_no_file_of_a_run_is_read_or_written_through_a_link_that_leads_out(name, run, report, tmp_path):
    """A report is sent around: what it shows is of the run."""
    there, here = tmp_path / "there", run / name
    if here.exists():
        here.rename(there)
    else:
        there.write_text("[]")
    here.symlink_to(there, target_is_directory=there.is_dir())
    code, said, page = report()
    assert code == 2 and page == "" and "leads out of" in said and said.count("\n") == 1, said
    if name == "facts":
        with pytest.raises(DataError, match="leads out of"):
            record(run, Metric("x", "x", 1.0))
        assert [path.name for path in there.iterdir()] == ["heard.json"]


INDEXES = ["{", "3", "{}", "[3]", "[{}]", "[null]", '["q.wav"]', "[" * 100_000, '[{"question": 3, "answer": "a.wav"}]',
           json.dumps([{**TALK, "question_text": 3}]),
           json.dumps([{**TALK, "heard": ["x"]}]),
           json.dumps([{**TALK, "question_text": "\ud800"}]), '"\\ud800"', b"\xff\xfe"]  # fmt: skip
STAGES = ["{", "3", "[3]", "[{}]", '[{"stage": "x"}]', '[{"stage": 3, "minutes": 1}]',
          '[{"stage": "x", "minutes": "1"}]',
          '[{"stage": "x", "minutes": NaN}]', '[{"stage": "x", "minutes": 1e999}]', '[{"stage": "x", "minutes": -1}]',
          '[{"stage": "x", "minutes": 1, "hardware": {}}]']  # fmt: skip
FACT = {"id": "x", "name": "x", "value": 1.0}
FACTS = ["{", "[]", "{}", "[" * 100_000, b"\xff", *(json.dumps({**FACT, key: value}) for key, value in (
    ("id", 3), ("id", "../x"), ("id", ""), ("name", ["x"]), ("name", "\ud800"), ("value", "1"), ("value", None),
    ("value", [1]), ("value", True), ("unit", 3), ("low", "0"), ("n", "<script>"), ("n", 1.5), ("command", 3),
    ("hardware", {}), ("commit", []), ("seed", "x"), ("paper", [3]), ("seconds", "1"), ("unknown", 3))),
    '{"id": "x", "name": "x", "value": ' + "9" * 400 + "}"]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text"),
    [("wav/index.json", text) for text in INDEXES]
    + [("stages.json", text) for text in STAGES]
    + [("facts/x.json", text) for text in FACTS]
    + [("metrics/x.jsonl", b"\xff\n"), ("metrics/x.csv", "step,a\nx,y\n"), ("metrics/x.csv", b"\xff\n")],
)
def test_a_file_of_a_run_that_nobody_can_use_is_named(name, text, run, report):
    (run / name).write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    code, said, page = report()
    assert code == 2 and page == "" and str(run / name) in said and said.count("\n") == 1, said


LINES = ["3", "[]", "null", '{"step": "x"}', '{"step": null}', '{"loss": 1}', '{"step": NaN, "loss": 1}', "", "{",
         '{"step": 1e999, "loss": 2}', '{"step": 3, "train/loss": "x"}', "[" * 100_000, '{"step": true, "loss": 1}',
         '{"step": 3, "train/loss": ' + "9" * 400 + "}", '{"step": 3, "train/loss": 1e308}', '{"step": 3, "loss": [1]}',
         '{"step": -1e308, "loss": -1e308}', '{"step": 3, "train/loss": ' + "9" * 5_000 + "}"]  # fmt: skip


def test_a_line_of_a_curve_that_nobody_can_draw_is_left_out(run, report):
    path = run / "metrics" / "sft.jsonl"
    good = path.read_text()
    path.write_text("\n".join(LINES) + "\n" + good)
    rows = run_data.read_curve(path)
    assert [row for row in rows if len(row) > 1] == [{"step": 1, "train/loss": 2}, {"step": 2, "train/loss": 1}]
    code, said, page = report()
    assert code == 0 and "<h2>Training</h2>" in page, said


MARKUP = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "[/]", "[bold red]x",
          "[link=file:///etc]x[/link]", r"$\frac$", r"\$ $", "$x$ ^ {", ":smile:", "\x1b[2J\x1b]0;x\x07", "a\nb", "|",
          "\u202eb", "%s {0} {", "_x", "'"]  # fmt: skip


def test_names_are_shown_as_they_are(run, report, tmp_path):
    for i, text in enumerate(MARKUP):
        texts = dict.fromkeys(("name", "unit", "command", "hardware", "commit", "interval", "paper"), text)
        record(run, Metric(f"more{i}", value=1.0, **texts))
    record(run, Metric("heard", MARKUP[0], 90.0, hardware=MARKUP[1], commit=MARKUP[0]))
    fields = ("question_text", "reference", "heard", "set")
    (run / "wav" / "index.json").write_text(json.dumps([{**TALK, **dict.fromkeys(fields, text)} for text in MARKUP]))
    stages = [{"stage": text, "minutes": 1.5, "hardware": text} for text in MARKUP]
    (run / "stages.json").write_text(json.dumps(stages))
    lines = [{"step": 1, f"{text}loss": 2.0, f"loss{text}": 1.0} for text in MARKUP]
    (run / "metrics" / "sft.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    claims = [{"id": f"more{i}", "name": text, "low": 0, "paper": text} for i, text in enumerate(MARKUP)]
    (tmp_path / "claims.yaml").write_text(json.dumps(claims))
    code, said, page = report("--markdown", "out.md")
    assert code == 0, said
    markdown = (tmp_path / "out.md").read_text()
    assert "<script" not in page + markdown and "<img src=x" not in page + markdown
    assert "\x1b" not in said + page + markdown and "\u202e" not in said
    table = markdown.split("\n\n")[2].splitlines()
    assert len(table) == 2 + len(MARKUP) + 1 and {line.count("|") for line in table} == {7}
    for text in MARKUP:
        if text.isprintable() and len(text) < 12:
            assert text in said, text  # not taken for markup, not dropped


@pytest.mark.parametrize("text", MARKUP)
def test_a_figure_takes_no_text_for_a_formula(text):
    figure = Figure()
    axes = figure.subplots()
    figures._panel(axes, text, [{"step": 1.0, text: 1.0}], [text])
    figure.draw_without_rendering()
    assert len(axes.get_legend().get_texts()) == 1


def test_the_name_of_a_run_is_no_markup(run, report, capsys):
    other = run.with_name("[red]x[bold]")
    run.rename(other)
    assert cli.main(["report", "--run", str(other), "--claims", "claims.yaml"]) == 0
    assert "[red]x[bold]" in capsys.readouterr().out.replace("\n", "")


PARTS = ["", "[", "[]", "3", "null", "{}", '{"codec": 3}', '{"codec": "x"}', '{"codec": null}', "[" * 100_000, b"\xff",
         json.dumps(dict.fromkeys(("codec", "sft", "flow", "vocoder", "backbone"), 3)),
         json.dumps(dict.fromkeys(("codec", "sft", "flow", "vocoder", "backbone"), "a\0b")),
         json.dumps(dict.fromkeys(("codec", "sft", "flow", "vocoder", "backbone"), "x" * 5_000)),
         json.dumps(dict.fromkeys(("codec", "sft", "flow", "vocoder", "backbone"), "/etc"))]  # fmt: skip
VERBS = {
    "talk": ["talk", "q.wav", "--run", "runs/smoke"],
    "eval": ["eval", "lm", "--size", "smoke"],
    "ablate": ["ablate", "no_split", "--size", "smoke"],
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("parts", [*PARTS, None], ids=range(len(PARTS) + 1))
def test_parts_that_nobody_can_use_are_one_line(parts, verb, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "smoke").mkdir(parents=True)
    soundfile.write("q.wav", WAVE, RATE)
    if parts is not None:
        (tmp_path / "runs/smoke/parts.json").write_bytes(parts if isinstance(parts, bytes) else parts.encode())
    if verb == "ablate":  # nothing is to be trained before the run is looked at
        monkeypatch.setattr("mossrepro.experiments.stages.run_stage", lambda *_: pytest.fail("trains"))
    assert cli.main(VERBS[verb]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and ("parts.json" in said or "/etc" in said), said


NAMES = ["../x", "/tmp/x", "a/b", "..", ".", "", "../../runs", "x" * 300, "a\0b", "./x"]


@pytest.mark.parametrize("verb", [["reproduce"], ["eval", "lm"], ["eval", "codec"], ["ablate", "no_split"], ["report"]])
@pytest.mark.parametrize("name", NAMES)
def test_the_name_of_a_run_is_no_path(name, verb, tmp_path, monkeypatch, capsys):
    (tmp_path / "work" / "runs").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    (tmp_path / "work" / "x" / "wav").mkdir(parents=True)
    (tmp_path / "work" / "x" / "wav" / "mine.wav").touch()
    monkeypatch.setattr("mossrepro.experiments.stages.run_stage", lambda *_: pytest.fail("trains"))
    assert cli.main([*verb, "--size", "smoke", "--name", name]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "--name" in said, said
    assert (tmp_path / "work" / "x" / "wav" / "mine.wav").is_file()


def test_the_name_of_a_size_is_no_path(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "size.yaml").write_text("base: smoke\nsize: {name: ../../x}\n")
    assert cli.main(["report", "--size", "size.yaml"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "../../x" in said
    arguments = cli.build_parser().parse_args(["report", "--size", "smoke", "--name", "smoke-2.b_c"])
    assert run_folder(arguments).as_posix() == "runs/smoke-2.b_c"


def test_a_run_is_filled_where_its_name_says(tmp_path, monkeypatch):
    """The folder that `reproduce` empties is the one in runs/, whatever the arguments say."""
    emptied = []
    monkeypatch.setattr(reproduce.shutil, "rmtree", lambda path, **_: emptied.append(path))
    with pytest.raises(cli.MossError):
        reproduce.main(cli.build_parser().parse_args(["reproduce", "--size", "smoke", "--name", "../x"]))
    assert emptied == []
