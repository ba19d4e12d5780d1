"""Documents laid end to end learn what they learn alone; a loss in pieces and compiled layers are the plain ones."""

import shutil

import pytest
import torch
import torch.nn.functional as F
from lm_toys import module, small_model
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from mossrepro.lm.losses import chunked_cross_entropy, chunked_divergence
from mossrepro.lm.mini import MiniBackboneTask
from mossrepro.utils.layers import Packing


def a_task(folder, **changes) -> MiniBackboneTask:
    shape = {"layers": 3, "dim": 32, "ffn_dim": 64} | changes
    return MiniBackboneTask(str(folder / "tokenizer.json"), codes=64, tail_layers=1, **shape)


def gradients(task, batch) -> tuple[dict, dict]:
    out = task.losses(batch)
    sum(out[kind] for kind in task.weights).backward()
    found = {name: p.grad.clone() for name, p in task.model.named_parameters() if p.requires_grad}
    task.zero_grad()
    return {kind: float(out[kind].detach()) for kind in task.weights}, found


def test_packed_documents_are_separate_documents() -> None:
    model = small_model().double()
    lengths = (3, 1, 6)
    rows = torch.randint(8, 40, (1, sum(lengths), 2), generator=torch.Generator().manual_seed(3))
    rows[:, 5:8, 0] = 7
    together = model(rows, mask=Packing(lengths))
    alone = [model(part) for part in rows.split(lengths, 1)]
    for channel in ("text", "speech"):
        apart = torch.cat([getattr(one, channel) for one in alone], 1)
        torch.testing.assert_close(getattr(together, channel), apart, rtol=0, atol=1e-12)
    assert not torch.allclose(model(rows).text, together.text)


@pytest.mark.parametrize("train", ["all", "speech"])
def test_a_packed_step_is_a_padded_one(folder, train: str) -> None:
    task = a_task(folder).double()
    task.model.train_only(train)
    mix = {"S2S": 1.0, "asr": 1.0, "tts": 1.0, "text": 1.0}
    padded, packed = (module(folder, mix=mix, monologue=True, batch=6, pack=pack) for pack in (False, True))
    for step in range(3):
        one, other = padded.train_batch(step, 0, 1), packed.train_batch(step, 0, 1)
        lengths = other["lengths"].tolist()
        assert other["grid"].shape[:2] == (1, sum(lengths)) and len(lengths) == 6 and len(set(lengths)) > 1
        assert sum(lengths) < one["grid"][..., 0].numel() and 0 <= one["grid"].shape[1] - max(lengths) < 16
        assert all(torch.equal(one[f"{kind}_count"], other[f"{kind}_count"]) for kind in task.weights)
        (losses, slopes), (again, others) = gradients(task, one), gradients(task, other)
        assert losses == pytest.approx(again, rel=1e-12) and min(losses.values()) > 0
        for name, slope in slopes.items():
            torch.testing.assert_close(others[name], slope, rtol=1e-9, atol=1e-12)


def test_ranks_share_a_packed_batch_without_overlap(folder) -> None:
    data = module(folder, batch=5, pack=True)
    whole, parts = data.train_batch(2, 0, 1), [data.train_batch(2, rank, 2) for rank in range(2)]
    docs = whole["grid"].split(whole["lengths"].tolist(), 1)
    for rank, part in enumerate(parts):
        mine = part["grid"].split(part["lengths"].tolist(), 1)
        assert all(torch.equal(*pair) for pair in zip(mine, docs[rank::2], strict=True))


@pytest.mark.parametrize("rows", [1, 3, 7, 50])
def test_cross_entropy_in_pieces(rows: int) -> None:
    torch.manual_seed(0)
    head, x, target = nn.Linear(5, 90, bias=False), torch.randn(7, 5, requires_grad=True), torch.randint(90, (7,))
    kept: list[bool] = []
    with saved_tensors_hooks(lambda t: (kept.append(90 in t.shape[-1:]), t)[1], lambda t: t):
        loss = chunked_cross_entropy(head, x, target, rows)
    mine = torch.autograd.grad(loss, (x, head.weight))
    plain = F.cross_entropy(head(x), target, reduction="sum")
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(mine, torch.autograd.grad(plain, (x, head.weight)))
    assert any(kept) == (rows >= 7)
    with torch.no_grad():
        torch.testing.assert_close(chunked_cross_entropy(head, x, target, rows), plain)
    assert chunked_cross_entropy(head, x[:0], target[:0], rows).item() == 0


CPP = pytest.mark.skipif(not shutil.which("g++"), reason="compiling for a CPU needs a C++ compiler")


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=[pytest.mark.slow, CPP])])
def test_compiled_layers_are_the_plain_ones(folder, backend: str) -> None:
    task = a_task(folder)
    batches = [module(folder, pack=pack, batch=n).train_batch(n, 0, 1) for pack, n in ((True, 3), (False, 2))]
    expected = [gradients(task, batch) for batch in batches]
    task.model.compile_blocks(backend)
    for batch, (losses, slopes) in zip(batches, expected, strict=True):
        again, others = gradients(task, batch)
        assert again == pytest.approx(losses, rel=1e-5)
        assert all(torch.allclose(others[name], slope, atol=1e-4) for name, slope in slopes.items())


@pytest.mark.parametrize("rows", [2, 7, 50])
def test_divergence_in_pieces(rows: int) -> None:
    torch.manual_seed(0)
    head, x, teacher = nn.Linear(5, 90, bias=False), torch.randn(7, 5, requires_grad=True), torch.randn(7, 5)
    wanted = F.kl_div(head(x).log_softmax(-1), head(teacher).softmax(-1), reduction="sum")
    found = chunked_divergence(head, x, teacher, rows)
    torch.testing.assert_close(found, wanted)
    slopes = [torch.autograd.grad(one, (x, head.weight)) for one in (found, F.kl_div(
        head(x).log_softmax(-1), head(teacher).detach().softmax(-1), reduction="sum"))]  # fmt: skip
    for ours, theirs in zip(*slopes, strict=True):  # the teacher is not taught
        torch.testing.assert_close(ours, theirs)
    assert chunked_divergence(head, x[:0], teacher[:0], rows).item() == 0
