"""One reader of configurations: bases, shapes, changes, and keys of the cache."""

import json

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mossrepro.training import lightning_cli
from mossrepro.training.config import (
    cache_key,
    changed_size,
    check_changes,
    configs_folder,
    find_config,
    matched_rank,
    read_config,
    read_shape,
    refuse_overridden,
    resolved_arguments,
    size_names,
)  # fmt: skip
from mossrepro.training.sizes import load_size
from mossrepro.utils.errors import ConfigError


def write(path, text):
    path.write_text(text)
    return path


def test_a_size_builds_on_another_and_changes_what_it_says():
    small, long = load_size("small"), load_size("long")
    assert (long.name, long.sound, long.codec_corpus) == ("long", "small", "small")
    assert long.lm.stage2.steps == 800 and long.lm.stage2.head_lr == small.lm.stage2.head_lr
    assert long.flow == small.flow and long.backbone == small.backbone


def test_a_size_of_ones_own_is_a_file(tmp_path):
    mine = write(tmp_path / "mine.yaml", "base: small\nsize: {name: mine, lm: {sft: {steps: 7}}}\n")
    assert load_size(mine).lm.sft.steps == 7 and load_size(mine).codec == load_size("small").codec
    config = lightning_cli.parse(
        ["-c", str(configs_folder() / "codec.yaml"), "-c", str(mine), "--size.codec.steps", "9"]
    )
    assert config["size"]["name"] == "mine" and config["trainer"]["max_steps"] == 9
    assert config["data"]["init_args"]["size"] == "small"  # the recipe of its corpus comes with the base


def test_bases_may_be_chained_and_must_end(tmp_path):
    write(tmp_path / "a.yaml", "base: b\nx: {one: 1}\n")
    write(tmp_path / "b.yaml", "base: c\nx: {one: 2, two: 2}\n")
    write(tmp_path / "c.yaml", "x: {three: 3}\n")
    assert read_config(tmp_path / "a.yaml") == {"x": {"one": 1, "two": 2, "three": 3}}
    write(tmp_path / "c.yaml", "base: a\n")
    with pytest.raises(ConfigError, match=r"a\.yaml: builds on itself"):
        read_config(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("text", "named"),
    [("- 1\n", "not a mapping"), ("a: [1\n", "x.yaml"), ("base: nowhere\n", "no size 'nowhere'"), ("\ta: 1", "x.yaml")],
)
def test_broken_files_are_named_in_one_line(tmp_path, text, named):
    with pytest.raises(ConfigError, match=named) as error:
        read_config(write(tmp_path / "x.yaml", text))
    assert "\n" not in str(error.value)


def test_which_sizes_exist_follows_from_the_files():
    assert set(size_names()) == {path.stem for path in (configs_folder() / "size").glob("*.yaml")} | {"smoke"}
    with pytest.raises(ConfigError, match="known: base, full, long, small, tiny, smoke"):
        load_size("huge")


def test_configurations_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config("configs/size/small.yaml") == configs_folder() / "size" / "small.yaml"
    with pytest.raises(ConfigError, match="configs/nothing.yaml: no such file"):
        find_config("configs/nothing.yaml")


def test_the_shape_of_a_backbone_is_that_of_its_config(tmp_path):
    assert read_shape("smollm2-135m")["dim"] == 576 and read_shape("qwen3-8b")["qk_norm"]
    assert load_size("full").backbone.vocab == 151_680  # what the size says itself stays
    (tmp_path / "config.json").write_text((configs_folder() / "backbone" / "qwen3-0.6b.json").read_text())
    assert read_shape(tmp_path) == read_shape("qwen3-0.6b")
    for broken in ("{}", "[", '{"model_type": "llama", "hidden_size": 8}'):
        (tmp_path / "config.json").write_text(broken)
        with pytest.raises(ConfigError, match=r"config\.json"):
            read_shape(tmp_path)


def test_the_embedded_shape_is_that_of_the_weights():
    from mossrepro.lm.init_from import open_start

    config, said = open_start("smollm2", 64, 1, "copy", 0)[0].config, load_size("small").backbone
    for ours, theirs in {"layers": "layers", "dim": "dim", "ffn_dim": "ffn_dim", "heads": "heads"}.items():
        assert getattr(config, ours) == getattr(said, theirs)
    assert (config.kv_heads, config.text_vocab, config.tied) == (said.kv_heads, said.vocab, said.tied)


def test_changes_go_into_the_size_or_to_a_stage():
    changed = changed_size("smoke", ["size.lm.sft.steps=5", "stage1.data.init_args.batch=3"])
    assert changed["size"]["lm"]["sft"]["steps"] == 5 and changed["size"]["lm"]["stage1"]["batch"] == 2
    check_changes(["size.codec.lr=1", "stage1.model.init_args.lr=1e-4", "codec.trainer.max_steps=3"])
    for wrong in ("size", "size.codec", "stage9.data.x=1", "stage1.lr=3", "=", "claims.data.x=1"):
        with pytest.raises(ConfigError, match="--set"):
            check_changes([wrong])
    for form, stage in (("ears", "stage2"), ("stage1_word", "stage1")):
        with pytest.raises(ConfigError, match=f"--set {form}.*give {stage}.data.init_args.batch=1"):
            check_changes([f"{form}.data.init_args.batch=1"])


def test_a_change_that_would_be_without_effect_is_refused():
    given = ["--model.init_args.init_from=here", "--data.init_args.script=there"]
    refuse_overridden("stage1", ["a.yaml", "--model.init_args.init_from=here", "--data.init_args.batch=2"], given)
    with pytest.raises(ConfigError, match="--set stage1.data.init_args.script=mine: `mossrepro reproduce` gives"):
        refuse_overridden("stage1", ["--data.init_args.script=mine"], given)


def test_keys_of_the_cache_do_not_know_where_a_class_stands():
    a = {"model": {"class_path": "mossrepro.lm.task.LayerSplitTask"}, "x": ["mossrepro.a.b", 1, "path.of.mine"]}
    assert cache_key(a) == {"model": {"class_path": "LayerSplitTask"}, "x": ["b", 1, "path.of.mine"]}


def test_only_configuration_files_are_read_on_a_command_line(tmp_path):
    size = write(tmp_path / "s.yaml", "base: smoke\nsize: {name: s}\n")
    for flags in (["-c", str(size)], [f"--config={size}"]):
        (text,) = [word for word in resolved_arguments([*flags, "--output", "x.yaml"]) if "name: s" in word]
        assert (
            load_size("smoke").codec.codes == yaml.safe_load(text.partition("=")[2] or text)["size"]["codec"]["codes"]
        )
    written = ["-c", "size: {}\n", "--x", "y"]
    assert resolved_arguments(written) == written


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from("abc"), st.dictionaries(st.sampled_from("xyz"), st.integers())))
def test_a_base_under_nothing_is_itself(tmp_path_factory, settings):
    folder = tmp_path_factory.mktemp("base")
    write(folder / "below.yaml", json.dumps(settings))
    write(folder / "above.yaml", "base: below\n")
    assert read_config(folder / "above.yaml") == settings == read_config(folder / "below.yaml", folder / "above.yaml")


def test_the_matched_rank_is_that_of_a_tail():
    assert matched_rank({**read_shape("smollm2-135m")}, 4) == 46
