"""The door: help without weight, errors in one line, and verbs that lead to functions that exist."""

import argparse
import importlib
import inspect
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mossrepro import cli
from mossrepro.utils import threads
from mossrepro.utils.errors import AudioError, MossError

ROOT = Path(__file__).parents[1]


def test_help_is_quick_and_imports_nothing_heavy():
    code = "import sys; from mossrepro.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    code += "heavy = {'torch', 'lightning', 'numpy', 'matplotlib', 'rich', 'onnxruntime'} & set(sys.modules)\n"
    code += "assert not heavy, heavy"
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - start < 5  # a tenth of a second on an idle machine
    for verb in ("fit", "validate", "test", "predict", "data", "eval", "talk", "reproduce", "bench", "report"):
        assert f"    {verb}" in done.stdout


def test_the_module_is_the_same_door():
    done = subprocess.run([sys.executable, "-m", "mossrepro", "tlak"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "invalid choice: 'tlak'" in done.stderr


VERBS = {  # a command line: the function of the package that does its work
    "fit -c x.yaml": "training.lightning_cli.main",
    "validate -c x.yaml": "training.lightning_cli.main",
    "test -c x.yaml": "training.lightning_cli.main",
    "predict -c x.yaml": "training.lightning_cli.main",
    "data make": "experiments.reproduce.make_data",
    "data add folder -o out": "data.ingest.add_folder",
    "data human -o out": "data.human.make_corpus",
    "eval codec": "experiments.codec_baselines.main",
    "eval lm": "experiments.reproduce.evaluate",
    "eval text": "experiments.reproduce.evaluate",
    "eval words": "experiments.reproduce.evaluate",
    "eval mouth": "experiments.reproduce.evaluate",
    "eval open": "experiments.reproduce.evaluate",
    "eval vocoder": "experiments.voice.main",
    "eval all": "experiments.reproduce.evaluate",
    "talk question.wav": "pipeline.talk",
    "reproduce": "experiments.reproduce.main",
    "ablate": "experiments.ablate.main",
    "adapt corpus -o out": "experiments.adapt.main",
    "bench codec": "bench.main.main",
    "plan -c x.yaml": "lm.plan.main",
    "report": "report.verb.main",
    "run pack folder -o out": "experiments.pack.main",
    "run check folder": "experiments.pack.main",
    "run teach -o out": "experiments.teaching_pack.main",
    "import folder -o out": "convert.bring_in",
    "export folder -o out": "convert.take_out",
}


@pytest.mark.parametrize("line", VERBS)
def test_every_verb_calls_the_function_that_does_its_work(line, monkeypatch):
    module, _, function = VERBS[line].rpartition(".")
    module, called = importlib.import_module(f"mossrepro.{module}"), []
    parameters = inspect.signature(getattr(module, function)).parameters
    monkeypatch.setattr(module, function, lambda *args, **more: called.append(args))
    assert cli.main(line.split()) == 0
    ((*args,),) = called
    needed = [p for p in parameters.values() if p.default is p.empty]
    assert len(needed) <= len(args) <= len(parameters)
    assert not isinstance(args[0], argparse.Namespace) or args[0].verb == line.split()[0]


def test_no_verb_is_forgotten():
    (verbs,) = (a for a in cli.build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    found = set()
    for name, parser in verbs.choices.items():
        inner = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        found |= {f"{name} {kind}" for kind in inner[0].choices} if inner else {name}
    assert found == {" ".join(line.split()[: 1 + (line.split()[0] in ("data", "eval", "run"))]) for line in VERBS}


def test_an_error_of_the_user_is_one_line_and_exit_code_2(monkeypatch, capsys):
    def fails(args):
        raise AudioError("question.wav: is empty")

    monkeypatch.setattr(cli, "_talk", fails)
    assert cli.main(["talk", "question.wav"]) == 2
    assert capsys.readouterr().err == "mossrepro: question.wav: is empty\n"


def test_ctrl_c_is_130_without_a_traceback(monkeypatch, capsys):
    def stops(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_report", stops)
    assert cli.main(["report"]) == 130
    assert capsys.readouterr().err == "mossrepro: interrupted\n"


@pytest.mark.parametrize("argv", [["talk"], ["talk", "a.wav", "--say", "hello"]])
def test_talk_wants_exactly_one_question(argv, capsys):
    assert cli.main(argv) == 2
    assert "either a recording or --say" in capsys.readouterr().err


@pytest.mark.parametrize(
    "verb", [["talk", "a.wav", "--run", "r"], ["eval", "lm"], ["eval", "vocoder"], ["eval", "codec"]]
)
def test_a_device_that_is_not_there_is_one_line_and_comes_first(verb, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert cli.main([*verb, "--device", "tpu7"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("mossrepro: device 'tpu7'") and "cpu" in err and err.count("\n") == 1
    assert cli.build_parser().parse_args(verb).device == "auto"


def test_threads(monkeypatch):
    monkeypatch.setenv("MOSSREPRO_THREADS", "3")
    assert threads.thread_count() == 3
    monkeypatch.setenv("MOSSREPRO_THREADS", "none")
    with pytest.raises(MossError, match="'none' is not a positive number"):
        threads.thread_count()


@pytest.mark.parametrize(
    ("allowed", "cores", "expected"),
    [(4, [(0, 0), (0, 1), (0, 0), (0, 1)], 2), (1, [(0, 0), (0, 1)], 1), (4, [(0, 0), (1, 0)], 2), (3, [], 3)],
)
def test_threads_are_the_physical_cores_that_the_process_may_use(allowed, cores, expected, monkeypatch):
    """Two hardware threads of one core share what a training needs; a virtual machine may not name its cores."""
    info = "\n\n".join(f"processor: {i}\nphysical id: {chip}\ncore id: {core}" for i, (chip, core) in enumerate(cores))
    monkeypatch.delenv("MOSSREPRO_THREADS")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(allowed)), raising=False)
    monkeypatch.setattr(threads.Path, "read_text", lambda _: info or "processor: 0")
    assert threads.thread_count() == expected


def test_a_reader_that_goes_away_is_no_error():
    script = "from mossrepro import cli\nimport sys\n"
    script += "cli._report = lambda a: [print('x' * 100) for _ in range(9999)] and 0\n"
    script += "sys.exit(cli.main(['report']))"
    done = subprocess.run(
        f'{sys.executable} -c "{script}" | head -1', shell=True, cwd=ROOT, capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr
