"""What is planned is what a step does: parameters, products and memory against a real model and a real step."""

import re

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mossrepro import cli
from mossrepro.lm import cost, plan
from mossrepro.lm.model import LayerSplitLM, LMConfig
from mossrepro.training.config import configs_folder
from mossrepro.utils.errors import ConfigError

CONFIGS = configs_folder()

SHAPE = LMConfig(
    dim=64, layers=4, tail_layers=1, heads=4, kv_heads=2, head_dim=16, ffn_dim=96, text_vocab=300, codes=64
)


def config(stage: str, size: str, *more: str):
    return plan.read([CONFIGS / f"{stage}.yaml", CONFIGS / "size" / f"{size}.yaml", *(CONFIGS / name for name in more)])


def test_the_papers_shape_by_part() -> None:
    with torch.device("meta"):
        model = LayerSplitLM(plan.shape(config("stage1", "full")))
    model.train_only("speech")
    found = cost.parts(model)
    assert sum(count for count, _ in found.values()) == 9_095_694_336
    speech = sum(count for part, (count, _) in found.items() if part.startswith("speech"))
    assert sum(learns for _, learns in found.values()) == speech == 907_056_128
    assert found["trunk"] == (32 * 192_946_432, 0) and found["speech_head"] == (16_512 * 4096,) * 2


@pytest.mark.parametrize(("size", "source"), [("small", "smollm2"), ("tiny", "mini")])
def test_the_shapes_of_sizes_that_are_trained_are_those_that_are_planned(size, source) -> None:
    lm = plan.shape(config("stage2", size))
    if source == "smollm2":
        from mossrepro.lm.init_from import open_start

        real = open_start("smollm2", lm.codes, lm.tail_layers, "copy", 0)[0]
    else:
        from mossrepro.lm.mini import new_model
        from mossrepro.lm.tokenizer import mini_tokenizer

        size = config("stage2", size).size
        words = [f"{a}{b}{c}" for a in "bcdfghjk" for b in "aeiou" for c in "lmnprstv"]
        tokenizer = mini_tokenizer(words, size.backbone.vocab)
        real = new_model(tokenizer, lm.codes, lm.tail_layers, 6, 128, 384, 4)
    with torch.device("meta"):
        planned = LayerSplitLM(lm)
    shapes = [{name: tuple(p.shape) for name, p in model.named_parameters()} for model in (planned, real)]
    same = {name for name in shapes[0] if "text_embed" not in name}  # a mini vocabulary may stop short of its size
    assert shapes[0].keys() == shapes[1].keys() and all(shapes[0][name] == shapes[1][name] for name in same)


@pytest.mark.parametrize("train", ["speech", "all"])
def test_products_are_those_of_a_real_step(train) -> None:
    planned = cost.step(SHAPE, train, 3, 40, "32-true", False)
    model = LayerSplitLM(SHAPE)
    model.train_only(train)
    grid = torch.full((3, 40, 2), SHAPE.modality_pad)
    with FlopCounterMode(display=False) as counter:
        hidden = model(grid)
        text = model.text_head(hidden.text.flatten(0, 1)[:30]).log_softmax(-1)[:, 0].sum()
        speech = model.speech_head(hidden.speech.flatten(0, 1)[:60]).log_softmax(-1)[:, 0].sum()
        (text + speech).backward()
    assert planned.rows == 120 and planned.flops == pytest.approx(counter.get_total_flops(), rel=1e-6)


def test_freezing_and_checkpointing_save_what_they_should() -> None:
    stage1, stage2 = (cost.step(SHAPE, train, 4, 60, "bf16-mixed", False) for train in ("speech", "all"))
    assert stage1.flops < 0.85 * stage2.flops
    again = cost.step(SHAPE, "all", 4, 60, "bf16-mixed", True)
    assert again.kept < 0.4 * stage2.kept and 1.2 < again.flops / stage2.flops < 1.4


def test_a_split_in_front_costs_the_trunk_twice() -> None:
    """Both channels go through it by themselves."""
    last, first = (plan.shape(config("stage2", "tiny", *more)) for more in ((), ("experiment/split_first.yaml",)))
    assert (last.split_at, first.split_at) == (None, 0)
    costs = [cost.step(one, "all", 2, 40, "32-true", False).flops for one in (last, first)]
    assert costs[1] > 1.3 * costs[0]


def test_what_lies_where() -> None:
    with torch.device("meta"):
        model = LayerSplitLM(SHAPE)
    model.train_only("speech")
    whole, trained = (sum(p.numel() for p in model.parameters() if p.requires_grad or every) for every in (True, False))
    one = cost.memory(model, 10.0, "bf16-mixed", "single", 1)
    assert (one.weights, one.gradients, one.optimiser) == (4 * whole, 4 * trained, 8 * trained)
    assert (one.kept, one.extra) == (10, 0)
    assert one.total == 4 * whole + 12 * trained + 10
    assert cost.memory(model, 0.0, "bf16-true", "single", 1).total == 2 * whole + 6 * trained
    assert cost.memory(model, 0.0, "bf16-mixed", "ddp", 4).extra == 4 * trained
    shared = cost.memory(model, 0.0, "bf16-mixed", "fsdp2", 4)
    assert shared.weights == whole and shared.optimiser == 2 * trained and shared.extra > 0


def test_a_tensor_parallel_device_holds_a_slice_of_every_layer() -> None:
    """Its layers are a part, all but their norms; its products fall by what layers do, not heads; it keeps less."""
    with torch.device("meta"):
        whole, part = LayerSplitLM(SHAPE), LayerSplitLM(cost.sliced(SHAPE, 2))
    assert cost.sliced(SHAPE, 1) == SHAPE
    sizes = [{name: p.numel() for name, p in model.named_parameters()} for model in (whole, part)]
    for name, size in sizes[0].items():
        layer = name.startswith(("trunk", "text_tail", "speech_tail")) and "norm" not in name
        assert sizes[1][name] == (size // 2 if layer else size)
    steps = [cost.step(one, "all", 3, 40, "32-true", False) for one in (SHAPE, cost.sliced(SHAPE, 2))]
    assert 0.5 < steps[1].flops / steps[0].flops < 0.75 and 0.5 < steps[1].kept / steps[0].kept < 1
    with pytest.raises(ConfigError, match="tensor_parallel_size=4: 2 kv_heads"):
        cost.sliced(SHAPE, 4)


def test_the_verb_prints_tables_and_names_what_is_wrong(capsys, tmp_path) -> None:
    files = ["-c", str(CONFIGS / "stage2.yaml"), "-c", str(CONFIGS / "size" / "tiny.yaml")]
    assert cli.main(["plan", *files, "--devices", "2", "--hours", "10"]) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("speech_tail", "ddp", "fsdp2, checkpointed", "10 h of speech", "300 steps"))
    assert cli.main(["plan", *files, "--devices", "4", "--tensor", "2", "--hours", "10"]) == 0
    again = capsys.readouterr().out
    assert "4 devices, 2 to a layer" in again and "tensor, checkpointed" in again and "ddp" not in again
    of_a_step = [re.search(r"steps of ([\d,]+) positions", text)[1] for text in (printed, again)]
    assert of_a_step[0] == of_a_step[1]  # however it is spread
    words = ["-c", str(CONFIGS / "stage1_word.yaml"), "-c", str(CONFIGS / "size" / "small.yaml")]
    assert cli.main(["plan", *words, "--devices", "2", "--hours", "10"]) == 0
    assert "mouth" in capsys.readouterr().out
    four = ["--devices", "2", "--hours", "10"]
    overlay = tmp_path / "more.yaml"
    overlay.write_text("trainer: {accumulate_grad_batches: 4}\ndata: {init_args: {max_conversation_len: 300}}\n")
    assert cli.main(["plan", *files, "-c", str(overlay), *four]) == 0
    rows = re.search(r"steps of ([\d,]+) positions", capsys.readouterr().out)[1]
    assert int(rows.replace(",", "")) == round(4 * int(of_a_step[0].replace(",", "")) * 256 / 150)  # cut at 256 rows
    for command, named in (
        (["plan", *files, "--devices", "3", "--tensor", "2"], "cannot be put into groups of --tensor 2"),
        (["plan", *files, "--devices", "2", "--tensor", "0"], "must be above 0"),
        (["plan", *files, "--devices", "48", "--tensor", "2"], "cannot be shared by 24 groups"),
        (["plan", "-c", "nowhere.yaml"], "nowhere.yaml"),
        (["plan", *files[:2]], "a size is needed"),
        (["plan", "-c", str(CONFIGS / "codec.yaml"), *files[2:]], "no stage of the language model"),
        (["plan", *files, "--devices", "0"], "above 0"),
        (["plan", *files, "--devices", "7"], "cannot be shared by 7"),
        (["plan", *files, "-c", str(CONFIGS / "experiment" / "lora_trunk.yaml")], "lora=16 cannot be planned"),
    ):
        assert cli.main(command) == 2 and named in capsys.readouterr().err
    with pytest.raises(ConfigError, match="a size is needed"):
        plan.read([CONFIGS / "stage1.yaml"])
