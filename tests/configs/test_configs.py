"""Every configuration is built and makes two real steps: what the README's commands name must exist."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from stage_runs import CONFIGS, LANGUAGE, STAGES, flags, train

from mossrepro.codec import released
from mossrepro.codec.model import CodecConfig, SpeechCodec
from mossrepro.evaluation.artifacts import has_text_guidance
from mossrepro.lm.checkpoint import from_pretrained
from mossrepro.training import lightning_cli, sizes
from mossrepro.utils.errors import ConfigError

OVERLAYS = [*sorted((CONFIGS / "size").glob("*.yaml")), CONFIGS / "smoke.yaml"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_trains_validates_and_exports(stage, corpus, script, tmp_path, request):
    out = tmp_path / stage
    backbone = request.getfixturevalue("backbone") if stage in LANGUAGE else ""
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
    if hub and stage in LANGUAGE and "init_from" in config["model"]["init_args"]:
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
