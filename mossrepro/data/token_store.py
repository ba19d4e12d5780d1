"""Token store: the codes of a whole corpus in memory-mapped files, found by clip id.

A store is a folder of shards, one for each process that writes: codes.u16 (all codes, one after another, little-endian
uint16) and index.jsonl (one line per clip: id, first code, number of codes); the second writer's are codes-1.u16 and
index-1.jsonl, and so on. Files are only appended to, so that an interrupted run continues where it stopped, with any
number of writers. code_phone_probs.npy (sounds.npy in older stores) holds the phone probabilities of each code
(`SpeechCodec.code_phone_probs`), codebook.npy its vector.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mossrepro.utils.errors import ConfigError, DataError, DiskError
from mossrepro.utils.io import AppendFile, read_lines, write_text
from mossrepro.utils.locks import hold_lock
from mossrepro.utils.records import build, misfit, parse_json, read_json

META = "store.json"
_INDEX = re.compile(r"index(?:-([1-9][0-9]{0,8}))?\.jsonl")
LARGEST = 65_536  # codebook that 16 bits can hold
_LARGEST_TABLE = 1 << 30  # bytes
PHONE_PROBS, CODEBOOK = "code_phone_probs.npy", "codebook.npy"  # read by `code_table`


class TokenStore:
    """Codes by clip id: `store["a-17"]` -> np.ndarray (T,) int64. Opening reads the codes once, to check them.

    Raises DataError when the folder holds no store or a broken one: an index that names codes which the file has not,
    or twice, or codes outside the codebook.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._spans: dict[str, tuple[int, int, int]] = {}  # shard, first code, number of codes
        self._codes: list[np.ndarray] = []
        meta = read_json(self.folder / META) if (self.folder / META).is_file() else None
        self.vocabulary = meta.get("codes") if isinstance(meta, dict) else None
        if misfit(self.vocabulary, int, (1, LARGEST)):
            raise DataError(f"{self.folder}: not a token store (no {META} that says its number of codes)")
        for shard in shards(self.folder):
            self._open(shard)

    def _open(self, shard: int) -> None:
        path, spans = self.folder / file_names(shard)[0], _spans(self.folder, shard)
        end = _end(spans.values())
        if 2 * end > (path.stat().st_size if path.is_file() else 0):
            raise DataError(f"{path}: is shorter than its index says; run `mossrepro predict` into it again")
        codes = np.memmap(path, dtype="<u2", mode="r", shape=(end,)) if end else np.zeros(0, "<u2")
        if end and (largest := int(codes.max())) >= self.vocabulary:
            raise DataError(
                f"{path}: holds code {largest} of a codebook of {self.vocabulary}; delete it and tokenise again"
            )
        self._spans |= {name: (len(self._codes), start, length) for name, (start, length) in spans.items()}
        self._codes.append(codes)

    def __getitem__(self, clip_id: str) -> np.ndarray:
        try:
            shard, start, length = self._spans[clip_id]
        except KeyError:
            raise DataError(f"{self.folder}: no codes for clip {clip_id!r}") from None
        return np.asarray(self._codes[shard][start : start + length], dtype=np.int64)

    def __contains__(self, clip_id: str) -> bool:
        return clip_id in self._spans

    def __iter__(self) -> Iterator[str]:
        return iter(self._spans)

    def __len__(self) -> int:
        return len(self._spans)

    def length(self, clip_id: str) -> int:
        """Number of codes of a clip, without reading them."""
        return self._spans[clip_id][2]


def file_names(shard: int) -> tuple[str, str]:
    """Names of the codes and of the index of a shard."""
    end = f"-{shard}" if shard else ""
    return f"codes{end}.u16", f"index{end}.jsonl"


def shards(folder: Path) -> list[int]:
    """Numbers of the shards of a store, in order."""
    found = [_INDEX.fullmatch(path.name) for path in folder.glob("index*.jsonl")]
    return sorted(int(match[1] or 0) for match in found if match)


def held(folder: str | Path) -> set[str]:
    """Ids of all clips that are in the store, in any shard; none if there is no store."""
    return {name for shard in shards(Path(folder)) for name in _written(Path(folder), shard)}


@dataclass
class _Row:
    """A line of an index."""

    id: str
    start: int
    length: int


def _spans(folder: Path, shard: int) -> dict[str, tuple[int, int]]:
    """id -> (first code, number of codes), from an index; an incomplete last line is dropped.

    Raises DataError naming the line that is no such row, or the file when two clips share codes.
    """
    path, spans = folder / file_names(shard)[1], {}
    for number, line in enumerate(read_lines(path, whole=True) if path.exists() else [], 1):
        try:
            row = build(_Row, parse_json(line, f"line {number}"), f"line {number}")
        except DataError as error:
            raise DataError(f"{path}:{number}: not a row of an index ({error}); delete the shard") from error
        if row.start < 0 or row.length < 0 or row.id in spans:
            what = "its clip is there already" if row.id in spans else f"first code {row.start}, {row.length} codes"
            raise DataError(f"{path}:{number}: {what}; delete the shard")
        spans[row.id] = (row.start, row.length)
    end = 0
    for start, length in sorted(span for span in spans.values() if span[1]):
        if start < end:
            raise DataError(f"{path}: two clips share code {start}; delete the shard and tokenise again")
        end = start + length
    return spans


def _end(spans: Iterable[tuple[int, int]]) -> int:
    """Number of codes up to the last one that a clip has."""
    return max((start + length for start, length in spans), default=0)


def _written(folder: Path, shard: int) -> dict[str, tuple[int, int]]:
    """The `_spans` whose codes are in the file: after a crash of the machine it may be shorter than its index says."""
    path = folder / file_names(shard)[0]
    size = path.stat().st_size // 2 if path.exists() else 0
    return {name: span for name, span in _spans(folder, shard).items() if sum(span) <= size}


class TokenWriter:
    """Appends clips to one shard of a store; opening an interrupted one cuts off an incomplete clip.

    `done` holds the ids that are already in the shard. The shard is locked while it is open, so that a process left
    over from an earlier run cannot append to it too.

    Args:
        folder: the store, new or partly filled.
        vocabulary: size of the codebook, at most 65,536.
        shard: number of the writer.
        wait: seconds for which another writer of the shard is waited for.

    Raises:
        DataError: the codebook is too large or another one than the store's, or another process keeps the shard.
    """

    def __init__(self, folder: str | Path, vocabulary: int, shard: int = 0, wait: float = 20.0) -> None:
        if not 0 < vocabulary <= LARGEST:
            raise DataError(f"{folder}: a store holds codes of 16 bits, no codebook of {vocabulary} (1 to {LARGEST})")
        self.folder, self.vocabulary = Path(folder), vocabulary
        self.folder.mkdir(parents=True, exist_ok=True)
        meta, text = self.folder / META, json.dumps({"codes": vocabulary}) + "\n"
        if meta.exists() and meta.read_bytes() != text.encode():
            raise DataError(f"{self.folder}: was begun with another codebook size; delete it or choose another folder")
        codes, index = (self.folder / name for name in file_names(shard))
        busy = DataError(f"{codes}: another process is writing it; let it end, or end it, and run this again")
        self._codes = AppendFile(codes, hold_lock(codes, wait, busy))
        try:
            self._open(meta, text, index, shard)
        except BaseException:
            self._codes.close()
            raise

    def _open(self, meta: Path, text: str, index: Path, shard: int) -> None:
        write_text(meta, text)
        spans = _written(self.folder, shard)
        self.done = set(spans)
        self._end = _end(spans.values())
        rows = [{"id": name, "start": start, "length": length} for name, (start, length) in spans.items()]
        write_text(index, "".join(json.dumps(row) + "\n" for row in rows))
        self._codes.truncate(2 * self._end)
        self._index = AppendFile(index)

    def add(self, items: Sequence[tuple[str, np.ndarray]]) -> None:
        """Append (id, codes) pairs; the codes reach the disk before the index names them.

        Raises DataError when a code is outside the codebook, DiskError when they do not fit. Nothing is written then.
        """
        items = [(name, np.asarray(codes)) for name, codes in items]
        for name, codes in items:
            if len(codes) and not 0 <= codes.min() <= codes.max() < self.vocabulary:
                raise DataError(f"{self.folder}: clip {name!r} has codes outside the codebook of {self.vocabulary}")
        starts = np.cumsum([self._end, *(len(codes) for _, codes in items)]).tolist()
        rows = [
            json.dumps({"id": name, "start": start, "length": len(codes)}) + "\n"
            for (name, codes), start in zip(items, starts, strict=False)
        ]
        self._codes.append(b"".join(codes.astype("<u2").tobytes() for _, codes in items))
        try:
            self._index.append("".join(rows).encode())
        except DiskError:
            self._codes.truncate(2 * self._end)  # codes that no row names would put those to come in another place
            raise
        self._end = starts[-1]
        self.done.update(name for name, _ in items)

    def __enter__(self) -> "TokenWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the shard and its lock."""
        self._index.close()
        self._codes.close()


def code_table(store: str | Path, name: str, codes: int) -> Tensor:
    """A table of a token store with a row for each code: "code_phone_probs" or "codebook".

    Raises ConfigError if the store has no such table or one of another codebook.
    """
    path = Path(store) / f"{name}.npy"
    if name == "code_phone_probs" and not path.is_file() and (Path(store) / "sounds.npy").is_file():
        path = Path(store) / "sounds.npy"  # a store of version 0.1
    table = torch.from_numpy(read_table(path))
    if len(table) != codes:
        raise ConfigError(f"{path}: has {len(table)} rows and does not fit a codebook of {codes} codes")
    return table


def read_table(path: Path) -> np.ndarray:
    """The numbers (rows, columns) in a .npy file. ConfigError names one that is missing, broken or something else."""
    try:
        if not path.is_file():  # a pipe would be waited for
            raise ValueError("there is no such file")
        with np.errstate(over="ignore"):
            table = np.lib.format.open_memmap(path, mode="r")  # mapped: the header may say more than the file holds
        if table.dtype.kind != "f" or table.ndim != 2 or not 0 < table.nbytes <= _LARGEST_TABLE:
            raise ValueError(f"{table.dtype} of shape {table.shape} is no table of numbers")
        return np.array(table)
    except Exception as error:  # NumPy reads the header as Python, and raises whatever Python does
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConfigError(f"{path}: cannot be read ({reason}); give the folder that holds the codes") from error
