"""Codes of users' sentences with the tokens that end in them, for an inner ear."""

from collections.abc import Sequence
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor

from mossrepro.data.script import read_script, read_word_times
from mossrepro.lm.data import open_store
from mossrepro.lm.inner_ear import NOTHING, labels
from mossrepro.lm.losses import IGNORE
from mossrepro.lm.tokenizer import open_tokenizer
from mossrepro.training.step_data import LengthGroups, Share, StepDataModule
from mossrepro.utils.errors import DataError
from mossrepro.utils.random import rng

_MULTIPLE = 8  # codes to a multiple of which a batch is filled up: shapes that come again keep the memory whole
_HELD = 200  # lines for validation
_ASKED = 3  # one in so many codes at which no token ends


class InnerEarBatch(TypedDict):
    """B lines of T codes."""

    codes: Tensor  # (B, T) int64
    heard: Tensor  # (B, T) bool, False past the end
    named: NotRequired[Tensor]  # (B, T) int64, token id + 1, or NOTHING; IGNORE where it is not asked
    count: NotRequired[Tensor]  # () float32, codes of the step on all ranks, for each rank
    share: NotRequired[Tensor]  # (3,) int64, `step_data.Share`
    text: NotRequired[list[str]]  # what is said, in validation


class InnerEarDataModule(StepDataModule):
    """Lines of similar length from a folder of drawn lines; the last 2 % of them, 1 to 200, are for validation.

    Args:
        drawn: folder of lines with codes and the times of their words (`mossrepro/experiments/drawn.py`).
        tokenizer: tokenizer.json of the text model.
        codes: size of the codebook.
        batch: lines a step, over all ranks.
        seed: of the order of samples.
        num_workers: loader processes; the batches are the same for every number.
    """

    on_host = ("seed", "share", "count", "named")

    def __init__(
        self,
        drawn: str,
        tokenizer: str,
        codes: int,
        batch: int = 48,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(seed, num_workers)
        self.batch, self.tokenizer = batch, open_tokenizer(tokenizer)
        store, times = open_store(drawn, codes), read_word_times(drawn) or {}
        rows = [(store[line.id], line) for line in read_script(Path(drawn)) if line.id in store]
        said = lambda row, line: labels(self.tokenizer, line.text, times.get(line.id, ()), len(row))  # noqa: E731
        held = min(_HELD, max(1, len(rows) // 50))
        self.valid = [(row, line.text) for row, line in rows[len(rows) - held :]]
        rows = rows[: len(rows) - held]
        self.train = [(row, named) for row, line in rows if (named := said(row, line)) is not None]
        if not self.train:
            raise DataError(f"{drawn}: has no lines with the times of their words")
        self._rows = LengthGroups([len(row) for row, _ in self.train], batch, seed)

    def train_batch(self, step: int, rank: int, world: int) -> InnerEarBatch:
        """A rank's lines of a step. With fewer lines than ranks, some have another's, which count for nothing."""
        rows = [self.train[i] for i in self._rows(step)]
        share = Share.of_rank(len(rows), rank, world)
        random = rng(self.seed, "asked", step)  # of all ranks' lines, so that a line is asked the same on any of them
        chance = [random.random(len(row)) for row, _ in rows]
        batch = collate(rows[share.slice], chance[share.slice])
        if not share.rows:
            batch["named"] = torch.full_like(batch["named"], IGNORE)
        count = sum(len(row) for row, _ in rows) / world
        return batch | {"count": torch.tensor(count), "share": share.tensor()}

    def val_batches(self) -> list[InnerEarBatch]:
        """Held-out lines with what is said, "text"."""
        parts = [self.valid[i : i + self.batch] for i in range(0, len(self.valid), self.batch)]
        return [collate([(row, None) for row, _ in part], []) | {"text": [text for _, text in part]} for part in parts]


def collate(rows: Sequence[tuple[np.ndarray, np.ndarray | None]], chance: Sequence[np.ndarray]) -> InnerEarBatch:
    """Fill lines up to a batch: of each its codes (n,) and what is named, (n,), or None for all.

    Of the codes at which no token ends, two in three, one in three is asked: there are enough, and the head is most of
    the work. Which, `chance` says, (n,) from 0 to 1 of each line: no network may find out, or it learns where it is not
    asked, and names something there.
    """
    longest = max(len(row) for row, _ in rows)
    longest += -longest % _MULTIPLE
    codes = np.zeros((len(rows), longest), np.int64)
    heard, named = np.zeros(codes.shape, bool), np.full(codes.shape, IGNORE)
    for i, (row, labelled) in enumerate(rows):
        codes[i, : len(row)], heard[i, : len(row)] = row, True
        if labelled is not None:
            silent = (labelled == NOTHING) & (chance[i] >= 1 / _ASKED)
            named[i, : len(row)] = np.where(silent, IGNORE, labelled)
    out = {"codes": torch.from_numpy(codes), "heard": torch.from_numpy(heard)}
    return out if rows[0][1] is None else out | {"named": torch.from_numpy(named)}
