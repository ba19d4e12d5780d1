"""Number of computing threads, and whether the processor has fast bfloat16."""

import os
from pathlib import Path

from mossrepro.utils.errors import MossError

_MOST = 4_096  # threads that can be asked for


def thread_count() -> int:
    """Computing threads: $MOSSREPRO_THREADS, else the physical cores this process may use.

    Raises:
        MossError: the variable is not a number of threads.
    """
    wish = os.environ.get("MOSSREPRO_THREADS")
    if wish:
        if not wish.isdecimal() or not 1 <= int(wish) <= _MOST:
            raise MossError(f"MOSSREPRO_THREADS={wish!r} is not a positive number up to {_MOST}")
        return int(wish)
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        blocks = Path("/proc/cpuinfo").read_text().split("\n\n")
    except OSError:
        return allowed
    cores = {tuple(line for line in b.splitlines() if line.startswith(("physical id", "core id"))) for b in blocks}
    physical = len(cores - {()})
    return min(allowed, physical) if physical else allowed


def set_threads() -> None:
    """Let torch compute with as many threads as `thread_count` says."""
    import torch

    torch.set_num_threads(thread_count())


def fast_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 matrices natively (x86: AVX512-BF16 or AMX; Arm: bf16)."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})
