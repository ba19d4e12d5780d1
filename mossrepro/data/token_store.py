"""Token store: the codes of a whole corpus in memory-mapped files, found by clip id.

A store is a folder of shards, one for each process that writes: codes.u16 (all codes, one after another, little-endian
uint16) and index.jsonl (one line per clip: id, first code, number of codes); the second writer's are codes-1.u16 and
index-1.jsonl, and so on. Files are only appended to, so that an interrupted run continues where it stopped, with any
number of writers. code_phone_probs.npy (sounds.npy in older stores) holds the phone probabilities of each code
(`SpeechCodec.code_phone_probs`), codebook.npy its vector.
"""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mossrepro.utils.errors import ConfigError, DataError

META = "store.json"
PHONE_PROBS, CODEBOOK = "code_phone_probs.npy", "codebook.npy"  # read by `code_table`


class TokenStore:
    """Codes by clip id: `store["a-17"]` -> np.ndarray (T,) int64. Opening reads the index only.

    Raises DataError when the folder holds no store or a broken one.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._spans: dict[str, tuple[int, int, int]] = {}  # shard, first code, number of codes
        self._codes: list[np.ndarray] = []
        try:
            self.vocabulary = int(json.loads((self.folder / META).read_text())["codes"])
            for shard in shards(self.folder):
                self._open(shard)
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{self.folder}: not a token store ({error})") from error

    def _open(self, shard: int) -> None:
        path = self.folder / file_names(shard)[0]
        size = path.stat().st_size
        for name, (start, length) in _spans(self.folder, shard):
            if 2 * (start + length) > size:
                raise DataError(f"{path}: is shorter than its index says")
            self._spans[name] = (len(self._codes), start, length)
        self._codes.append(np.memmap(path, dtype="<u2", mode="r") if size else np.zeros(0, "<u2"))

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
    ends = [path.stem.partition("-")[2] for path in folder.glob("index*.jsonl")]
    return sorted(int(end or 0) for end in ends)


def held(folder: str | Path) -> set[str]:
    """Ids of all clips that are in the store, in any shard; none if there is no store."""
    return {name for shard in shards(Path(folder)) for name, _ in _spans(Path(folder), shard)}


def _spans(folder: Path, shard: int) -> Iterator[tuple[str, tuple[int, int]]]:
    """(id, (first code, number of codes)) of every line of an index; an incomplete last line is dropped."""
    path = folder / file_names(shard)[1]
    for line in path.read_text().splitlines(keepends=True) if path.exists() else []:
        if line.endswith("\n"):
            row = json.loads(line)
            yield row["id"], (row["start"], row["length"])


class TokenWriter:
    """Appends clips to one shard of a store; opening an interrupted one cuts off an incomplete clip.

    `done` holds the ids that are already in the shard.
    """

    def __init__(self, folder: str | Path, vocabulary: int, shard: int = 0) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        meta, text = self.folder / META, json.dumps({"codes": vocabulary}) + "\n"
        if meta.exists() and meta.read_text() != text:
            raise DataError(f"{self.folder}: was begun with another codebook size; delete it or choose another folder")
        _replace(meta, text)
        codes, index = (self.folder / name for name in file_names(shard))
        spans = dict(_spans(self.folder, shard))
        self.done = set(spans)
        self._end = max((start + length for start, length in spans.values()), default=0)
        rows = [{"id": name, "start": start, "length": length} for name, (start, length) in spans.items()]
        _replace(index, "".join(json.dumps(row) + "\n" for row in rows))
        self._codes = open(codes, "ab")
        self._codes.truncate(2 * self._end)
        self._index = open(index, "a")

    def add(self, items: Sequence[tuple[str, np.ndarray]]) -> None:
        """Append (id, codes) pairs; the codes reach the disk before the index names them."""
        for _, codes in items:
            self._codes.write(np.asarray(codes).astype("<u2").tobytes())
        self._codes.flush()
        for name, codes in items:
            self._index.write(json.dumps({"id": name, "start": self._end, "length": len(codes)}) + "\n")
            self._end += len(codes)
            self.done.add(name)
        self._index.flush()

    def __enter__(self) -> "TokenWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._codes.close()
        self._index.close()


def _replace(path: Path, text: str) -> None:
    """Write a file atomically, even if other processes write it too."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(text)
    os.replace(partial, path)


def code_table(store: str | Path, name: str, codes: int) -> Tensor:
    """A table of a token store with a row for each code: "code_phone_probs" or "codebook".

    Raises ConfigError if the store has no such table or one of another codebook.
    """
    path = Path(store) / f"{name}.npy"
    if name == "code_phone_probs" and not path.is_file() and (Path(store) / "sounds.npy").is_file():
        path = Path(store) / "sounds.npy"  # a store of version 0.1
    try:
        table = torch.from_numpy(np.load(path, allow_pickle=False))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); give the folder that holds the codes") from error
    if len(table) != codes:
        raise ConfigError(f"{path}: has {len(table)} rows and does not fit a codebook of {codes} codes")
    return table
