"""Sound files as they should not be, for the tests of this folder."""

import struct
from pathlib import Path

import numpy as np
import soundfile

RATE = 16_000
WAVE = (0.3 * np.sin(np.arange(RATE) / 9)).astype(np.float32)  # a second


def wav(path: Path, samples: bytes, rate: int = RATE, channels: int = 1, bits: int = 16, **lies: int) -> Path:
    """A wav of PCM samples; lies: the `length` of data that its header gives, and that of the `whole`."""
    frame = channels * bits // 8
    kind = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, channels, rate, rate * frame & 0xFFFFFFFF, frame & 0xFFFF, bits)
    whole, length = lies.get("whole", 36 + len(samples)), lies.get("length", len(samples))
    head = b"RIFF" + struct.pack("<I", whole) + b"WAVE" + kind + b"data" + struct.pack("<I", length)
    path.write_bytes(head + samples)
    return path


def pcm(wave: np.ndarray) -> bytes:
    """Samples (n,) or (n, channels) in [-1, 1] as 16-bit PCM."""
    return (wave * 32_767).astype("<i2").tobytes()


def sparse(path: Path, seconds: float, rate: int = 48_000, channels: int = 2) -> Path:
    """A wav of silence that takes no room on the disk."""
    length = int(seconds * rate) * 2 * channels
    wav(path, b"", rate, channels, length=length, whole=36 + length)
    with path.open("r+b") as file:
        file.truncate(44 + length)
    return path


def lying_flac(path: Path, frames: int) -> Path:
    """A flac of a second that says it has `frames`: 36 bits of its first block."""
    soundfile.write(path, WAVE, RATE)
    data = bytearray(path.read_bytes())
    data[21] = data[21] & 0xF0 | frames >> 32
    data[22:26] = struct.pack(">I", frames & 0xFFFFFFFF)
    path.write_bytes(data)
    return path
