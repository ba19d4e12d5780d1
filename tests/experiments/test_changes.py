"""`reproduce --set`, `--backbone`, `--size FILE`: what reaches the stages, and their keys."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from stage_toys import BACKBONE

from mossrepro import cli
from mossrepro.data.facts import Fact
from mossrepro.data.script import Line
from mossrepro.experiments import content, stages
from mossrepro.experiments.ablate import BASELINE, VariantGraph
from mossrepro.experiments.codec_baselines import BaselineGraph
from mossrepro.experiments.graph import StageGraph
from mossrepro.lm import checkpoint, prose
from mossrepro.lm.decode import Reply
from mossrepro.lm.grid import PROSE
from mossrepro.lm.mini import MiniBackboneTask
from mossrepro.lm.prose import read_prose
from mossrepro.lm.tokenizer import mini_tokenizer
from mossrepro.training.config import find_size, read_config
from mossrepro.training.runs import RUNS, changes_of, run_folder, run_name
from mossrepro.utils.errors import ConfigError


@pytest.fixture
def made(monkeypatch, tmp_path):
    """Key and command of a fit, by stage, without training."""

    def fit(one: StageGraph, stage: str) -> tuple[dict, list[str]]:
        found, commands = [], []
        monkeypatch.setattr(stages, "run_stage", lambda stage, command: commands.append(command))
        one.cached = lambda stage, kind, spec, build: found.append(spec) or build(tmp_path) or tmp_path
        one.fit(stage)
        return found[0], commands[0]

    return fit


def test_a_change_of_the_size_reaches_command_and_key(made):
    plain, changed = StageGraph("smoke"), StageGraph("smoke", ["size.lm.stage1.steps=5"])
    (key, command), (new_key, new_command) = made(plain, "stage1"), made(changed, "stage1")
    assert key != new_key and new_key["numbers"]["size.lm.stage1.steps"] == 5
    assert command[4].endswith("smoke.yaml") and "steps: 5" in new_command[4]
    assert made(plain, "stage2")[0] == made(changed, "stage2")[0]  # another stage's folder is found again


def test_a_change_of_a_stage_is_that_stages_flag(made):
    changed = StageGraph("smoke", ["stage1.data.init_args.batch=1"])
    key, command = made(changed, "stage1")
    assert "--data.init_args.batch=1" in command and key["extras"] == ["--data.init_args.batch=1"]
    assert made(changed, "sft")[0] == made(StageGraph("smoke"), "sft")[0]


def test_borrowed_parts_follow_changes_of_theirs_only():
    long = StageGraph("long", ["size.flow.steps=3", "size.data.recall=false"])
    assert long.sound.size.flow.steps == 3 and long.sound.size.name == "small" and not long.size.data.recall


def test_wrong_changes_are_one_line_and_exit_code_2(capsys):
    for change in ("size.lm.stage1.stpes=3", "nonsense", "stage1.steps=3", "size.codec.steps=many"):
        assert cli.main(["reproduce", "--size", "smoke", "--set", change]) == 2
        error = capsys.readouterr().err
        assert error.startswith("mossrepro: ") and error.count("\n") == 1


@pytest.mark.parametrize(
    "argv", [["ablate", "no_split"], ["eval", "codec"], ["eval", "all"], ["report"], ["data", "make"], ["reproduce"]]
)
def test_every_verb_of_a_run_takes_changes(argv, tmp_path, monkeypatch):
    """They name the run's folder in the same way everywhere; a size that is a file gives its own name."""
    plain = read_config(find_size("smoke"))
    (tmp_path / "another.yaml").write_text(
        OmegaConf.to_yaml(OmegaConf.create({"size": {**plain["size"], "name": "mine"}}))
    )
    flags = ["--size", str(tmp_path / "another.yaml"), "--set", "size.lm.tail_layers=2"]
    args = cli.build_parser().parse_args([*argv, *flags])
    assert changes_of(args) == (["size.lm.tail_layers=2"], "")
    assert run_folder(args) == RUNS / run_name("mine", ["size.lm.tail_layers=2"])
    assert run_folder(cli.build_parser().parse_args([*argv, *flags, "--name", "x"])) == RUNS / "x"


def test_variants_and_baselines_are_those_of_the_changed_size():
    changes = (["size.lm.tail_layers=2"], "")
    assert VariantGraph("smoke", BASELINE, *changes).size.lm.tail_layers == 2
    assert BaselineGraph("smoke", *changes).size.lm.tail_layers == 2


def test_a_changed_run_does_not_take_anothers_name():
    assert run_name("small") == "small" and run_name("small", ["size.lm.sft.steps=5"]).startswith("small-")
    assert run_name("small", ["a=1", "b=2"]) == run_name("small", ["b=2", "a=1"]) != run_name("small", ["a=1"])


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A Llama of a few weights in a hub folder, with SmolLM2's tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from mossrepro.lm.tokenizer import gguf_tokenizer
    from mossrepro.utils import assets

    folder = tmp_path_factory.mktemp("llama")
    tokenizer = gguf_tokenizer(assets.get("smollm2"))
    torch.manual_seed(0)
    shape = dict(
        hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2
    )
    LlamaForCausalLM(LlamaConfig(vocab_size=tokenizer.get_vocab_size(), **shape)).save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_another_text_model_needs_its_folder_only(llama, made):
    one = StageGraph("smoke", backbone=llama)
    b = one.size.backbone
    assert (b.source, b.layers, b.dim, b.heads, b.kv_heads) == ("hub", 3, 32, 4, 2)
    assert one.backbone() == llama and one.tokenizer() == llama / "tokenizer.json"
    key, command = made(one, "codec")
    assert key == made(StageGraph("smoke"), "codec")[0]  # the codec does not depend on the text model
    assert content.content_name(llama) == content.weights_name(llama) != llama.name


def test_a_folder_without_a_text_model_is_named(tmp_path, capsys):
    assert cli.main(["reproduce", "--size", "smoke", "--backbone", str(tmp_path)]) == 2
    assert "config.json" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="give --backbone FOLDER"):
        StageGraph("base")


def test_stage_1_trains_on_another_text_model(llama, run, tmp_path, monkeypatch):
    """The facts that a random model answers are none; here all are taken, to train its first stage."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        stages, "ask_backbone",
        lambda start, facts, folder: (folder / "known.json").write_text(json.dumps([f[:2] for f in facts])),
    )  # fmt: skip
    one = StageGraph("smoke", ["stage1.data.init_args.batch=1"], llama)
    out = one.language_model("stage1")
    config = json.loads((out / "config.json").read_text())
    assert (config["dim"], config["layers"]) == (32, 3)
    assert json.loads((out / "fit.json").read_text())["data"]["init_args"]["batch"] == 1


@pytest.mark.parametrize("drawn", [0, 5])
def test_the_form_word_goes_from_style_to_mouth_to_ears(monkeypatch, tmp_path, drawn):
    """Every stage starts from the one before; ears hear drawn sentences too, or where there are none the corpus."""
    wanted = ("form=word", "style_steps=2", "ears=2", "open_questions=4", f"drawn_lines={drawn}")
    changes = [f"size.lm.{change}" for change in (*wanted, f"text_to_code_steps={drawn}", f"inner_ear_steps={drawn}")]
    graph, commands = StageGraph("smoke", changes), {}
    monkeypatch.setattr(stages, "run_stage", lambda stage, command: commands.update({stage: command}))
    for name in ("backbone", "script", "tokens", "tokenizer", "codec_corpus", "codec"):
        monkeypatch.setattr(graph, name, lambda name=name: tmp_path / name)
    monkeypatch.setattr(graph, "prose", lambda: tmp_path / "prose.jsonl")
    monkeypatch.setattr(graph, "tokenise", lambda corpus, codec: tmp_path / "wide")
    monkeypatch.setattr(graph, "drawn", lambda: tmp_path / "drawn")
    monkeypatch.setattr(graph, "replies", lambda: tmp_path / "replies.jsonl")

    def cached(stage, kind, spec, build):
        build(tmp_path / kind)
        return tmp_path / kind

    monkeypatch.setattr(graph, "cached", cached)
    assert graph.language_model("sft") == graph.language_model("stage2") == tmp_path / "fit-stage2"
    starts = {stage: [w for w in command if "init_from" in w] for stage, command in commands.items()}
    folders = {"style": "backbone", "mouth": "fit-style", "stage1": "fit-mouth", "stage2": "fit-stage1"}
    starts.pop("inner_ear", None)  # which starts from nothing
    assert starts == {s: [f"--model.init_args.init_from={tmp_path / name}"] for s, name in folders.items()}
    files = ["style.yaml", "mouth.yaml", "stage1_word.yaml", "ears.yaml"]
    assert [Path(commands[stage][2]).name for stage in folders] == files
    assert "--model.init_args.head_from_words=false" in commands["stage1"]  # the mouth has started from them
    assert "--model.init_args.head_from_words=false" not in commands["mouth"]
    assert (f"--data.init_args.recordings={tmp_path / 'codec_corpus'}" in commands["stage2"]) == (not drawn)
    assert (f"--data.init_args.recordings_tokens={tmp_path / 'wide'}" in commands["stage2"]) == (not drawn)
    assert (f"--data.init_args.drawn={tmp_path / 'drawn'}" in commands["stage2"]) == bool(drawn)
    assert (f"--data.init_args.replies={tmp_path / 'replies.jsonl'}" in commands["stage2"]) == bool(drawn)
    assert (f"--model.init_args.inner_ear={tmp_path / 'fit-inner_ear'}" in commands["stage2"]) == bool(drawn)
    assert ("--data.init_args.mix.asr=0" in commands["stage2"]) == bool(drawn)  # with an inner ear
    assert ("inner_ear" in commands) == ("--model.init_args.passes=true" in commands["stage2"]) == bool(drawn)
    graph.changes = [f"stage1.model.init_args.{x}" for x in ("tail=random", "tail_layers=2", "lr=1e-4")]
    graph.language_model("stage1")
    given = {
        stage: [w for w in commands[stage] if w.startswith(("--model.init_args.tail", "--model.init_args.lr"))]
        for stage in ("mouth", "stage1")
    }
    assert given["mouth"] == ["--model.init_args.tail=random", "--model.init_args.tail_layers=2"]
    assert given["stage1"] == ["--model.init_args.tail_layers=2", "--model.init_args.lr=1e-4"]
    graph.changes = ["stage1.model.init_args.mouth=0"]
    assert not graph.has_mouth_stage()
    graph.changes = []
    graph.size.lm.passes, graph.size.lm.mouth_steps = False, 0
    graph.language_model("sft")
    assert "--model.init_args.passes=true" not in commands["stage2"]
    assert f"--model.init_args.init_from={tmp_path / 'fit-style'}" in commands["stage1"]
    assert "--model.init_args.head_from_words=false" not in commands["stage1"]
    monkeypatch.setattr(graph, "recogniser", lambda: tmp_path / "recogniser")
    assert graph.word_reader() == tmp_path / "fit-word_reader"
    assert f"--model.init_args.codec={tmp_path / 'recogniser'}" in commands["word_reader"]
    assert (f"--data.init_args.drawn={tmp_path / 'drawn'}" in commands["word_reader"]) == bool(drawn)
    graph.size.lm.word_reader_steps = 0
    assert graph.word_reader() == tmp_path / "recogniser"


def test_the_model_that_was_taught_the_form_replies_to_drawn_questions(monkeypatch, tmp_path):
    """Asked under its own system turns, not those of prose; what it says is kept where no test asks for it."""
    monkeypatch.setenv("MOSSREPRO_HOME", str(tmp_path / "home"))
    graph, asked = StageGraph("smoke"), []
    style, drawn = tmp_path / "style", tmp_path / "drawn"
    drawn.mkdir()
    lines = [Line(f"drawn-{i}", "any_question", f"What is {word}?", "drawn", "train") for i, word in enumerate("abc")]
    (drawn / "script.jsonl").write_text("".join(json.dumps(asdict(line)) + "\n" for line in lines))
    made = mini_tokenizer(["user", "assistant", "system", "What is a?", "Paris!", "Something"] * 3, 400)
    made.save(str(tmp_path / "tokenizer.json"))
    MiniBackboneTask(str(tmp_path / "tokenizer.json"), **BACKBONE).save_pretrained(style)
    config = json.loads((style / "config.json").read_text())
    (style / "config.json").write_text(json.dumps(config | {"system_turns": "word"}))
    monkeypatch.setattr(graph, "drawn", lambda: drawn)
    monkeypatch.setattr(graph, "style", lambda: style)
    monkeypatch.setattr(graph, "spoken_facts", lambda: [Fact("capital", "France", "Paris", "C")])

    def generate(model, prompts, ids, config):
        asked.extend(prompts)
        return [Reply(made.encode(text).ids, [], True) for text in ("Paris!", "Something", "Something")]

    monkeypatch.setattr(prose, "generate", generate)
    pairs = read_prose(graph.replies())
    assert pairs == [("What is b?", "Something"), ("What is c?", "Something")]
    grid = checkpoint.from_pretrained(style)[0].grid(made)
    own = grid.system(False).text.tolist()
    assert own != grid.system(False, PROSE).text.tolist()
    assert [prompt.text[: len(own)].tolist() for prompt in asked] == [own] * 3


def test_a_form_that_is_none_or_lacks_its_numbers_is_refused():
    for change, message in (("form=verse", "choose sentence or word"), ("form=word", "need")):
        with pytest.raises(ConfigError, match=message):
            StageGraph("smoke", [f"size.lm.{change}", "size.lm.ears=0"])
