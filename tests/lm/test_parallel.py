"""What cannot be cut across devices is refused before anything is; clipping is PyTorch's."""

from types import SimpleNamespace

import pytest
import torch
from lm_toys import small_model
from torch import nn

from mossrepro.lm import lora, parallel
from mossrepro.training.task import clip_gradients
from mossrepro.utils.errors import ConfigError


class Mesh(dict):
    """A mesh of three devices, two of them across."""

    def size(self) -> int:
        return 6


MESH = Mesh(data_parallel=SimpleNamespace(size=lambda: 3), tensor_parallel=SimpleNamespace(size=lambda: 2))


@pytest.mark.parametrize(("change", "message"), [
    ({"kv_heads": 1}, "tensor_parallel_size=2: 1 kv_heads cannot be dealt out evenly"),
    ({"ffn_dim": 47}, "47 ffn_dim cannot"),
])  # fmt: skip
def test_what_does_not_divide_is_refused(change, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parallel.shard(small_model(**change), MESH)


def test_low_rank_changes_are_not_cut() -> None:
    model = small_model()
    lora.adapt(model.trunk, 2)
    with pytest.raises(ConfigError, match="low-rank changes are not cut"):
        parallel.shard(model, MESH)
    assert not parallel.is_cut_across(model)


@pytest.mark.parametrize("most", [0.5, 1e6])
def test_clipping_is_pytorchs(most: float) -> None:
    ours, theirs = (nn.Linear(7, 5) for _ in range(2))
    for layer in (ours, theirs):
        layer.weight.grad = torch.linspace(-1, 1, 35).view(5, 7)  # the bias has none
    norms = clip_gradients(ours.parameters(), most), nn.utils.clip_grad_norm_(theirs.parameters(), most)
    torch.testing.assert_close(*norms)
    torch.testing.assert_close(ours.weight.grad, theirs.weight.grad)
    assert (float(ours.weight.grad.norm()) < 0.51) == (most < 1)
