"""Reads GGUF files: metadata, and tensors as float32.

The `gguf` package's own reader makes several NumPy views for every token of the vocabulary, which takes seconds; here
the metadata is unpacked in one pass, and the package only dequantises. Layout: the GGUF specification
of the ggml project, versions 2 and 3, little-endian.
"""

import math
import mmap
import struct
from pathlib import Path
from typing import Any

import numpy as np

from mossrepro.utils.errors import CheckpointError

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_SMALLEST_ENTRY = 8 + 4 + 1  # bytes of a metadata entry, at least: key, type, value
_SMALLEST_INFO = 8 + 4 + 4 + 8  # of a tensor's description: name, number of axes, type, offset
_SMALLEST_ARRAY = 4 + 8  # of an array: type, count


class GGUFFile:
    """A GGUF file: `metadata` maps keys to plain values (arrays to lists); `tensors()` dequantises.

    Raises CheckpointError if the file is missing or no GGUF file, ends too early, or says that it holds more than its
    size allows.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._at = 0
        try:
            if not self.path.is_file() and self.path.exists():  # a pipe would be waited for
                raise CheckpointError(f"{path}: is not a file")
            with open(self.path, "rb") as file:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._read_head()
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
        except (struct.error, ValueError, KeyError, TypeError, ArithmeticError, RecursionError) as error:
            raise CheckpointError(f"{path}: broken GGUF file ({error}); fetch it again") from error

    def _read_head(self) -> None:
        magic, version, tensors, entries = struct.unpack_from("<4sIQQ", self._bytes)
        if magic != b"GGUF" or version not in (2, 3):
            raise CheckpointError(f"{self.path}: no GGUF file of version 2 or 3")
        self._at = struct.calcsize("<4sIQQ")
        self._expect(entries, _SMALLEST_ENTRY, "metadata entries")
        self._expect(tensors, _SMALLEST_INFO, "tensors")
        self.metadata: dict[str, Any] = {}
        for _ in range(entries):
            key = self._string()
            self.metadata[key] = self._value(self._number("I"))
        self._infos = [self._tensor_info() for _ in range(tensors)]
        step = self.metadata.get("general.alignment", 32)
        self._data = -(-self._at // step) * step

    def _expect(self, count: int, size: int, what: str) -> None:
        """ValueError where `count` things of at least `size` bytes cannot follow in the file."""
        if count * size > len(self._bytes) - self._at:
            raise ValueError(f"{count} {what} in {len(self._bytes)} bytes")

    def _number(self, code: str) -> Any:
        (value,) = struct.unpack_from("<" + code, self._bytes, self._at)
        self._at += struct.calcsize("<" + code)
        return value

    def _string(self) -> str:
        return self._strings(1)[0]

    def _strings(self, count: int) -> list[str]:
        """`count` strings, each a length (uint64) and that many bytes."""
        self._expect(count, 8, "strings")
        data, at, out, length = self._bytes, self._at, [], struct.Struct("<Q").unpack_from
        for _ in range(count):
            end = at + 8 + length(data, at)[0]
            if end > len(data):
                raise ValueError(f"a string of {end - at - 8} bytes at {at}")
            out.append(data[at + 8 : end].decode())
            at = end
        self._at = at
        return out

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            return self._number(_SCALARS[kind])
        inner, count = self._number("I"), self._number("Q")
        if inner == _STRING:
            return self._strings(count)
        if inner == _ARRAY:
            self._expect(count, _SMALLEST_ARRAY, "arrays")
            return [self._value(inner) for _ in range(count)]
        self._expect(count, struct.calcsize(f"<{_SCALARS[inner]}"), "numbers")
        layout = f"<{count}{_SCALARS[inner]}"
        values = list(struct.unpack_from(layout, self._bytes, self._at))
        self._at += struct.calcsize(layout)
        return values

    def _tensor_info(self) -> tuple[str, tuple[int, ...], int, int]:
        """Name, shape (slowest axis first), type of quantisation, offset in the data section in bytes."""
        name, axes = self._string(), self._number("I")
        self._expect(axes, 8, f"axes of {name}")
        shape = [self._number("Q") for _ in range(axes)]
        return name, tuple(reversed(shape)), self._number("I"), self._number("Q")

    def tensors(self) -> dict[str, np.ndarray]:
        """All tensors by name, as writable float32 arrays of their own."""
        from gguf.constants import GGMLQuantizationType
        from gguf.quants import dequantize, quant_shape_to_byte_shape

        out, total = {}, 0
        for name, shape, kind, offset in self._infos:
            try:
                kind = GGMLQuantizationType(kind)
                stored = quant_shape_to_byte_shape(shape, kind)
                start, size = self._data + offset, math.prod(stored)
                total += size  # of all: several could be said to lie at one place
                if max(start + size, total) > len(self._bytes):
                    raise ValueError("the file ends inside it")
                array = dequantize(np.frombuffer(self._bytes, np.uint8, size, start).reshape(stored), kind)
            except (ValueError, IndexError, NotImplementedError) as error:
                raise CheckpointError(f"{self.path}: broken GGUF file ({name}: {error}); fetch it again") from error
            out[name] = array if array.flags.writeable else array.copy()
        return out
