"""Linear layers in another order: the same products."""

import pickle
from copy import deepcopy

import pytest
import torch
from torch import nn

from mossrepro.utils import packed_linear as module
from mossrepro.utils.errors import MossError
from mossrepro.utils.packed_linear import PackedLinear, pack_linear_layers
from mossrepro.utils.threads import fast_bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [1, 5, 64])
def test_the_same_products(dtype: torch.dtype, bias: bool, rows: int) -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(256, width, bias=bias, dtype=dtype) for width in (512, 64)]
    x = torch.randn(2, rows, 256, dtype=dtype)
    one = PackedLinear(*layers)
    assert one.ordered == module._can_pack(dtype) and one.widths == [512, 64]
    with torch.inference_mode():
        torch.testing.assert_close(one(x), torch.cat([layer(x) for layer in layers], -1))


def test_processors_that_gain_by_it_have_it() -> None:
    fast = torch.backends.cpu.get_cpu_capability() == "AVX512"
    assert module._can_pack(torch.float32) == fast
    if fast and fast_bfloat16():
        assert module._can_pack(torch.bfloat16)


def test_older_processors_keep_the_plain_order(monkeypatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    module._can_pack.cache_clear()
    assert not module._can_pack(torch.float32)
    module._can_pack.cache_clear()


def test_what_it_cannot_do_is_said() -> None:
    one = nn.Sequential(PackedLinear(nn.Linear(512, 512)))
    for attempt, word in (
        (lambda: one(torch.randn(1, 512, requires_grad=True)), "no gradient"),
        (lambda: one.state_dict(), "cannot be saved"),
        (lambda: deepcopy(one), "cannot be copied"),
        (lambda: pickle.dumps(one), "cannot be copied"),
        (lambda: one.double(), "keeps its device and precision"),
        (lambda: one.to("meta"), "keeps its device and precision"),
    ):
        with pytest.raises(MossError, match=word):
            attempt()
    assert one.to("cpu") is one.float() is one.eval()
    with torch.no_grad():
        assert one(torch.randn(2, 512, requires_grad=True).bfloat16()).dtype == torch.float32


def test_large_layers_are_replaced_and_small_ones_and_others_stay() -> None:
    class Other(nn.Linear):
        pass

    inner = nn.Sequential(nn.GELU(), nn.Linear(512, 400))
    net = nn.Sequential(nn.Linear(300, 512), inner, Other(400, 400), nn.Linear(400, 4))
    other, x = pack_linear_layers(deepcopy(net)), torch.randn(7, 300)
    can = module._can_pack(torch.float32)
    kinds = [type(other[0]), type(other[1][1]), type(other[2]), type(other[3])]
    assert kinds == [PackedLinear if can else nn.Linear] * 2 + [Other, nn.Linear]
    with torch.inference_mode():
        torch.testing.assert_close(other(x), net(x))


@pytest.mark.parametrize("error", [RuntimeError, AttributeError])
def test_without_the_operation_everything_stays_plain(monkeypatch, error: type[Exception]) -> None:
    def missing(*_):
        raise error("no such operation")

    monkeypatch.setattr(module, "packed_product", missing)
    monkeypatch.setattr(module, "_WORTH", 0)
    layer, x = nn.Linear(16, 24), torch.randn(3, 16)
    module._can_pack.cache_clear()
    one, net = PackedLinear(layer), pack_linear_layers(nn.Sequential(layer))
    module._can_pack.cache_clear()
    assert not one.ordered and torch.equal(one(x), layer(x)) and net[0] is layer


def test_a_wrong_product_is_not_trusted(monkeypatch) -> None:
    monkeypatch.setattr(module, "packed_product", lambda x, *_: x + 1)
    module._can_pack.cache_clear()
    assert not module._can_pack(torch.float32)
    module._can_pack.cache_clear()
