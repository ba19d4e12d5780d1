"""One place chooses device and precision; GPUs of every age are simulated."""

import pytest
import torch

from mossrepro.utils import audio, devices, spectral
from mossrepro.utils.devices import best_device, inference_dtype, select, training_precision
from mossrepro.utils.errors import ConfigError

CPU, CUDA, MPS = (torch.device(name) for name in ("cpu", "cuda", "mps"))
GPUS = {"V100": (7, 0), "T4": (7, 5), "A100": (8, 0), "H100": (9, 0), "P40": (6, 1)}


@pytest.fixture
def machine(monkeypatch):
    """`machine("T4", "A100")`: one with these GPUs; `machine("mps")`; `machine(bfloat16=True)`: none, a new CPU."""

    def make(*cards: str, bfloat16: bool = False) -> None:
        there = None if not cards else MPS if cards[0] == "mps" else CUDA
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: there is not None)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda *_: there)
        monkeypatch.setattr(torch.accelerator, "device_count", lambda: len(cards))
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(cards))
        number = lambda device: device if isinstance(device, int) else device.index or 0  # noqa: E731
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: GPUS[cards[number(device)]])
        monkeypatch.setattr(devices, "fast_bfloat16", lambda: bfloat16)

    return make


@pytest.mark.parametrize(
    ("cards", "bfloat16", "device", "answers", "trains"),
    [
        ((), False, CPU, torch.float32, "32-true"),
        ((), True, CPU, torch.bfloat16, "bf16-mixed"),
        (("A100",), False, CUDA, torch.bfloat16, "bf16-mixed"),
        (("H100",), False, CUDA, torch.bfloat16, "bf16-mixed"),
        (("T4",), True, CUDA, torch.float16, "32-true"),
        (("V100",), True, CUDA, torch.float16, "32-true"),
        (("P40",), True, CUDA, torch.float32, "32-true"),
        (("mps",), True, MPS, torch.float32, "32-true"),
        (("A100", "T4"), True, CUDA, torch.bfloat16, "32-true"),  # a training may take both
    ],
)
def test_device_and_precision_are_those_of_the_machine(machine, cards, bfloat16, device, answers, trains):
    machine(*cards, bfloat16=bfloat16)
    assert best_device() == device and inference_dtype(device) == answers and training_precision(device) == trains


def test_an_accelerator_that_nothing_is_trained_on_is_left_alone(machine, monkeypatch):
    machine("A100")
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda *_: torch.device("xpu"))
    assert best_device() == CPU and inference_dtype(torch.device("xpu")) == torch.float32


def test_a_device_by_name(machine):
    machine("A100", "T4")
    assert best_device("cpu") == CPU and best_device("cuda") == CUDA
    second = best_device("cuda:1")
    assert second.index == 1 and inference_dtype(second) == torch.float16 and training_precision(second) == "32-true"
    two = "has 2 of kind cuda"
    for name, said in (("cuda:2", two), ("mps", two), ("gpu", "choose auto, cpu, cuda")):
        with pytest.raises(ConfigError, match=f"'{name}'.*{said}"):
            best_device(name)
    machine()
    for name in ("cuda", "meta"):
        with pytest.raises(ConfigError, match="has no accelerator"):
            best_device(name)


def test_selecting_is_masking():
    x, mask = torch.randn(3, 4, 5, requires_grad=True), torch.rand(3, 4) > 0.5
    one, other = select(x, mask), x[mask]
    assert torch.equal(one, other)
    weight = torch.randn_like(one)
    assert torch.equal(*(torch.autograd.grad((rows * weight).sum(), x)[0] for rows in (one, other)))
    assert torch.equal(select(x[..., 0], mask), x[..., 0][mask])
    assert select(x, torch.zeros_like(mask)).shape == (0, 5)


@pytest.mark.parametrize("make", [lambda: spectral.hann(400, CPU), lambda: audio.mel_filters(16_000, 400)])
def test_filters_are_made_once_and_also_for_training(make):
    """The first call may come from a validation, in inference mode; its tensors could not be used in training."""
    spectral.hann.cache_clear(), audio.mel_filters.cache_clear()
    with torch.inference_mode():
        first = make()
    assert first is make() and not first.is_inference()
    (first * torch.ones_like(first, requires_grad=True)).sum().backward()


def test_a_new_window_for_every_device_and_precision():
    meta = torch.device("meta")
    assert spectral.hann(8, meta).device == meta == audio.mel_filters(16_000, 400, device=meta).device
    assert spectral.hann(8, CPU, torch.float64).dtype == torch.float64 != spectral.hann(8, CPU).dtype
