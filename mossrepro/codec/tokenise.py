"""Sound to codes for a whole corpus, with any number of processes: `mossrepro predict -c configs/tokenise.yaml`.

The batches are a function of the manifest alone: rank r of w takes every w-th one and writes a shard of its own. So
ranks exchange no data, the codes do not depend on their number, and an interrupted run may resume with another number.
"""

import json
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule, LightningModule
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from mossrepro.codec.model import SpeechCodec
from mossrepro.data.corpus import Clip, load_clip, read_manifest
from mossrepro.data.token_store import CODEBOOK, PHONE_PROBS, TokenWriter, held, read_table
from mossrepro.utils.audio import SAMPLE_RATE
from mossrepro.utils.errors import AudioError, DataError
from mossrepro.utils.io import read_lines, write_atomic, write_text
from mossrepro.utils.records import misfit, parse_json

SKIPPED = "skipped"  # skipped-0.jsonl: the clips that rank 0 could not read


def batches(clips: list[Clip], seconds: float) -> Iterator[list[Clip]]:
    """Groups of clips, sorted by length, that fill `seconds` with padding included; never empty."""
    group: list[Clip] = []
    for clip in sorted(clips, key=lambda clip: clip.seconds):
        if group and (len(group) + 1) * clip.seconds > seconds:
            yield group
            group = []
        group.append(clip)
    if group:
        yield group


class _Waves(Dataset):
    """Batches of waves; a file that cannot be read gives its error instead."""

    def __init__(self, corpus: Path, groups: list[list[Clip]]) -> None:
        self.corpus, self.groups = corpus, groups

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> dict[str, Any]:
        waves, ids, errors = [], [], []
        for clip in self.groups[index]:
            try:
                waves.append(torch.from_numpy(load_clip(self.corpus, clip, SAMPLE_RATE)))
                ids.append(clip.id)
            except AudioError as error:
                errors.append((clip.id, str(error)))
        padded = torch.nn.utils.rnn.pad_sequence(waves, batch_first=True) if waves else torch.zeros(0, 0)
        return {"wave": padded, "lengths": torch.tensor([len(wave) for wave in waves]), "ids": ids, "errors": errors}


class TokeniseDataModule(LightningDataModule):
    """The clips of a corpus that a token store lacks.

    Args:
        corpus: folder with a manifest.
        store: folder of the token store that is to hold the codes.
        batch_seconds: sound in a batch, padding included.
        splits: which splits to take; None: all.
        num_workers: loader processes; the batches are the same for every number.
    """

    def __init__(
        self,
        corpus: str,
        store: str,
        batch_seconds: float = 60.0,
        splits: list[str] | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        clips = read_manifest(corpus)
        self.clips = [clip for clip in clips if splits is None or clip.split in splits]
        if not self.clips:
            raise DataError(f"{corpus}: no clips in split {' or '.join(splits or [])}")
        self.corpus, self.store, self.batch_seconds = Path(corpus), Path(store), batch_seconds
        self.num_workers = num_workers

    def predict_dataloader(self) -> DataLoader:
        """This rank's batches, without those that the store holds already."""
        done = held(self.store)
        groups = list(batches(self.clips, self.batch_seconds))
        mine = groups[self.trainer.global_rank :: self.trainer.world_size]
        mine = [group for group in mine if not done.issuperset(clip.id for clip in group)]
        return DataLoader(_Waves(self.corpus, mine), batch_size=None, num_workers=self.num_workers)


class TokeniseTask(LightningModule):
    """Writes the codes of `TokeniseDataModule` into a token store, one shard per rank.

    Args:
        codec: folder of the tokenizer.
        store: folder of the token store, new or partly filled.
        budget: share of clips that may be unreadable; with more the run fails (after writing all others).
    """

    def __init__(self, codec: str, store: str, budget: float = 0.01) -> None:
        super().__init__()
        if not 0 <= budget <= 1:
            raise DataError(f"budget={budget}: a share of clips, from 0 to 1")
        self.codec, self.store, self.budget = SpeechCodec.from_pretrained(codec), Path(store), budget

    def on_predict_start(self) -> None:
        """Open this rank's shard; rank 0 also writes the codes' phone probabilities and vectors."""
        data, rank = self.trainer.datamodule, self.trainer.global_rank
        self.codec.prepare_for_inference()  # on the device it will stay on
        self._done = held(self.store)
        self._check_codebook()
        self.trainer.strategy.barrier()  # before anybody writes: all ranks skip the same clips
        self._writer = TokenWriter(self.store, self.codec.config.codes, rank)
        self._skipped: list[tuple[str, str]] = []
        if rank == 0:
            for path in self.store.glob(f"{SKIPPED}-*.jsonl"):  # of an earlier run
                path.unlink()
            for name, table in ((PHONE_PROBS, self.codec.code_phone_probs()), (CODEBOOK, self._codebook())):
                write_atomic(self.store / name, lambda file, table=table: np.save(file, table))
        left = math.ceil((len(data.clips) - len(self._done)) / self.trainer.world_size)
        self._bar = tqdm(total=left, desc="sound to codes", unit="clip", disable=rank > 0)
        self._seconds, self._began = 0.0, time.monotonic()

    def _codebook(self) -> np.ndarray:
        return self.codec.quantiser.codebook.detach().cpu().numpy()

    def _check_codebook(self) -> None:
        """DataError when the store holds the codes of another tokenizer."""
        path = self.store / CODEBOOK
        if self._done and path.is_file() and not np.array_equal(read_table(path), self._codebook()):
            raise DataError(f"{self.store}: holds the codes of another tokenizer; delete it or choose another folder")

    def predict_step(self, batch: dict[str, Any], batch_index: int) -> None:
        """Encode and write a batch."""
        self._skipped += batch["errors"]
        new = [name for name in batch["ids"] if name not in self._done]
        if new:
            rows = self.codec.encode(batch["wave"], batch["lengths"]).cpu().numpy()
            items = [(name, row[row >= 0]) for name, row in zip(batch["ids"], rows, strict=True)]
            self._writer.add([item for item in items if item[0] in new])
            self._seconds += float(batch["lengths"].sum()) / SAMPLE_RATE
        minutes = (time.monotonic() - self._began) / 60
        self._bar.set_postfix_str(f"{self._seconds / 3600 / max(minutes, 1e-9):.2f} h/min on this rank")
        self._bar.update(len(new) + len(batch["errors"]))

    def on_predict_end(self) -> None:
        """Close the shard, list the skipped clips, and fail if there are too many."""
        self._writer.close(), self._bar.close()
        rank = self.trainer.global_rank
        lines = [json.dumps({"id": name, "reason": reason}) + "\n" for name, reason in self._skipped]
        write_text(self.store / f"{SKIPPED}-{rank}.jsonl", "".join(lines))
        self.trainer.strategy.barrier()
        if rank == 0:
            self._settle()

    def _settle(self) -> None:
        """Count the skipped clips of all ranks. DataError if there are more than the budget."""
        clips, there = self.trainer.datamodule.clips, held(self.store)
        missing = [clip.id for clip in clips if clip.id not in there]
        if not missing:
            return
        reasons = {}
        for path in sorted(self.store.glob(f"{SKIPPED}-*.jsonl")):
            rows = [parse_json(line, path) for line in read_lines(path, whole=True)]
            reasons |= {row["id"]: row["reason"] for row in rows if not misfit(row, dict[str, str]) and len(row) == 2}
        text = f"{len(missing)} of {len(clips)} clips have no codes, the first: {reasons.get(missing[0], missing[0])}"
        if len(missing) > self.budget * len(clips):
            raise DataError(f"{self.store}: {text}; repair them and resume, or raise --model.init_args.budget")
        print(f"mossrepro predict: {text}; all in {self.store}/{SKIPPED}-*.jsonl", file=sys.stderr)
