"""The layer split: parity with transformers, selection of embeddings, and freezing as a promise about bits."""

import json

import pytest
import torch
import torch.nn.functional as F
from lm_toys import SMALL, small_model
from torch import Tensor

from mossrepro.lm.checkpoint import from_pretrained, load_text_half, save_pretrained
from mossrepro.lm.init import start_speech_half
from mossrepro.lm.model import LMConfig
from mossrepro.lm.tokenizer import mini_tokenizer
from mossrepro.utils.errors import CheckpointError, ConfigError
from mossrepro.utils.layers import attend


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


@pytest.mark.parametrize("family", ["Llama", "Qwen3"])
def test_the_split_model_equals_one_of_transformers_layers(family) -> None:
    """Two models of `transformers` with the trunk's layers in common read the embedded grid: one for each tail."""
    import transformers

    ours, grid = small_model(qk_norm=family == "Qwen3").eval(), mixed_grid(40)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    c = ours.config
    config = getattr(transformers, f"{family}Config")(
        hidden_size=c.dim, intermediate_size=c.ffn_dim, num_hidden_layers=c.layers, num_attention_heads=c.heads,
        num_key_value_heads=c.kv_heads, head_dim=c.head_dim, vocab_size=c.text_vocab, rms_norm_eps=c.eps,
        rope_parameters={"rope_type": "default", "rope_theta": c.theta},
    )  # fmt: skip
    said = ours(grid)
    for channel in ("text", "speech"):
        theirs = getattr(transformers, f"{family}Model")(config).eval()
        for i, block in enumerate([*ours.trunk, *getattr(ours, f"{channel}_tail")]):
            theirs.layers[i].load_state_dict(block.state_dict())
        theirs.norm.load_state_dict(getattr(ours, f"{channel}_norm").state_dict())
        with torch.no_grad():
            reference = theirs(inputs_embeds=ours.embed(grid)).last_hidden_state
        assert (getattr(said, channel) - reference).abs().max() < 1e-5
    assert not torch.allclose(said.text, said.speech, atol=0.1)


def test_a_tail_can_be_left_out() -> None:
    model, grid = small_model(), mixed_grid()
    both, text = model(grid), model(grid, tails=("text",))
    assert text.speech is None and torch.equal(text.text, both.text)


@pytest.mark.parametrize("train", ["speech", "all"])
def test_checkpointing_changes_no_gradient(train) -> None:
    grid, gradients = mixed_grid(), []
    for checkpointed in (False, True):
        model = small_model().double()
        model.train_only(train)
        model.checkpointed = checkpointed
        hidden = model(grid)
        (model.text_head(hidden.text).square().sum() + model.speech_head(hidden.speech).square().sum()).backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


def test_train_only_speech_names_exactly_the_speech_half() -> None:
    model = small_model()
    model.train_only("speech")
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == set(model.speech_parameters())
    assert not any(name.startswith(("text", "trunk")) for name in trainable)
    model.train_only("all")
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(ConfigError, match="choose speech, ears, trunk, shared, all or gradual"):
        model.train_only("everything")


def test_split_deeper_than_the_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="tail_layers=4"):
        LMConfig(**{**SMALL, "tail_layers": 4})


def test_weights_of_another_size_are_refused_by_name(tmp_path) -> None:
    tokenizer = mini_tokenizer(["one two"], 300)
    save_pretrained(small_model(codes=48), tokenizer, tmp_path)
    good = (tmp_path / "config.json").read_text()
    for change, named in (
        ({"codes": 40}, "speech_embed.weight is"), ({"layers": 5}, "trunk.2.+is missing"), ({"heads": None}, "heads="),
        ({"layers": 3}, "not part of this model"), ({"new": 1}, "unknown key 'new'"),
    ):  # fmt: skip
        (tmp_path / "config.json").write_text(json.dumps(json.loads(good) | change))
        with pytest.raises((CheckpointError, ConfigError), match=named):
            from_pretrained(tmp_path)
    for name, content in (("config.json", "{"), ("tokenizer.json", "{}"), ("model.safetensors", "no")):
        kept = (tmp_path / name).read_bytes() if name != "config.json" else good.encode()
        (tmp_path / "config.json").write_text(good)
        (tmp_path / name).write_text(content)
        with pytest.raises(CheckpointError, match=name):
            from_pretrained(tmp_path)
        (tmp_path / name).write_bytes(kept)


def test_training_mapped_weights_leaves_the_file_alone(tmp_path) -> None:
    save_pretrained(small_model(), mini_tokenizer(["one two"], 300), tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()
    model, _ = from_pretrained(tmp_path)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert (tmp_path / "model.safetensors").read_bytes() == before
    again, _ = from_pretrained(tmp_path)
    assert torch.equal(again.speech_head.weight, small_model().speech_head.weight)


def test_a_cache_takes_rows_in_pieces_of_any_size() -> None:
    model, grid = small_model().double().eval(), mixed_grid()
    whole = model(grid)
    for cuts in ([1] * grid.shape[1], [3, grid.shape[1] - 3], [grid.shape[1] - 1, 1]):
        cache, parts = model.new_cache(len(grid), grid.shape[1]), []
        for part in grid.split(cuts, 1):
            parts.append(model(part, cache=cache))
        torch.testing.assert_close(torch.cat([p.text for p in parts], 1), whole.text)
        torch.testing.assert_close(torch.cat([p.speech for p in parts], 1), whole.speech)
    q, k, v = (torch.randn(1, 2, n, 8, dtype=torch.float64) for n in (3, 7, 7))
    last = attend(torch.cat([torch.zeros(1, 2, 4, 8), q], 2), k, v)[:, :, 4:]
    torch.testing.assert_close(attend(q, k, v), last)
    torch.testing.assert_close(attend(q.requires_grad_(), k, v), last)


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
