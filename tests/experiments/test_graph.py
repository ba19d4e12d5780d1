"""The whole chain at smoke size: every stage through its real door, twice, and a conversation with the result."""

import json
import subprocess
import sys
import wave
from dataclasses import replace
from math import hypot
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lm_toys import small_model
from tokenizers import Tokenizer

from mossrepro import cli
from mossrepro.data.facts import Fact, all_facts
from mossrepro.data.families import FAMILIES
from mossrepro.data.script import hidden_pairs, read_script, tells
from mossrepro.experiments import stages as chain_module
from mossrepro.experiments.controls import (
    ControlGraph,
    EditGraph,
    OracleGraph,
    check_controls,
    counterfactual,
    measure_controls,
)
from mossrepro.experiments.graph import StageGraph
from mossrepro.experiments.knowledge import ask_backbone
from mossrepro.experiments.stages import STAGES
from mossrepro.lm import checkpoint
from mossrepro.lm.data import open_documents
from mossrepro.lm.grid import Grid
from mossrepro.pipeline import Assistant, newest_run
from mossrepro.speech import voices
from mossrepro.training.metrics import Metric as Measured
from mossrepro.training.metrics import read_metrics, record
from mossrepro.utils import audio, cache
from mossrepro.utils.errors import CheckpointError, ConfigError

OF_ONE_WORD = {"text_to_code", "drawn", "word_reader", "inner_ear", "style", "mouth"}  # stages of the form "word" alone


def test_a_run_holds_facts_pictures_sounds_and_costs(run) -> None:
    facts = {path.stem for path in (run / "facts").glob("*.json")}
    assert {"codec_wer", "resynthesis", "stage1_text_change", "s2s_c", "s2t_c", "t2t_c_lost", "minutes"} <= facts
    assert json.loads((run / "facts" / "stage1_text_change.json").read_text())["value"] == 0.0
    kept = json.loads((run / "wav" / "index.json").read_text())
    assert kept and (run / "report.html").read_text().count("<audio") == 2 * len(kept)  # questions and answers
    stages = {cost["stage"] for cost in json.loads((run / "stages.json").read_text())}
    assert stages == set(STAGES) - OF_ONE_WORD


def test_a_finished_run_takes_all_from_the_cache(run, workplace, monkeypatch) -> None:
    monkeypatch.setattr(chain_module, "run_stage", lambda *_: pytest.fail("every stage is cached"))
    monkeypatch.setattr("mossrepro.evaluation.measure.measure", lambda *_: pytest.fail("what it measured is cached"))
    (run / "stages.json").unlink()
    beside = [run / "facts" / f"{name}.json" for name in ("control_random_x", "rival_ours_x", "oracle_x", "stale")]
    for path in beside:
        path.write_text(json.dumps({"id": path.stem, "name": "x", "value": 1.0}))
    assert cli.main(["reproduce", "--size", "smoke"]) in (0, 1)
    assert [path.exists() for path in beside] == [True, True, True, False]  # other commands' facts stay
    for path in beside[:3]:
        path.unlink()
    assert {cost["stage"]: cost["cached"] for cost in json.loads((run / "stages.json").read_text())} == dict.fromkeys(
        [stage for stage in STAGES if stage not in OF_ONE_WORD], True
    )


def test_stages_are_fits_of_their_own(run) -> None:
    parts = json.loads((run / "parts.json").read_text())
    fits = {"codec", "recogniser", "backbone", "stage1", "stage2", "sft", "flow", "vocoder"}
    assert set(parts) == {*fits, "script", "tokens"}
    for stage in fits:
        assert (Path(parts[stage]) / "model.safetensors").is_file()
        assert json.loads((Path(parts[stage]) / "spec.json").read_text())["config"]


def test_talk_answers_a_file_and_a_sentence(run, tmp_path, capsys) -> None:
    question, answer = tmp_path / "question.wav", tmp_path / "answer.wav"
    spoken, rate = voices.say("What is the capital of France?", "hibari+p3")
    audio.save(question, np.stack([spoken, spoken], 1), rate)  # stereo, 24 kHz
    assert cli.main(["talk", str(question), "-o", str(answer), "--run", str(run)]) == 0
    with wave.open(str(answer)) as sound:
        assert sound.getframerate() == 24_000 and sound.getnframes() > 0
    assert cli.main(["talk", "--say", "Tell me the capital of France.", "-o", str(answer), "--run", str(run)]) == 0
    assert cli.main(["talk", str(question), "--text", "--run", str(run)]) == 0


@pytest.mark.parametrize("kind", ["missing", "empty", "silent", "nan", "noise", "long"])
def test_talk_refuses_in_one_line(run, tmp_path, capsys, kind: str) -> None:
    path = tmp_path / f"{kind}.wav"
    if kind == "empty":
        path.touch()
    elif kind == "noise":
        path.write_bytes(b"this is not sound")
    elif kind != "missing":
        samples = {"silent": np.zeros(16_000), "nan": np.full(16_000, np.nan), "long": np.ones(16_000 * 600) * 0.1}[
            kind
        ]
        import soundfile

        soundfile.write(path, samples.astype(np.float32), 16_000, subtype="FLOAT")
    assert cli.main(["talk", str(path), "-o", str(tmp_path / "a.wav"), "--run", str(run)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and path.name in lines[0]


def test_answers_repeat(run) -> None:
    question, rate = voices.say("What is the opposite of hot?", "hibari+p1")
    question = audio.resample(question, rate, 16_000)
    assistant = Assistant.from_run(newest_run(run.parent))
    one, two = assistant.answer(question), assistant.answer(question)
    assert one.codes == two.codes and np.array_equal(one.wave, two.wave)


def test_a_run_needs_the_folders_of_its_four_parts_and_no_other(run, tmp_path) -> None:
    parts = json.loads((run / "parts.json").read_text())
    (tmp_path / "parts.json").write_text(json.dumps({**parts, "backbone": "smollm2"}))  # as `small` has it
    Assistant.from_run(tmp_path)
    for name in ("codec", "sft", "flow", "vocoder"):
        (tmp_path / "parts.json").write_text(json.dumps({**parts, name: str(tmp_path / "gone")}))
        with pytest.raises(CheckpointError, match=f"{name} is gone"):
            Assistant.from_run(tmp_path)


def test_a_pause_before_and_after_the_question_changes_nothing(run, monkeypatch) -> None:
    question, rate = voices.say("What is the opposite of hot?", "hibari+p1")
    question = audio.resample(question, rate, 16_000)
    assistant, heard = Assistant.from_run(newest_run(run.parent)), []
    listen = assistant.listen
    monkeypatch.setattr(assistant, "listen", lambda wave: heard.append(len(wave)) or listen(wave))
    answers = [assistant.answer(wave, spoken=False) for wave in (question, np.pad(question, 16_000))]
    assert heard[0] == heard[1] and answers[0].text == answers[1].text


def test_a_killed_stage_continues_and_ends_with_the_same_bits(run, tmp_path, monkeypatch) -> None:
    """SIGKILL in the middle of Stage 1; the next call gives the weights of an uninterrupted run."""
    parts = json.loads((run / "parts.json").read_text())
    flags = [f"--data.init_args.{name}={parts[name]}" for name in ("script", "tokens")]
    tokenizer = Path(json.loads((Path(parts["sft"]) / "fit.json").read_text())["data"]["init_args"]["tokenizer"])
    flags += [f"--data.init_args.tokenizer={tokenizer}", f"--model.init_args.init_from={parts['backbone']}"]
    command = [sys.executable, "-m", "mossrepro", "fit", "-c", "configs/stage1.yaml", "-c", "configs/smoke.yaml"]
    command += ["--size.lm.stage1.steps", "6", *flags, "--save_steps", "2"]
    root = Path(__file__).parents[2]
    code = """
import os, sys, lightning.pytorch as L
from mossrepro import cli
from mossrepro.lm.task import LayerSplitTask
step = LayerSplitTask.training_step
def dying(self, batch, index):
    if self.global_step == 3:
        os.kill(os.getpid(), 9)
    return step(self, batch, index)
LayerSplitTask.training_step = dying
cli.main(sys.argv[1:])
"""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    killed = subprocess.run([sys.executable, "-c", code, *command[3:], "--output", str(cut)], cwd=root)
    assert killed.returncode == -9 and not (cut / "done.json").exists()
    for out, said in ((cut, "continuing from"), (whole, "")):
        done = subprocess.run([*command, "--output", str(out)], cwd=root, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 0 and said in done.stderr
    assert (cut / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


def test_sets_are_dealt_before_the_text_model_is_asked(monkeypatch, tmp_path) -> None:
    chain = StageGraph("small")

    def cached(stage, kind, spec, build) -> Path:  # the model answers every third fact
        (tmp_path / "known.json").write_text(json.dumps([fact[:2] for fact in spec["facts"][::3]]))
        return tmp_path

    monkeypatch.setattr(chain, "cached", cached)
    assert [fact for fact in chain.known() if fact.set != "P"] == all_facts()[::3]


def test_a_text_model_is_asked_in_training_phrasings_alone(monkeypatch, tmp_path) -> None:
    facts, asked = all_facts(limit=2, families=4), []
    model = SimpleNamespace(eval=lambda: model, to=lambda _: model)
    tokenizer = SimpleNamespace(decode=lambda text: text)
    monkeypatch.setattr("mossrepro.lm.init_from.open_start", lambda *_: (model, tokenizer))
    monkeypatch.setattr("mossrepro.lm.inference.fuse_projections", lambda _: None)
    monkeypatch.setattr("mossrepro.lm.grid.Grid", lambda *_: SimpleNamespace(ids=None))
    monkeypatch.setattr("mossrepro.lm.grid.question_prompt", lambda grid, pairing, text: text)
    right = {fact.question(i): fact.written for fact in facts[1:] for i in range(3)}
    right.pop(facts[1].question(1))  # this one is known in one phrasing only

    def generate(model, prompts, ids, config) -> list:
        asked.extend(prompts)
        return [SimpleNamespace(text=right.get(prompt, "I do not know.")) for prompt in prompts]

    monkeypatch.setattr("mossrepro.lm.decode.generate", generate)
    ask_backbone("smollm2", facts, tmp_path)
    assert json.loads((tmp_path / "known.json").read_text()) == [list(fact[:2]) for fact in facts[2:]]
    assert set(asked) <= {fact.question(i) for fact in facts for i in range(3)}


def test_counterfactual_answers_are_all_wrong_and_of_the_same_family() -> None:
    known = all_facts()
    changed = counterfactual(known)
    for a, b in zip(known, changed, strict=True):
        assert a[:2] == b[:2] and a.set == b.set
        assert (a.answer != b.answer) == (a.set == "C")
    for family in FAMILIES:
        pool = [sorted(f.answer for f in facts if f.family == family and f.set == "C") for facts in (known, changed)]
        assert pool[0] == pool[1]


def test_counterfactual_answers_are_wrong_where_c_has_few() -> None:
    capital, opposite = sorted(FAMILIES)[:2]
    known = [Fact(capital, s, a, k) for s, a, k in (("a", "x", "C"), ("b", "x", "C"), ("c", "y", "A"), ("d", "z", "C"))]
    known += [Fact(opposite, "e", "v", "C"), Fact(opposite, "f", "v", "A")]
    changed = counterfactual(known)
    assert all((a.answer != b.answer) == (a.set == "C") for a, b in zip(known, changed, strict=True))


@pytest.mark.parametrize("true", [True, False])
def test_an_edit_teaches_the_answers_of_c_alone_true_ones_or_permuted(monkeypatch, tmp_path, true) -> None:
    graph, known, told = EditGraph("smoke", true), all_facts(families=4, limit=12), []
    monkeypatch.setattr(graph, "spoken_facts", lambda: known)
    monkeypatch.setattr(graph, "script_with", lambda facts, *_: told.extend(facts) or tmp_path)
    for name in ("tokens", "tokenizer"):
        monkeypatch.setattr(graph, name, lambda: tmp_path)
    monkeypatch.setattr(graph, "language_model", lambda stage: tmp_path / stage)
    monkeypatch.setattr(graph, "fit", lambda stage, **inputs: (stage, inputs["model__init_from"]))
    assert graph.edited() == ("edit", tmp_path / "stage1")
    right = {fact.key: fact for fact in known}
    assert {f.key for f in told} == {f.key for f in known if f.set in "CV"}
    for fact in told:
        was = right[fact.key]
        assert fact.set == {"C": "A", "V": "V"}[was.set] and (fact.answer == was.answer) == (true or was.set == "V")


@pytest.mark.slow
def test_controls_are_trained_and_measured(run, monkeypatch) -> None:
    monkeypatch.chdir(run.parents[1])
    assert cli.main(["reproduce", "--size", "smoke", "--controls"]) in (0, 1)
    facts = {path.stem for path in (run / "facts").glob("control_*.json")}
    assert {"control_random_s2t_c", "control_counterfactual_own_s2s_c"} <= facts
    assert "control_counterfactual_more_own_s2t_c" in facts and (run / "facts" / "oracle_s2t_c.json").is_file()
    monkeypatch.setattr(chain_module, "run_stage", lambda *_: pytest.fail("everything is cached"))
    monkeypatch.setattr(
        "mossrepro.experiments.controls._asked", lambda *_, **__: pytest.fail("what they answered is cached")
    )
    assert cli.main(["reproduce", "--size", "smoke", "--controls"]) in (0, 1)


def test_the_oracle_row_is_learnt_from_oracle_codes() -> None:
    asked = []
    chain = OracleGraph("smoke")
    chain.fit = lambda stage, **inputs: asked.append((stage, inputs)) or Path(stage)
    chain.backbone, chain.script, chain.tokenizer = (lambda name=name: Path(name) for name in ("b", "s", "t"))
    assert chain.language_model("sft") == Path("sft")
    assert [stage for stage, _ in asked] == ["stage1", "stage2", "sft"]
    assert all(inputs["data__tokens"] == "oracle" and "model__code_phone_probs" not in inputs for _, inputs in asked)


def test_controls_take_their_share_of_the_steps_and_other_stages_all(monkeypatch, tmp_path) -> None:
    """The steps stand in the key and in the command alike."""
    made = []
    monkeypatch.setattr(chain_module, "run_stage", lambda stage, command: made[-1].append(command))
    for chain in (StageGraph("smoke"), ControlGraph("smoke", "random"), ControlGraph("smoke", "random", 0.8)):
        chain.size.lm.sft.steps = 10

        def cached(stage, kind, spec, build) -> Path:
            made.append([spec["numbers"]])
            build(tmp_path)
            return tmp_path

        chain.cached = cached
        chain.fit("sft", model__init_from="x")
        chain.fit("flow")
    whole, flow, half, same, more, again = made
    assert whole[0]["size.lm.sft.steps"] == 10 and not any("steps" in word for word in whole[1])
    assert half[0]["size.lm.sft.steps"] == 5 and "--size.lm.sft.steps=5" in half[1]
    assert more[0]["size.lm.sft.steps"] == 8 and OracleGraph("smoke", 0.8).share == 0.8
    assert OracleGraph("smoke").share == 0.5 and flow == same == again


def test_controls_take_the_steps_that_are_asked_for_and_are_set_beside_the_run(monkeypatch, tmp_path) -> None:
    shares = []

    def measured(self, stage, kind, spec, build) -> Path:
        shares.append((spec["control"], self.share))
        for pairing in ("s2t", "s2s"):
            fact = Measured(f"control_{spec['control']}_{pairing}_c", "x", 5.0, "%", 2.0, 13.0, n=74)
            record(tmp_path / spec["control"], fact)
        return tmp_path / spec["control"]

    monkeypatch.setattr(StageGraph, "cached", measured)
    for chain in (ControlGraph, OracleGraph):
        monkeypatch.setattr(chain, "language_model", lambda self, stage: tmp_path)
    (tmp_path / "parts.json").write_text("{}")
    for pairing in ("s2t", "s2s"):
        record(tmp_path, Measured(f"{pairing}_c", "x", 60.0, "%", 47.0, 72.0, n=74))
    for percent, share in ((0, 0.5), (100, 1.0)):
        shares.clear()
        measure_controls("smoke", tmp_path, percent)
        assert shares == [("counterfactual", share), ("random", share), ("oracle", share)]
        found = read_metrics(tmp_path)
        for name in ("counterfactual", "random"):
            margin = found[f"control_{name}_margin_s2t_c"]
            assert margin.value == 55.0 and f"{100 * share:.0f} % of the steps" in margin.name
            assert (margin.low, margin.high) == pytest.approx((55 - hypot(13, 8), 55 + hypot(12, 3)))
    assert "control_oracle_margin_s2t_c" not in found
    shares.clear()
    measure_controls("smoke", tmp_path, only=["oracle"])
    assert shares == [("oracle", 0.5)]


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ([], None),
        (["--controls"], ((), 0)),
        (["--controls", "100"], ((), 100)),
        (["--control", "random", "--control", "oracle", "--controls", "100"], (("random", "oracle"), 100)),
    ],
)
def test_controls_are_asked_for_all_or_by_name(monkeypatch, tmp_path, words, asked) -> None:
    monkeypatch.chdir(tmp_path)
    called = []
    monkeypatch.setattr(
        "mossrepro.experiments.controls.measure_controls",
        lambda size, run, percent, *changes, only: called.append((tuple(only), percent)),
    )
    monkeypatch.setattr("mossrepro.experiments.reproduce._collect", lambda graph, run: None)
    monkeypatch.setattr("mossrepro.report.verb.main", lambda args: 0)
    for name in ("script", "codec", "tokens", "recogniser", "backbone", "language_model", "flow", "vocoder"):
        monkeypatch.setattr(StageGraph, name, lambda self, *stage: tmp_path)
    assert cli.main(["reproduce", "--size", "smoke", *words]) == 0
    assert called == ([] if asked is None else [(tuple(asked[0]), asked[1])])


def test_a_control_that_a_size_does_not_have_is_refused_before_anything_is_made(monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(StageGraph, "script", lambda self: pytest.fail("something is made"))
    assert cli.main(["reproduce", "--size", "smoke", "--control", "random", "--control", "edit_true"]) == 2
    assert "edit_true: no control of size smoke; choose counterfactual, random, oracle" in capsys.readouterr().err
    check_controls(StageGraph("small"), ["edit_true", "edit_permuted", "oracle"])


@pytest.mark.parametrize("words", [["0"], ["101"], ["half"], ["-3"]])
def test_a_share_of_the_steps_that_is_none_is_refused(words: list[str], capsys) -> None:
    with pytest.raises(SystemExit):
        cli.main(["reproduce", "--size", "smoke", "--controls", *words])
    assert "--controls" in capsys.readouterr().err


def test_long_is_small_with_another_course_for_the_language_model(tmp_path, monkeypatch) -> None:
    """The codec, the decoder and the vocoder are those of `small`, under the same keys; what they cost is counted."""
    made = []
    for size in ("small", "long"):
        specs: dict[str, dict] = {}

        def cached(self, stage, kind, spec, build, specs=specs) -> Path:
            specs[f"{stage} {kind}"] = spec
            self.costs.setdefault(stage, {})
            return tmp_path / kind / cache.digest([kind, spec])

        monkeypatch.setattr(chain_module.Stages, "cached", cached)
        monkeypatch.setattr(chain_module.Stages, "known", lambda self: all_facts()[: 10 + self.size.data.recall])
        monkeypatch.setattr("mossrepro.experiments.stages.phone_times", lambda *_, **__: None)
        monkeypatch.setattr("mossrepro.experiments.stages.read_facts", lambda _: all_facts()[:10])
        monkeypatch.setattr("mossrepro.experiments.graph.read_prose", lambda _: [("What?", "This.")])
        chain = StageGraph(size)
        folders = {**chain.parts(), "corpus": chain.codec_corpus()}
        assert {"data", "tokens", "flow", "vocoder", "stage2"} <= set(chain.costs)
        made.append(folders)
    same = {name for name in made[0] if made[0][name] == made[1][name]}
    assert same == {"codec", "recogniser", "flow", "vocoder", "backbone", "prose", "corpus"}
    small, long = (StageGraph(size).size for size in ("small", "long"))
    assert long.data.assistant_speech > small.data.assistant_speech and long.data.recall
    assert replace(long, lm=small.lm, data=small.data, name="small", sound="") == small


def test_a_key_changes_with_inputs_and_own_numbers_only(monkeypatch, tmp_path) -> None:
    def key(stage: str = "sft", change=lambda size: None, **inputs) -> dict:
        chain, specs = StageGraph("smoke"), []
        change(chain.size)
        monkeypatch.setattr(chain, "cached", lambda stage, kind, spec, build: specs.append(spec) or tmp_path)
        chain.fit(stage, **inputs)
        return specs[0]

    same = key(model__init_from="a", data__tokens="b")
    assert (
        key(model__init_from="cache/a", data__tokens="b") == same
    )  # a folder counts by its name, which is its content
    assert key(model__init_from="c", data__tokens="b") != same != key(model__init_from="a", data__tokens="d")
    assert key(model__init_from="a") != same != key("stage2", model__init_from="a", data__tokens="b")
    own = lambda size: setattr(size.lm.sft, "lr", 9.0)  # noqa: E731
    others = lambda size: setattr(size.flow, "lr", 9.0)  # noqa: E731
    assert key(change=own, model__init_from="a", data__tokens="b") != same
    assert key(change=others, model__init_from="a", data__tokens="b") == same


def test_the_counterfactual_backbone_is_taught_c_and_hears_it_again_in_text_only(run, workplace) -> None:
    """Taught: everything that is tested, C with wrong answers. Told later: the same, C's among what is replayed."""
    chain = ControlGraph("smoke", "counterfactual")
    asked = []
    chain.fit = lambda stage, **inputs: asked.append((stage, inputs)) or Path(stage)
    chain.tokens = lambda: Path("tokens")
    chain.language_model("sft")
    scripts = {stage: inputs["data__script"] for stage, inputs in asked}
    assert scripts["stage1"] == scripts["stage2"] == scripts["sft"] != scripts["counterfactual"]
    facts = {stage: [Fact(*e) for e in json.loads((scripts[stage] / "facts.json").read_text())] for stage in scripts}
    true = {fact.key: fact for fact in (Fact(*e) for e in json.loads((chain.script() / "facts.json").read_text()))}
    changed = {fact.key for fact in true.values() if fact.set == "C"}
    assert changed and not any(fact.set == "P" for fact in facts["counterfactual"])
    for stage in ("counterfactual", "sft"):
        assert {fact.key for fact in facts[stage] if fact.answer != true[fact.key].answer} <= changed
    assert {fact.set for fact in facts["sft"] if fact.key in changed} == {"B"}
    own = hidden_pairs(facts["sft"])  # what its voice must know from the text half alone
    told = [line for line in read_script(chain.script()) if not line.fact and tells(own, line.text.split())]
    assert read_script(scripts["sft"]) == [line for line in read_script(chain.script()) if line not in told]
    odd = chain.script_with([fact._replace(set="B") for fact in facts["sft"]], "data", "odd")  # all of A is barred now
    assert len(read_script(odd)) < len(read_script(scripts["sft"]))
    grid = Grid(Tokenizer.from_file(str(chain.tokenizer())), 64)
    for stage in ("counterfactual", "sft"):  # no line speaks of a fact that is not there
        documents = open_documents(scripts[stage], "oracle", grid)
        assert changed & {fact.key for fact in documents.replay} == (changed if stage == "sft" else set())
    assert ControlGraph("smoke", "random").script_for("sft") == chain.script()


def test_of_one_word_the_counterfactual_is_taught_after_the_style(monkeypatch, tmp_path) -> None:
    """The style would overwrite it. Text half: of the edited Stage 1; speech half: of the style, as it starts."""
    tokenizer, model = Tokenizer.from_file(str(StageGraph("smoke").tokenizer())), small_model()
    for name in ("style", "edited"):
        checkpoint.save_pretrained(model, tokenizer, tmp_path / name)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1.0)
    monkeypatch.setattr(StageGraph, "style", lambda self: tmp_path / "style")
    edited = lambda self: pytest.fail("true answers") if self.true else tmp_path / "edited"  # noqa: E731
    monkeypatch.setattr(EditGraph, "edited", edited)
    chain = ControlGraph("smoke", "counterfactual", 0.0, ["size.lm.form=word"])
    assert chain.script_for("stage1") == chain.script() and chain.backbone() == StageGraph("smoke").backbone()
    (tmp_path / "out").mkdir()
    chain.cached = lambda stage, kind, spec, build: build(tmp_path / "out") or tmp_path / "out"
    (found, _), (style, _), (edited, _) = map(
        checkpoint.from_pretrained, (chain.style(), tmp_path / "style", tmp_path / "edited")
    )
    speech = set(style.speech_parameters())
    for name, value in found.state_dict().items():
        source, other = (style, edited) if name in speech else (edited, style)
        assert torch.equal(value, source.state_dict()[name]), name
        assert not torch.equal(value, other.state_dict()[name]), name
    assert ControlGraph("smoke", "random", 0.0, ["size.lm.form=word"]).style() == tmp_path / "style"


def test_what_the_graph_gives_cannot_be_changed() -> None:
    """It would be without effect, and the run would have the name of a change."""
    chain = StageGraph("smoke", ["style.data.init_args.script=mine"])
    with pytest.raises(ConfigError, match="style.data.init_args.script=mine"):
        chain.fit("style", data__script="ours")


@pytest.mark.parametrize("voices", [False, True])
def test_other_voices_are_learnt_where_the_size_says_so(monkeypatch, tmp_path, voices) -> None:
    asked, chain = {}, StageGraph("smoke")
    chain.size.flow.voices, chain.size.adversarial.steps = voices, 3
    monkeypatch.setattr(chain, "script", lambda: tmp_path / "script")
    monkeypatch.setattr(chain, "tokens", lambda: tmp_path / "tokens")
    monkeypatch.setattr(chain, "fit", lambda stage, **inputs: asked.setdefault(stage, inputs) and tmp_path)
    chain.flow(), chain.vocoder()
    assert list(asked) == ["flow", "vocoder", "adversarial"]
    for stage, inputs in asked.items():
        assert inputs["data__corpus"] == tmp_path / "script"
        assert inputs.get("data__others") == (tmp_path / "script" if voices else None)
        told = [name in inputs for name in ("model__voice_dim", "model__prompt_share", "data__others_tokens")]
        assert told == 3 * [voices and stage == "flow"]
