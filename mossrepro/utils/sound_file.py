"""Sound files by their header first: what libsndfile reads, wavs without a length, and m4a or webm by PyAV or ffmpeg.

Nothing is believed that a header says: a file is refused before it is decoded if it is said to be too long, and while
it is decoded if it is.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import soundfile

from mossrepro.utils.errors import AudioError

MOST_SAMPLES = 3_600 * 48_000  # of one channel, as the file has them and at the rate they are wanted: an hour at 48 kHz
RATES = (2_000, 768_000)  # Hz
_BLOCK = 1 << 20  # samples of all channels that are decoded at once
_CANCELLED = 0.01  # share of the loudest channel's power below which the mean of all channels is not taken
_UNKNOWN = 1 << 62  # libsndfile's number of frames where a header gives none is larger
# Suffix -> FFmpeg's demuxer. It is named, as one that is guessed may be a playlist, which opens other files.
DEMUXERS = dict.fromkeys((".m4a", ".m4b", ".mp4", ".3gp", ".mov"), "mov")
DEMUXERS |= {".aac": "aac", ".wma": "asf", ".webm": "matroska", ".amr": "amr", ".ape": "ape"}
READABLE = "wav, flac, ogg, opus, mp3, aiff, au, caf"


class Header(NamedTuple):
    """What a sound file says of itself: samples a second, channels, samples of each channel."""

    rate: int
    channels: int
    frames: int

    @property
    def seconds(self) -> float:
        """How long it says it is."""
        return self.frames / self.rate


def header(path: str | Path) -> Header:
    """The header of a sound file, without decoding it. AudioError as `read_mono`."""
    with _open(Path(path)) as sound:
        return Header(sound.samplerate, sound.channels, sound.frames)


def read_mono(path: str | Path, rate: int) -> tuple[np.ndarray, int]:
    """Decode a file that is wanted at `rate` Hz: mono float32 (n,) at the file's own rate, and that rate.

    Channels are averaged; where they cancel each other (left = -right), the loudest is taken instead.

    Raises:
        AudioError: names the file and the reason: missing, empty, not audio, too long, or it ends too early.
    """
    path = Path(path)
    with np.errstate(over="ignore", invalid="ignore"):  # samples may be any numbers; who uses them looks
        wave, source, power = _decode(path, rate, None)
        if len(power) > 1 and np.dot(wave, wave) < _CANCELLED * power.max():
            wave, source, _ = _decode(path, rate, int(power.argmax()))
    return wave, source


def _decode(path: Path, rate: int, channel: int | None) -> tuple[np.ndarray, int, np.ndarray]:
    """One channel of a file, or the mean of all (None): samples (n,), their rate, sum of squares of each channel."""
    with _open(path) as sound:
        source, most = sound.samplerate, min(MOST_SAMPLES, MOST_SAMPLES * sound.samplerate // rate)
        if sound.frames > most:
            _refuse_long(path, sound.frames, source)
        blocks, length, power = [], 0, np.zeros(sound.channels)
        try:
            while len(block := sound.read(_BLOCK // sound.channels, dtype="float32", always_2d=True)):
                length += len(block)
                if length > most:
                    _refuse_long(path, length, source)
                power += np.square(block, dtype=np.float64).sum(axis=0)
                blocks.append(block.mean(axis=1, dtype=np.float32) if channel is None else block[:, channel].copy())
        except (soundfile.SoundFileError, RuntimeError) as error:
            raise AudioError(f"{path}: cannot be decoded to the end; it is cut short or broken") from error
    wave, at = np.empty(length, np.float32), 0
    for block in reversed(blocks):  # from the back, each freed once it is copied
        at += len(block)
        wave[length - at : length - at + len(block)] = blocks.pop()
    return wave, source, power


def _refuse_long(path: Path, frames: int, rate: int) -> None:
    raise AudioError(f"{path}: {frames / rate:.0f} s at {rate} Hz are more than can be held; cut the recording")


@contextlib.contextmanager
def _open(path: Path) -> Iterator[soundfile.SoundFile]:
    """A sound file, open at its start, with a rate that sound can have. AudioError names the file and the reason."""
    with contextlib.ExitStack() as held:
        try:
            if path.exists() and not path.is_file():
                raise AudioError(f"{path}: {'is a folder, not a sound file' if path.is_dir() else 'is not a file'}")
            file = held.enter_context(open(path, "rb"))
            if os.fstat(file.fileno()).st_size == 0:
                raise AudioError(f"{path}: the file is empty")
            sound = held.enter_context(_sound(path, file))
        except FileNotFoundError as error:
            raise AudioError(f"{path}: no such file") from error
        except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
            name = str(path)
            reason = getattr(error, "strerror", None) or str(error)
            raise AudioError(f"{name[:100] + '...' if len(name) > 255 else name}: {reason}") from error
        if not RATES[0] <= sound.samplerate <= RATES[1]:
            raise AudioError(f"{path}: its header says {sound.samplerate} Hz, which no recording of speech has")
        if sound.frames > _UNKNOWN:
            raise AudioError(f"{path}: its header does not say how long it is; write it again as wav")
        yield sound


def _sound(path: Path, file: BinaryIO) -> soundfile.SoundFile:
    """The sound in an open file. AudioError when there is none that can be read."""
    try:
        # By its descriptor: the name may be none that libsndfile can open, and its suffix says nothing.
        sound = soundfile.SoundFile(file.fileno(), closefd=False)
        if sound.frames or sound.format not in ("WAV", "WAVEX"):
            return sound
        sound.close()
        return soundfile.SoundFile(_with_length(path, file))
    except (soundfile.SoundFileError, RuntimeError, TypeError, ValueError, struct.error) as error:
        if path.suffix.lower() in DEMUXERS:
            return soundfile.SoundFile(_transcoded(path))
        raise AudioError(f"{path}: not a sound file that can be read ({READABLE} can be)") from error


def _with_length(path: Path, file: BinaryIO) -> BinaryIO:
    """A wav whose header gives no length, as one that was written into a pipe: all that follows is its sound."""
    size, place = os.fstat(file.fileno()).st_size, 12
    if size > 4 * MOST_SAMPLES:
        raise AudioError(f"{path}: {size >> 20} MB and no length in its header; cut the recording")
    file.seek(0)
    data = bytearray(file.read())
    while (name := bytes(data[place : place + 4])) != b"data":
        length = struct.unpack_from("<I", data, place + 4)[0]
        if len(name) < 4:
            break
        place += 8 + length + length % 2
    struct.pack_into("<I", data, place + 4, size - place - 8)
    struct.pack_into("<I", data, 4, size - 8)
    return io.BytesIO(data)


def _transcoded(path: Path) -> BinaryIO:
    """A file that libsndfile does not know, as a wav, by PyAV or else by ffmpeg. AudioError when both are missing."""
    if importlib.util.find_spec("av") is not None:
        return _by_pyav(path)
    if (tool := shutil.which("ffmpeg")) is not None:
        return _by_ffmpeg(path, tool)
    suffix = path.suffix.lower()
    raise AudioError(f"{path}: {suffix} needs PyAV (pip install av) or ffmpeg; install one, or convert it to wav")


def _by_pyav(path: Path) -> BinaryIO:
    import av

    out, most = io.BytesIO(), MOST_SAMPLES
    try:
        with open(path, "rb") as file, av.open(file, format=DEMUXERS[path.suffix.lower()]) as container:
            stream = container.streams.audio[0]
            convert = av.AudioResampler(format="flt", layout="mono", rate=stream.rate)
            with soundfile.SoundFile(out, "w", stream.rate, 1, "FLOAT", format="WAV") as wav:
                for frame in container.decode(stream):
                    for part in convert.resample(frame):
                        wav.write(part.to_ndarray().reshape(-1))
                        most -= part.samples
                    if most < 0:
                        _refuse_long(path, MOST_SAMPLES - most, stream.rate)
    except (av.FFmpegError, IndexError, ValueError, soundfile.SoundFileError) as error:
        raise AudioError(f"{path}: not a sound file that can be decoded ({str(error).splitlines()[0]})") from error
    out.seek(0)
    return out


def _by_ffmpeg(path: Path, tool: str) -> BinaryIO:
    """At most an hour at 48 kHz, mono; `file:` keeps a name with a colon from being a protocol."""
    kind = ["-f", DEMUXERS[path.suffix.lower()], "-protocol_whitelist", "file,pipe", "-i", f"file:{path}"]
    form = ["-vn", "-ac", "1", "-c:a", "pcm_s16le", "-fs", str(2 * MOST_SAMPLES), "-f", "wav", "pipe:1"]
    words = [tool, "-nostdin", "-v", "error", *kind, *form]
    done = subprocess.run(words, capture_output=True, stdin=subprocess.DEVNULL)
    if done.returncode or not done.stdout:
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        raise AudioError(f"{path}: ffmpeg cannot decode it" + (f" ({lines[-1]})" if lines else ""))
    return io.BytesIO(done.stdout)
