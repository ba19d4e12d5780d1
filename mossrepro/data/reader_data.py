"""Batches of codes with their text, for the recogniser."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mossrepro.codec.recogniser import labels
from mossrepro.data.corpus import Clip, read_manifest
from mossrepro.data.steps import StepDataModule
from mossrepro.data.tokens import TokenStore
from mossrepro.errors import DataError
from mossrepro.order import rng

_JITTER = 6.0  # codes; regroups clips of similar length in every pass


class ReaderDataModule(StepDataModule):
    """Clips of a tokenised corpus, of similar length in a batch; a pure function of the step.

    Args:
        corpus: corpus folder. tokens: its token store.
        batch: clips a step and rank. valid_clips: clips of "valid" that the error rates are measured on.
        seed: of the order. num_workers: loader processes.
    """

    def __init__(
        self, corpus: str, tokens: str, batch: int = 24, valid_clips: int = 80, seed: int = 0, num_workers: int = 0
    ) -> None:
        super().__init__(seed, num_workers)
        self.store, self.batch = TokenStore(tokens), batch
        clips = [clip for clip in read_manifest(Path(corpus)) if clip.id in self.store and labels(clip.text)]
        self.train = [clip for clip in clips if clip.split == "train"]
        self.valid = [clip for clip in clips if clip.split == "valid"][:valid_clips]
        if not self.train:
            raise DataError(f"{tokens}: holds no codes of {corpus}'s training clips")
        self._pass: tuple[int, list[np.ndarray]] = (-1, [])

    def groups(self, number: int) -> list[np.ndarray]:
        """The clips of one pass, grouped by similar length, the groups shuffled."""
        if self._pass[0] != number:
            random = rng(self.seed, "pass", number)
            length = np.array([self.store.length(clip.id) for clip in self.train])
            order = np.argsort(length + random.uniform(0.0, _JITTER, len(length)), kind="stable")
            found = [order[i : i + self.batch] for i in range(0, len(order), self.batch)]
            self._pass = (number, [found[i] for i in random.permutation(len(found))])
        return self._pass[1]

    def train_batch(self, step: int, rank: int, world: int) -> dict[str, Tensor]:
        """codes (B, T) with -1 past the end, labels (B, S), label_lengths (B,)."""
        number, index = divmod(step * world + rank, -(-len(self.train) // self.batch))
        return self._collate([self.train[i] for i in self.groups(number)[index]])

    def val_batches(self) -> list[dict[str, Tensor]]:
        return [self._collate(self.valid[i : i + 16]) for i in range(0, len(self.valid), 16)]

    def _collate(self, clips: list[Clip]) -> dict[str, Tensor]:
        codes = [torch.from_numpy(self.store[clip.id]) for clip in clips]
        targets = [torch.tensor(labels(clip.text)) for clip in clips]
        return {
            "codes": torch.nn.utils.rnn.pad_sequence(codes, batch_first=True, padding_value=-1),
            "labels": torch.nn.utils.rnn.pad_sequence(targets, batch_first=True),
            "label_lengths": torch.tensor([len(target) for target in targets]),
        }
