"""A disk that gets full at a chosen write."""

import contextlib
import errno

import pytest
from safetensors import SafetensorError

from mossrepro.utils import io, safetensors_io


class Disk:
    """Counts what is written; the write of number `full` (from 0) and all later ones find half of the room they need.

    Weights are written by a library in Rust, which removes its file and has an error of its own.
    """

    def __init__(self, monkeypatch) -> None:
        self.full, self.writes = None, 0
        put, save = io._put, safetensors_io.save_file

        def limited_put(file, data):
            if self._fits():
                return put(file, data)
            put(file, bytes(memoryview(data))[: memoryview(data).nbytes // 2])
            raise OSError(errno.ENOSPC, "No space left on device")

        def limited_save(tensors, path, metadata=None):
            if self._fits():
                return save(tensors, path, metadata)
            path.unlink(missing_ok=True)
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

        monkeypatch.setattr(io, "_put", limited_put)
        monkeypatch.setattr(safetensors_io, "save_file", limited_save)

    def _fits(self) -> bool:
        self.writes += 1
        return self.full is None or self.writes <= self.full

    @contextlib.contextmanager
    def full_from(self, number: int):
        """Within, the writes from `number` on do not fit."""
        self.full, self.writes = number, 0
        try:
            yield
        finally:
            self.full = None


@pytest.fixture
def disk(monkeypatch):
    return Disk(monkeypatch)
