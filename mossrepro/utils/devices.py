"""Which device to compute on and in which precision, and moving data there without waiting."""

import contextlib
from contextlib import AbstractContextManager

import torch
from torch import Tensor

from mossrepro.utils.errors import ConfigError
from mossrepro.utils.threads import fast_bfloat16

CPU = torch.device("cpu")
KINDS = ("cuda", "mps")  # accelerators that Lightning trains on; ROCm calls itself CUDA
_BFLOAT16, _FLOAT16 = (8, 0), (7, 0)  # CUDA compute capabilities from which these are native (A100; V100 and T4)


def best_device(name: str = "auto") -> torch.device:
    """The device `name`; for "auto" the accelerator if this machine has one, else the CPU.

    ConfigError for a name that is no device, or a device that this machine lacks.
    """
    there = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    there = there if there is not None and there.type in KINDS else None
    if name == "auto":
        return there or CPU
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device {name!r}: choose auto, cpu, cuda, cuda:1 (the second one) or mps") from error
    count = torch.accelerator.device_count() if there is not None and there.type == device.type else 0
    if device.type != "cpu" and (device.index or 0) >= count:
        has = "has no accelerator" if there is None else f"has {torch.accelerator.device_count()} of kind {there.type}"
        raise ConfigError(f"device {name!r}: this machine {has}; leave it out, or choose cpu")
    return device


def inference_dtype(device: torch.device) -> torch.dtype:
    """The precision in which a language model answers there: the fastest that is native.

    bfloat16, on older GPUs float16; float32 where neither is, and on MPS.
    """
    if device.type == "cpu":
        return torch.bfloat16 if fast_bfloat16() else torch.float32
    if device.type != "cuda":
        return torch.float32
    capability = torch.cuda.get_device_capability(device)
    if capability >= _BFLOAT16:
        return torch.bfloat16
    return torch.float16 if capability >= _FLOAT16 else torch.float32


def training_precision(device: torch.device) -> str:
    """Lightning's name of the precision to train in: "bf16-mixed" where bfloat16 is native, else "32-true".

    Never float16, whose gradients would have to be scaled. "cuda" without a number stands for all GPUs of the machine.
    """
    if device.type == "cuda":
        every = range(torch.cuda.device_count()) if device.index is None else [device.index]
        native = all(torch.cuda.get_device_capability(i) >= _BFLOAT16 for i in every)
    else:
        native = device.type == "cpu" and fast_bfloat16()
    return "bf16-mixed" if native else "32-true"


def without_autocast(device: torch.device) -> AbstractContextManager:
    """A context in which nothing is cast to a lower precision."""
    known = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if known else contextlib.nullcontext()


def reading_waits(device: torch.device) -> bool:
    """Whether reading a number back waits until the device has done all that was asked of it before."""
    return device.type != "cpu"


def send(x: Tensor, device: torch.device) -> Tensor:
    """`x` on a device. From main memory the copy is queued like any other work, where the device can do that."""
    return x.to(device, non_blocking=device.type not in ("cpu", "mps"))


def select(x: Tensor, mask: Tensor) -> Tensor:
    """x[mask], without reading back from x's device if the mask is in main memory.

    Shapes: x (*S, *R), mask (*S) bool -> (n, *R), n the number of True.
    """
    at = mask.flatten().nonzero()[:, 0]
    return x.flatten(0, mask.dim() - 1)[send(at, x.device)]


def capable(x: Tensor) -> Tensor:
    """`x` on a device that has float64 and the CTC loss: its own, or the CPU in the place of MPS."""
    return x.cpu() if x.device.type == "mps" else x


def synchronise(device: torch.device) -> None:
    """Wait until the device has done its work; what a clock that measures it has to do."""
    if reading_waits(device):
        torch.accelerator.synchronize(device)
