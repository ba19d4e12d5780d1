"""The layer split: parity with transformers, selection of embeddings, and freezing as a promise about bits."""

import pytest
import torch
import torch.nn.functional as F
from lm_toys import SMALL, small_model
from torch import Tensor

from mossrepro.errors import CheckpointError, ConfigError
from mossrepro.layers import attend
from mossrepro.lm.checkpoint import check_fit, load_text_half
from mossrepro.lm.model import LMConfig
from mossrepro.lm.start import start_speech_half


def mixed_grid(rows: int = 12) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    grid = torch.randint(8, 40, (2, rows, 2), generator=generator)
    grid[:, 3:8, 0] = 7
    return grid


@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_text_half_equals_transformers(family: str) -> None:
    import transformers

    kind = {"llama": "Llama", "qwen3": "Qwen3"}[family]
    config = getattr(transformers, f"{kind}Config")(
        hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        head_dim=8, vocab_size=60, rms_norm_eps=1e-6, tie_word_embeddings=family == "llama",
        rope_parameters={"rope_type": "default", "rope_theta": 5000.0},
    )  # fmt: skip
    torch.manual_seed(0)
    reference = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    weights = {name.removeprefix("model."): tensor for name, tensor in reference.state_dict().items()}
    model = small_model(qk_norm=family == "qwen3", tied=family == "llama", theta=5000.0)
    load_text_half(model, weights)
    ids = torch.randint(8, 60, (2, 15), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        ours = model.text_head(model(torch.stack([ids, torch.zeros_like(ids)], -1)).text)
        assert (ours - reference(ids).logits).abs().max() < 1e-5


def test_rows_are_selected_not_summed() -> None:
    model, grid = small_model(), mixed_grid()
    other = grid.clone()
    other[:, :3, 1] = 0  # the speech channel of text rows says nothing
    assert torch.equal(model.embed(grid), model.embed(other))
    other[:, 4, 1] += 1
    assert not torch.equal(model.embed(grid)[:, 4], model.embed(other)[:, 4])
    assert torch.equal(model.embed(grid)[:, 3], model.speech_embed(grid[:, 3, 1]))


def test_copied_speech_tail_starts_as_the_text_tail() -> None:
    model = small_model()
    start_speech_half(model, seed=0, tail="copy")
    hidden = model(mixed_grid())
    assert torch.equal(hidden.text, hidden.speech)
    random = small_model()
    start_speech_half(random, seed=0, tail="random")
    hidden = random(mixed_grid())
    assert not torch.equal(hidden.text, hidden.speech)


def test_new_speech_rows_look_like_text_rows() -> None:
    model = small_model(text_vocab=4000)
    with torch.no_grad():
        model.text_embed.weight.mul_(torch.linspace(0.1, 2.0, 32)).add_(0.5)
    start_speech_half(model, seed=0)
    text, speech = model.text_embed.weight, model.speech_embed.weight
    assert torch.allclose(text.mean(0), speech.mean(0), atol=0.5)
    assert torch.allclose(text.std(0), speech.std(0), rtol=0.3)


def test_a_tail_can_be_left_out() -> None:
    model, grid = small_model(), mixed_grid()
    both, text = model(grid), model(grid, tails=("text",))
    assert text.speech is None and torch.equal(text.text, both.text)


def test_train_only_speech_names_exactly_the_speech_half() -> None:
    model = small_model()
    model.train_only("speech")
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == set(model.speech_parameters())
    assert not any(name.startswith(("text", "trunk")) for name in trainable)
    model.train_only("all")
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(ConfigError, match="speech or all"):
        model.train_only("everything")


def test_split_deeper_than_the_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="tail_layers=4"):
        LMConfig(**{**SMALL, "tail_layers": 4})


def test_weights_of_another_size_are_refused_by_name(tmp_path) -> None:
    state = small_model(codes=48).state_dict()
    with pytest.raises(CheckpointError, match="speech_embed.weight is"):
        check_fit(small_model(), state, tmp_path)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_attention_written_out_equals_the_fused_kernel(masked, groups) -> None:
    q, k, v = (torch.randn(2, heads, 9, 8, dtype=torch.float64) for heads in (6, groups, groups))
    mask = None
    if masked:
        mask = (torch.rand(2, 1, 9, 9) > 0.5) | torch.eye(9, dtype=torch.bool)
    fused = attend(q, k, v, mask)
    leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    written = attend(*leaves, mask)
    assert (written - fused).abs().max() < 1e-12
    written.square().sum().backward()
    fused_leaves = [x.clone().requires_grad_() for x in (q, k, v)]
    full = [x.repeat_interleave(6 // x.shape[1], 1) for x in fused_leaves]
    F.scaled_dot_product_attention(*full, attn_mask=mask, is_causal=mask is None).square().sum().backward()
    for one, other in zip(leaves, fused_leaves, strict=True):
        assert (one.grad - other.grad).abs().max() < 1e-12
