"""A model made ready to answer says what it said before."""

from copy import deepcopy

import pytest
import torch
from lm_toys import IDS, prompts, small_model

from mossrepro.lm import inference
from mossrepro.lm.decode import GenerationConfig, SamplingParams, generate
from mossrepro.lm.inference import fuse_projections, prepare_for_inference
from mossrepro.lm.lora import LoRALinear, adapt
from mossrepro.utils import devices, packed_linear

HOW = GenerationConfig(speech=SamplingParams(min_length=3), max_positions=8)


@pytest.fixture(params=[0, 1 << 17], ids=["ordered", "plain"])
def worth(request, monkeypatch) -> int:
    """Weights in oneDNN's order however small they are, or none of them, as toys have it."""
    monkeypatch.setattr(packed_linear, "_WORTH", request.param)
    return request.param


@pytest.mark.parametrize("changes", [{}, {"qk_norm": True, "tied": False}, {"split_at": 1}, {"tail_layers": 0}])
def test_it_reads_and_answers_as_before(worth: int, changes: dict) -> None:
    model = small_model(**changes).eval()
    grid = torch.stack([torch.randint(8, 60, (2, 9)), torch.randint(0, 40, (2, 9))], -1)
    grid[:, ::3, 0] = IDS.pad
    with torch.no_grad():
        before, said = model(grid), generate(model, prompts(), IDS, HOW)
        after = fuse_projections(model)(grid)
    assert isinstance(model.trunk[0].mlp.down_proj, packed_linear.PackedLinear)
    assert not [name for name, _ in model.named_parameters() if "_proj" in name]
    heads = {isinstance(head, packed_linear.PackedLinear) for head in (model.text_head, model.speech_head)}
    assert heads == {model.trunk[0].mlp.down_proj.ordered} == {worth == 0 and packed_linear._can_pack(torch.float32)}
    if heads == {False} and model.config.tied:
        assert model.text_head.weight is model.text_embed.weight  # not twice in memory for nothing
    assert fuse_projections(model) is model
    for ours, theirs in zip(after[:2], before[:2], strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert generate(model, prompts(), IDS, HOW) == said
    assert said == [generate(model, [one], IDS, HOW)[0] for one in prompts()]


def test_layers_with_low_rank_changes_keep_them() -> None:
    model = small_model(tied=False).eval()
    adapt(model.trunk[0], 2)
    with torch.no_grad():
        for name, parameter in model.trunk[0].named_parameters():
            if name.endswith("lora_up"):
                parameter.normal_()
    said = generate(model, prompts(), IDS, HOW)
    again = fuse_projections(deepcopy(model))
    assert isinstance(again.trunk[0].self_attn.q_proj, LoRALinear) and generate(again, prompts(), IDS, HOW) == said


def test_half_precision_answers_as_float32_does(monkeypatch) -> None:
    """What V100 and T4 take; this CPU computes it too."""
    said = generate(small_model().eval(), prompts(), IDS, HOW)
    monkeypatch.setattr(inference, "inference_dtype", lambda device: torch.float16)
    model = prepare_for_inference(small_model(), torch.device("cpu"))
    assert model.text_embed.weight.dtype == torch.float16 and generate(model, prompts(), IDS, HOW) == said


def test_ready_is_fast_precision_and_evaluation(monkeypatch) -> None:
    for fast, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(devices, "fast_bfloat16", lambda fast=fast: fast)
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
        model = prepare_for_inference(small_model())
        assert model.text_embed.weight.dtype == dtype and not model.training
        assert model.trunk[0].mlp.down_proj.weight.dtype == dtype
