"""Every configuration is built and makes two real steps: what the README's commands name must exist."""

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import yaml
from codec_toys import TINY
from safetensors.torch import load_file

from mossrepro import cli
from mossrepro.codec import released
from mossrepro.codec.model import CodecConfig, SpeechCodec
from mossrepro.data.corpus import CorpusWriter
from mossrepro.data.facts import all_facts
from mossrepro.data.script import ScriptRecipe, write_script
from mossrepro.data.token_store import TokenWriter
from mossrepro.evaluation.artifacts import has_text_guidance
from mossrepro.lm.checkpoint import from_pretrained
from mossrepro.lm.tokenizer import mini_tokenizer
from mossrepro.speech import voices
from mossrepro.training import lightning_cli, sizes
from mossrepro.utils.errors import ConfigError
from mossrepro.utils.random import rng

CONFIGS = Path(__file__).parents[2] / "configs"
STAGES = sorted({path.stem for path in CONFIGS.glob("*.yaml")} - {"smoke", "claims", "tokenise"})  # what is trained
OVERLAYS = [*sorted((CONFIGS / "size").glob("*.yaml")), CONFIGS / "smoke.yaml"]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Eight sentences of the assistant, random codes of them in a token store, and a codec that knows nothing."""
    folder = tmp_path_factory.mktemp("corpus")
    SpeechCodec(replace(TINY, codes=64)).save_pretrained(folder / "codec")
    codes = []
    with CorpusWriter(folder / "clips") as clips:
        for i, word in enumerate(["one", "two", "three", "four", "five", "six", "seven", "eight"]):
            text = f"there are {word} birds in the garden"
            wave, rate = voices.say(text)
            clips.add(f"c{i}", wave, rate, text, "assistant", "train" if i < 6 else "valid")
            codes.append((f"c{i}", rng(1, i).integers(0, 64, -(-len(wave) // 1920))))
    with TokenWriter(folder / "tokens", 64) as tokens:
        tokens.add(codes)
    return folder


@pytest.fixture(scope="session")
def script(tmp_path_factory):
    """A script of a few facts that nobody has spoken: with oracle codes the language model needs no sound."""
    folder = tmp_path_factory.mktemp("script")
    known = all_facts()[:24]
    lines = write_script(
        known, ScriptRecipe(user_speech=8, assistant_speech=8, question=1, kokoro=0, tests=1, test_facts=1, words=200)
    )
    (folder / "script.jsonl").write_text("".join(json.dumps(asdict(line)) + "\n" for line in lines))
    (folder / "facts.json").write_text(json.dumps(known))
    said = [line for line in lines if line.role == "assistant_speech"]
    times = {line.id: [[w, 0.3 * i, 0.3 * i + 0.3] for i, w in enumerate(line.text.split())] for line in said}
    (folder / "words.json").write_text(json.dumps(times))
    texts = [*(line.text for line in lines), "system user assistant Repeat: You are a helpful assistant."] * 2
    mini_tokenizer(texts, 400).save(str(folder / "tokenizer.json"))
    return folder


def flags(stage, corpus, script, start="smollm2"):
    """What a stage's YAML asks to be given on the command line."""
    language = {"data.script": script, "data.tokenizer": script / "tokenizer.json"}
    later = {**language, "data.tokens": "oracle", "model.init_from": start}
    given = {
        "codec": {"data.corpus": corpus / "clips"},
        "acoustic": {"data.corpus": corpus / "clips"},
        "recogniser": {
            "model.codec": corpus / "codec",
            "data.corpus": corpus / "clips",
            "data.tokens": corpus / "tokens",
        },
        "flow": {"data.corpus": corpus / "clips", "data.tokens": corpus / "tokens"},
        "vocoder": {"data.corpus": corpus / "clips"},
        "backbone": {**language, "model.tokenizer": script / "tokenizer.json"},
    }.get(stage, later)
    return [word for key, value in given.items() for word in ("--" + key.replace(".", ".init_args."), str(value))]


def train(stage, out, *more):
    """Two steps of a stage at the smoke size, through the door."""
    command = ["fit", "-c", str(CONFIGS / f"{stage}.yaml"), "-c", str(CONFIGS / "smoke.yaml"), *more]
    command += ["--trainer.max_steps", "2", "--trainer.val_check_interval", "2", "--trainer.accelerator", "cpu"]
    return cli.main([*command, "--trainer.enable_progress_bar", "false", "--output", str(out)])


@pytest.fixture(scope="session")
def backbone(corpus, script, tmp_path_factory):
    """A mini text model of two steps, which the later stages start from."""
    out = tmp_path_factory.mktemp("backbone") / "out"
    assert train("backbone", out, *flags("backbone", corpus, script)) == 0
    return out


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_trains_validates_and_exports(stage, corpus, script, tmp_path, request):
    out = tmp_path / stage
    backbone = request.getfixturevalue("backbone") if stage in ("stage1", "stage2", "sft", "counterfactual") else ""
    assert train(stage, out, *flags(stage, corpus, script, backbone)) == 0
    assert json.loads((out / "done.json").read_text())["steps"] == 2
    assert (out / "model.safetensors").stat().st_size > 1000 and json.loads((out / "config.json").read_text())


VARIANTS = sorted({path.stem for path in (CONFIGS / "experiment").glob("*.yaml")} - {"paper_codec", "paper_lm"})


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_is_an_overlay_and_trains_what_it_says(name, corpus, script, backbone, tmp_path):
    """From the mini backbone, whose three layers are split elsewhere where the variant says so."""
    overlay = ["-c", str(CONFIGS / "experiment" / f"{name}.yaml")]
    assert train("stage2", tmp_path / "out", *flags("stage2", corpus, script, backbone), *overlay) == 0
    model, _ = from_pretrained(tmp_path / "out")
    before, _ = from_pretrained(backbone)
    layers = range(before.config.layers)
    moved = {i for i in layers if not same(layer_of(before, i), layer_of(model, i))}
    text = not same(before.text_embed, model.text_embed)
    frozen = name in ("stage2_frozen", "frozen_no_split")
    lora = name in ("frozen_no_split_lora", "lora_trunk")
    trunk = {i for i in layers if model.config.locate_layer(i)[0] == "trunk"}
    learnt = set() if frozen else trunk if lora or name == "stage2_shared" else set(layers)
    assert moved == learnt or name == "stage2_gradual" and moved == {1, 2}  # two steps of three layers
    assert text == (not (frozen or lora) and name not in ("stage2_shared", "stage2_gradual"))
    depth, at = {"deep_split": (2, None), "split_first": (1, 0), "split_middle": (1, 1)}.get(
        name, (0 if "no_split" in name else 1, None)
    )
    assert (model.config.tail_layers, model.config.split_at) == (depth, at)
    assert has_text_guidance(tmp_path / "out") == (name == "text_guidance") and not has_text_guidance(tmp_path)
    assert not same(model.speech_head, before.speech_head) and not any("lora" in n for n in model.state_dict())


def layer_of(model, number):
    part, place = model.config.locate_layer(number)
    return getattr(model, part)[place]


def same(a, b) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


SLOW_STRATEGIES = [pytest.param(name, marks=pytest.mark.slow) for name in ("ddp", "tensor")]


@pytest.mark.parametrize("strategy", [*SLOW_STRATEGIES, "fsdp2"])
def test_a_strategy_is_an_overlay(strategy, corpus, script, backbone, tmp_path):
    """Two processes on one machine, as on several GPUs: the same command with one more file."""
    command = [sys.executable, "-m", "mossrepro", "fit", "-c", str(CONFIGS / "stage2.yaml")]
    command += ["-c", str(CONFIGS / "smoke.yaml"), "-c", str(CONFIGS / "strategy" / f"{strategy}.yaml")]
    command += [*flags("stage2", corpus, script, backbone), "--output", str(tmp_path), "--trainer.accelerator", "cpu"]
    command += ["--trainer.devices", "2", "--trainer.max_steps", "2", "--save_steps", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "done.json").read_text())["steps"] == 2
    old, new = (load_file(folder / "model.safetensors") for folder in (backbone, tmp_path))
    moved = "trunk.0.mlp.up_proj.weight"
    assert old.keys() == new.keys() and not torch.equal(old[moved], new[moved])


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_resolves_at_every_size(stage, overlay, corpus, script):
    """Parsing checks every key and type against the classes; building is left to the test above."""
    files = ["-c", str(CONFIGS / f"{stage}.yaml"), "-c", str(overlay)]
    hub = sizes.load_size(overlay.stem).backbone.source == "hub"
    config = lightning_cli.parse([*files, *flags(stage, corpus, script, "Qwen3" if hub else "smollm2")])
    assert "${" not in json.dumps(config)
    if hub and "init_from" in config["model"]["init_args"]:
        with pytest.raises(ConfigError, match=f"size {overlay.stem} is of a text model with .* layers"):
            lightning_cli.parse([*files, *flags(stage, corpus, script)])
    pretrained = stage == "backbone" and config["size"]["backbone"]["source"] != "mini"
    assert config["size"]["name"] == overlay.stem and (config["trainer"]["max_steps"] > 0 or pretrained)


def test_the_papers_tokenizer_has_the_papers_shape(corpus, script):
    """Parsed through the door and built without memory: the shapes of the released file."""
    experiment = CONFIGS / "experiment" / "paper_codec.yaml"
    files = [CONFIGS / "codec.yaml", CONFIGS / "size" / "small.yaml", experiment]
    options = [word for file in files for word in ("-c", str(file))]
    config = lightning_cli.parse([*options, *flags("codec", corpus, script)])["model"]["init_args"]
    assert config["pretrained"]["class_path"].endswith("HubEncoder")
    with torch.device("meta"):
        codec = SpeechCodec(CodecConfig(**config["network"]))
    shapes = {name: tuple(value.shape) for name, value in codec.state_dict().items()}
    assert shapes["quantiser.codebook"] == (16_384, 1280) and shapes["encoder.conv1.weight"] == (1280, 128, 3)
    assert shapes["encoder.layers.15.up.weight"] == (5120, 1280) and "encoder.layers.16.up.weight" not in shapes
    layers = sum(parameter.numel() for parameter in codec.encoder.layers.parameters())
    assert layers == 16 * 19_677_440 and codec.config.heads * released.HEAD == 1280


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
def test_sizes_load_without_the_trainer(overlay):
    size = sizes.load_size(overlay.stem)
    assert size.name == overlay.stem and size.codec.steps > 0 and isinstance(size.codec.lr, float)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda size: size["codec"].update(stpes=1), "size.codec.stpes: no such key"),
        (lambda size: size["codec"].pop("steps"), "size.codec.steps: missing"),
        (lambda size: size["codec"].update(steps="many"), "size.codec.steps: expected int"),
    ],
)
def test_a_wrong_size_file_names_the_key(change, named, tmp_path):
    plain = yaml.safe_load((CONFIGS / "smoke.yaml").read_text())
    change(plain["size"])
    (tmp_path / "smoke.yaml").write_text(yaml.safe_dump(plain))
    with pytest.raises(ConfigError, match=named):
        sizes.load_size(tmp_path / "smoke.yaml")
    with pytest.raises(ConfigError, match="no size 'huge'"):
        sizes.load_size("huge")


def test_no_number_of_a_size_is_unused():
    """A dial that turns nothing is worse than none: a stage's YAML or the code must read each, or its whole group."""
    stages = "".join(path.read_text() for path in CONFIGS.glob("*.yaml") if path.stem != "smoke")
    package = Path(sizes.__file__).parents[1]
    code = "".join(path.read_text() for path in package.rglob("*.py") if path.name != "sizes.py")
    plain = yaml.safe_load((CONFIGS / "smoke.yaml").read_text())["size"]

    def unused(plain, prefix):
        for key, value in plain.items():
            name = f"{prefix}.{key}"
            if isinstance(value, dict):
                yield from () if f"asdict(self.{name})" in code else unused(value, name)
            elif f"${{{name}}}" not in stages and name not in code:
                yield name

    assert not list(unused(plain, "size"))
