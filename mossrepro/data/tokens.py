"""Token store: the codes of a whole corpus in one memory-mapped file, found by clip id.

A store is a folder: codes.u16 (all codes, one after another, little-endian uint16) and index.jsonl (one line per clip:
id, first code, number of codes). Both only ever grow, so that an interrupted run continues where it stopped.
sounds.npy says what each code sounds like (`SpeechCodec.code_sounds`), codebook.npy holds its vector.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from mossrepro.audio import WHISPER_RATE
from mossrepro.codec.model import SpeechCodec
from mossrepro.data.corpus import Clip, load_clip, read_manifest
from mossrepro.errors import DataError

CODES, INDEX, META = "codes.u16", "index.jsonl", "store.json"
SOUNDS, CODEBOOK = "sounds.npy", "codebook.npy"  # read by `training.code_table`


class TokenStore:
    """Codes by clip id: `store["a-17"]` -> np.ndarray (T,) int64. Opening costs the index only.

    Raises DataError when the folder holds no store or a broken one.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            self.vocabulary = int(json.loads((self.folder / META).read_text())["codes"])
            self._spans = dict(_spans(self.folder))
            size = (self.folder / CODES).stat().st_size
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"{self.folder}: not a token store ({error})") from error
        if any(2 * (start + length) > size for start, length in self._spans.values()):
            raise DataError(f"{self.folder}: {CODES} is shorter than its index says")
        self._codes = np.memmap(self.folder / CODES, dtype="<u2", mode="r") if size else np.zeros(0, "<u2")

    def __getitem__(self, clip_id: str) -> np.ndarray:
        try:
            start, length = self._spans[clip_id]
        except KeyError:
            raise DataError(f"{self.folder}: no codes for clip {clip_id!r}") from None
        return np.asarray(self._codes[start : start + length], dtype=np.int64)

    def __contains__(self, clip_id: str) -> bool:
        return clip_id in self._spans

    def __iter__(self) -> Iterator[str]:
        return iter(self._spans)

    def __len__(self) -> int:
        return len(self._spans)

    def length(self, clip_id: str) -> int:
        """Number of codes of a clip, without reading them."""
        return self._spans[clip_id][1]


def _spans(folder: Path) -> Iterator[tuple[str, tuple[int, int]]]:
    """(id, (first code, number of codes)) of every whole line of the index; a torn last line is dropped."""
    path = folder / INDEX
    for line in path.read_text().splitlines(keepends=True) if path.exists() else []:
        if line.endswith("\n"):
            row = json.loads(line)
            yield row["id"], (row["start"], row["length"])


class TokenWriter:
    """Appends clips to a store; opening an interrupted one cuts off what was half written."""

    def __init__(self, folder: str | Path, vocabulary: int) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        meta = self.folder / META
        if meta.exists() and json.loads(meta.read_text()) != {"codes": vocabulary}:
            raise DataError(f"{self.folder}: was begun with another codebook size; delete it or choose another folder")
        meta.write_text(json.dumps({"codes": vocabulary}) + "\n")
        spans = dict(_spans(self.folder))
        self.done = set(spans)
        self._end = max((start + length for start, length in spans.values()), default=0)
        rows = [{"id": name, "start": start, "length": length} for name, (start, length) in spans.items()]
        self._replace_index("".join(json.dumps(row) + "\n" for row in rows))
        self._codes = open(self.folder / CODES, "ab")
        self._codes.truncate(2 * self._end)
        self._index = open(self.folder / INDEX, "a")

    def _replace_index(self, text: str) -> None:
        partial = self.folder / f".{INDEX}.partial"
        partial.write_text(text)
        os.replace(partial, self.folder / INDEX)

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
        self._codes.close()
        self._index.close()


def tokenise(
    corpus: str | Path,
    codec: SpeechCodec,
    out: str | Path,
    batch_seconds: float = 60.0,
    keep: Callable[[Clip], bool] | None = None,
) -> TokenStore:
    """Encode every clip of a corpus folder (those that `keep` accepts) into the store at `out`.

    Clips that the store already holds are skipped, so the call resumes. Batches hold clips of similar length.
    """
    device = next(codec.parameters()).device
    clips = [clip for clip in read_manifest(Path(corpus)) if keep is None or keep(clip)]
    with TokenWriter(out, codec.config.codes) as writer:
        np.save(writer.folder / SOUNDS, codec.code_sounds())
        np.save(writer.folder / CODEBOOK, codec.quantiser.codebook.detach().cpu().numpy())
        todo = sorted((c for c in clips if c.id not in writer.done), key=lambda c: c.seconds)
        with tqdm(total=len(todo), desc="sound to codes", unit="clip", disable=not todo) as bar:
            for group in _batches(todo, batch_seconds):
                waves = [torch.from_numpy(load_clip(Path(corpus), clip, WHISPER_RATE)) for clip in group]
                lengths = torch.tensor([len(wave) for wave in waves])
                padded = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True)
                rows = _encode(codec, padded.to(device), lengths)
                writer.add([(clip.id, row[row >= 0]) for clip, row in zip(group, rows, strict=True)])
                bar.update(len(group))
    return TokenStore(out)


def _encode(codec: SpeechCodec, wave: Tensor, lengths: Tensor) -> np.ndarray:
    """Codes (B, T), -1 past each clip's end."""
    return codec.encode(wave, lengths).cpu().numpy()


def _batches(clips: list[Clip], seconds: float) -> Iterator[list[Clip]]:
    """Runs of clips, sorted by length, that fill `seconds` with padding counted; never empty."""
    group: list[Clip] = []
    for clip in clips:
        if group and (len(group) + 1) * clip.seconds > seconds:
            yield group
            group = []
        group.append(clip)
    if group:
        yield group
