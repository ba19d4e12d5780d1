"""Variants: each changes the stages it says, in key and command alike, and all are asked the same."""

import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from mossrepro import cli
from mossrepro.data.facts import Fact, all_facts
from mossrepro.data.script import ScriptRecipe, read_script, write_script
from mossrepro.experiments import ablate, stages
from mossrepro.experiments.ablate import ASKED, BASELINE, COMBINED, MOUTH, VARIANTS, VariantGraph
from mossrepro.training import lightning_cli, metrics
from mossrepro.training.config import configs_folder, find_size
from mossrepro.utils.errors import ConfigError

CONFIGS = configs_folder()
NAMES = VariantGraph("smoke", BASELINE).names()


def fitted(monkeypatch, folder: Path, name: str, size: str = "smoke") -> dict[str, tuple[dict, list[str]]]:
    """Stage -> its key and its command."""
    made, commands = {}, []
    monkeypatch.setattr(stages, "run_stage", lambda stage, command: commands.append(command))
    one = VariantGraph(size, name)

    def cached(stage, kind, spec, build) -> Path:
        build(folder)
        made[stage] = spec, commands[-1]
        return folder

    one.cached = cached
    for stage in ("stage1", "stage2", "sft", "codec"):
        one.fit(stage)
    return made


@pytest.mark.parametrize("name", [BASELINE, *VARIANTS])
def test_a_variant_changes_its_own_stages(monkeypatch, tmp_path, name: str) -> None:
    overlay = CONFIGS / "experiment" / f"{name}.yaml"
    plain = fitted(monkeypatch, tmp_path, BASELINE)
    for stage, (key, command) in fitted(monkeypatch, tmp_path, name).items():
        changed = stage in VARIANTS.get(name, ())
        assert (str(overlay) in command) == (key != plain[stage][0]) == changed
        if changed:
            assert key["extras"][1] == yaml.safe_load(overlay.read_text())
            assert command.index(str(overlay)) > command.index("-c") + 3


def test_overlays_are_combined_stage_by_stage(monkeypatch, tmp_path) -> None:
    """Never frozen and no split: Stage 1 has both, the others, which freeze nothing anyway, the second."""
    made = fitted(monkeypatch, tmp_path, "never_frozen_no_split")
    overlays = {stage: [Path(w).stem for w in command if "experiment" in w] for stage, (_, command) in made.items()}
    later = {"stage2": ["no_split"], "sft": ["no_split"], "codec": []}
    assert overlays == {"stage1": ["never_frozen", "no_split"], **later}


def test_every_overlay_of_the_language_model_is_a_variant() -> None:
    files = {path.stem for path in (CONFIGS / "experiment").glob("*.yaml")}
    assert files == {*VARIANTS, *MOUTH, "paper_codec", "paper_lm"}
    with pytest.raises(ConfigError, match="no variant 'nosplit'; known: no_split"):
        VariantGraph("smoke", "nosplit")


@pytest.mark.parametrize("name", [BASELINE, *MOUTH, *COMBINED])
def test_a_variant_of_the_mouth_changes_what_it_is_of_and_takes_all_steps(monkeypatch, tmp_path, name: str) -> None:
    made, commands = {}, []
    monkeypatch.setattr(stages, "run_stage", lambda stage, command: commands.append(command))
    graph = VariantGraph("small", name)
    assert graph.mouth and graph.share == 1.0 and set(graph.names()) == {*MOUTH, *COMBINED}
    graph.cached = lambda stage, kind, spec, build: build(tmp_path) or made.update({stage: commands[-1]}) or tmp_path
    graph.fit("style")
    assert not any("experiment" in word for word in made["style"])
    for steps in (800, 0):  # where no mouth learns by itself, Stage 1 is the first that knows of it
        graph.size.lm.mouth_steps = steps
        graph.fit("mouth")
        graph.fit("stage1", "stage1_word")
        laid = {stage: [Path(w).stem for w in made[stage] if "experiment" in w] for stage in ("mouth", "stage1")}
        parts = COMBINED.get(name, (name,))
        changed = {stage for part in parts for stage in MOUTH.get(part, ())}
        assert bool(laid["mouth"]) == ("mouth" in changed)
        assert bool(laid["stage1"]) == (name != BASELINE and (not steps or "stage1" in changed))
        assert {*laid["mouth"], *laid["stage1"]} <= {*parts}
        assert graph.has_mouth_stage() == (steps > 0 and "no_mouth" not in parts)
    for wrong, message in (("stage2_frozen", "no variant 'stage2_frozen'"), ("facts_25", "facts_25: no fact is")):
        with pytest.raises(ConfigError, match=message):
            VariantGraph("small", wrong)


def test_the_mouths_overlays_turn_off_what_they_say() -> None:
    given = ["--data.init_args.script", "x", "--data.init_args.tokens", "oracle", "--data.init_args.tokenizer", "x"]

    def made(*names: str) -> dict:
        overlays = [CONFIGS / "experiment" / f"{name}.yaml" for name in names]
        files = [CONFIGS / "stage1_word.yaml", find_size("small"), *overlays]
        return lightning_cli.parse([*(word for file in files for word in ("-c", str(file))), *given])

    plain = made()
    assert plain["data"]["init_args"]["monologue"] and not made("no_monologue")["data"]["init_args"]["monologue"]
    assert plain["model"]["init_args"]["monologue_at"] == "speech"
    assert plain["model"]["init_args"]["mouth"] and not made("no_mouth")["model"]["init_args"]["mouth"]
    assert plain["model"]["init_args"]["head_from_words"]
    assert not made("no_head_start")["model"]["init_args"]["head_from_words"]


def test_a_length_is_the_recipe_with_a_share_of_the_steps(monkeypatch, tmp_path) -> None:
    whole, half = (fitted(monkeypatch, tmp_path, f"length_{percent}") for percent in (100, 50))
    assert not any("steps" in word for word in whole["sft"][1]) and "--size.lm.sft.steps=1" in half["sft"][1]
    assert half["codec"][0] == whole["codec"][0] and half["sft"][0]["numbers"]["size.lm.sft.steps"] == 1
    words = ["size.lm.form=word", "size.lm.style_steps=2", "size.lm.ears=2", "size.lm.open_questions=2"]
    graph, specs = VariantGraph("smoke", "length_50", words), {}
    graph.cached = lambda stage, kind, spec, build: specs.update({stage: spec["numbers"]}) or tmp_path
    graph.fit("mouth"), graph.fit("stage1", "stage1_word")
    assert specs["mouth"]["size.lm.mouth_steps"] == specs["stage1"]["size.lm.words.steps"] == 1
    for wrong in ("length_0", "length_", "length_20x", "facts_0", "facts_100", "facts"):
        with pytest.raises(ConfigError, match="no variant"):
            VariantGraph("smoke", wrong)


def test_fewer_facts_are_spoken_about_in_sft_alone(monkeypatch, tmp_path) -> None:
    """A quarter of A in every family, none of their lines but the kept ones', and everything else as it is."""
    known = all_facts()[:200]
    lines = [
        asdict(line)
        for line in write_script(
            known, ScriptRecipe(user_speech=4, assistant_speech=4, false_statement=2, kokoro=0, words=200)
        )
    ]
    (tmp_path / "script.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "facts.json").write_text(json.dumps(known))
    one = VariantGraph("smoke", "facts_25")
    monkeypatch.setattr(one, "script", lambda: tmp_path)
    monkeypatch.setattr(one, "cached", lambda stage, kind, spec, build: build(made) or made)
    (made := tmp_path / "made").mkdir()
    assert one.script_for("stage1") == one.script_for("stage2") == tmp_path and one.script_for("sft") == made
    assert one.share == VariantGraph("smoke", BASELINE).share
    kept = [Fact(*entry) for entry in json.loads((made / "facts.json").read_text())]
    for family in {fact.family for fact in known}:
        whole, part = ([f for f in some if f.family == family and f.set == "A"] for some in (known, kept))
        assert part == whole[: math.ceil(len(whole) / 4)]
    assert [fact for fact in kept if fact.set != "A"] == [fact for fact in known if fact.set != "A"]
    gone = {fact.key for fact in known} - {fact.key for fact in kept}
    assert gone and read_script(made) == [line for line in read_script(tmp_path) if line.fact not in gone]


def test_overlays_follow_the_size(tmp_path) -> None:
    """No number that depends on the size stands in an overlay: it is computed from the size, whatever that is."""
    given = ["--data.init_args.script", "x", "--data.init_args.tokens", "oracle", "--data.init_args.tokenizer", "x"]

    def made(name: str, size: str) -> dict:
        files = [CONFIGS / "stage1.yaml", find_size(size), CONFIGS / "experiment" / f"{name}.yaml"]
        words = [word for file in files for word in ("-c", str(file))]
        return lightning_cli.parse([*words, *given])["model"]["init_args"]

    expected = {  # small, tiny
        ("deep_split", "tail_layers"): (8, 4),
        ("split_middle", "split_at"): (13, 2),
        ("matched_no_split", "extra_layers"): (4, 2),
        ("frozen_no_split_lora", "lora"): (46, 27),
        ("never_frozen", "lr"): (2e-4, 2e-4),
    }
    for (name, key), numbers in expected.items():
        assert tuple(made(name, size)[key] for size in ("small", "tiny")) == numbers, name
    assert [made(name, "small")["tail_layers"] for name in ("no_split", "frozen_no_split", "matched_no_split")] == [
        0
    ] * 3


@pytest.mark.slow
def test_variants_are_trained_asked_and_shown(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["ablate", "no_split", "--size", "smoke"]) == 2 and "no parts.json" in capsys.readouterr().err
    assert cli.main(["reproduce", "--size", "smoke"]) in (0, 1)
    for name in NAMES:
        assert cli.main(["ablate", name, "--size", "smoke"]) == 0
    found = metrics.read_metrics(Path("runs/smoke"))
    for name in (BASELINE, *NAMES):
        assert {f"ablation_{name}_{pairing}_{which}".lower() for pairing, which in ASKED} <= set(found)
    said = capsys.readouterr().out
    assert "text kept" in said and all(name in said for name in NAMES)
    monkeypatch.setattr(stages, "run_stage", lambda *_: pytest.fail("everything is cached"))
    monkeypatch.setattr(ablate, "_ask", lambda *_: pytest.fail("what they answered is cached"))
    assert cli.main(["ablate", "no_split", "random_tail", "--size", "smoke"]) == 0


def test_the_table_marks_what_the_baselines_interval_does_not_hold(tmp_path) -> None:
    assert ablate._losses(tmp_path / "nothing") == {}
    lines = [
        {"step": 20, "val/S2T": 2.0, "val/S2S": 3.0, "val/S2S_answer": 9.0},
        {"step": 30, "train/text": 1.0, "val/S2T": 1.5},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert ablate._losses(tmp_path) == {"S2T": 1.5, "S2S": 3.0}
    rows = {"baseline": (50.0, 40.0, 60.0), "no_split": (70.0, 60.0, 80.0), "random_tail": (45.0, 30.0, 60.0)}
    found = {f"ablation_{name}_s2t_c": metrics.Metric("x", "x", *row[:1], "%", *row[1:]) for name, row in rows.items()}
    found["ablation_length_20_s2t_c"] = metrics.Metric("x", "x", 41.0, "%", 30.0, 50.0)
    found |= {f"ablation_facts_{n}_s2t_c": found["ablation_length_20_s2t_c"] for n in (50, 5)}
    names = ["baseline", "no_split", "random_tail", "facts_5", "facts_50", "length_20"]
    assert list(ablate.table(found).columns[0].cells) == names
    column = next(column for column in ablate.table(found).columns if column.header == "S2T C")
    assert list(column.cells) == ["50.0", "70.0 *", "45.0", *["41.0"] * 3]
