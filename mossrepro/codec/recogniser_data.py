"""Batches of codes with the phones that were spoken, for the recogniser."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from mossrepro.codec.batches import RecogniserBatch
from mossrepro.codec.lexicon import Lexicon
from mossrepro.codec.recogniser import labels
from mossrepro.data.alignment import phone_times, read_phones
from mossrepro.data.corpus import left_out, read_manifest
from mossrepro.data.token_store import TokenStore
from mossrepro.speech.normalise import normalise
from mossrepro.speech.sphinx import pronunciations
from mossrepro.training.step_data import LengthGroups, Share, StepDataModule, announce
from mossrepro.utils.errors import DataError


class RecogniserDataModule(StepDataModule):
    """Batches of clips of similar length from a tokenised corpus, each a pure function of the step.

    `lexicon` holds the words of all splits: it is complete, and too large to be of help.

    Args:
        corpus: corpus folder.
        tokens: token store of that corpus.
        own: another corpus, of somebody's recordings, to which a recogniser is adapted.
        own_tokens: its token store.
        own_share: share of the clips that are its own: each is repeated so often in a pass.
        batch: clips per step, over all ranks.
        valid_clips: clips of the "valid" split that the error rates are measured on.
        seed: of the order of samples and of all randomness.
        num_workers: loader processes; the batches are the same for every number.
    """

    on_host = ("seed", "share", "codes", "label_lengths")  # CTC takes its lengths from main memory

    def __init__(
        self,
        corpus: str,
        tokens: str,
        own: str | None = None,
        own_tokens: str | None = None,
        own_share: float = 0.5,
        batch: int = 24,
        valid_clips: int = 80,
        seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(seed, num_workers)
        self.train, self.valid = _rows(corpus, tokens, valid_clips)
        if own is not None:
            theirs, heard = _rows(own, own_tokens or "", valid_clips)
            times = own_share / max(1 - own_share, 1e-9) * len(self.train) / len(theirs)
            self.train, self.valid = self.train + max(1, round(times)) * theirs, heard
        self.finish(batch, _texts(*filter(None, (corpus, own))))

    def finish(self, batch: int, texts: Iterable[str]) -> None:
        """Order the clips into steps, and look words up among those of `texts`."""
        self.batch, self.lexicon = batch, _lexicon(texts)
        self._rows = LengthGroups([len(row.codes) for row in self.train], batch, self.seed)

    def train_batch(self, step: int, rank: int, world: int) -> RecogniserBatch:
        """A rank's share of a step: codes (B, T) with -1 past the end, labels (B, S), label_lengths (B,).

        It is as long as the longest clip of all ranks, so that frames can be dropped at random for all of them alike.
        """
        rows = [self.train[i] for i in self._rows(step)]
        share = Share.of_rank(len(rows), rank, world)
        batch = {key: value[share.slice] for key, value in _collate(rows).items()}
        if not share.rows:  # a clip of another rank: here it has no phones, and counts for nothing
            batch["label_lengths"] = torch.zeros(1, dtype=torch.int64)
        return batch | {"share": share.tensor()}

    def val_batches(self) -> list[RecogniserBatch]:
        """As `train_batch`, with text, a list of B strings."""
        parts = [self.valid[i : i + 16] for i in range(0, len(self.valid), 16)]
        return [{**_collate(part), "text": [row.text for row in part]} for part in parts]


class Row(NamedTuple):
    """What is known of a clip: codes (T,) int64, CTC labels in order, normalised text."""

    codes: np.ndarray
    labels: list[int]
    text: str


def _rows(corpus: str, tokens: str, valid_clips: int) -> tuple[list[Row], list[Row]]:
    """The training clips of a tokenised corpus, and some for validation. DataError if there are none to train on."""
    store, phones = TokenStore(tokens), read_phones(phone_times(corpus))
    every = [clip for clip in read_manifest(corpus) if clip.split in ("train", "valid")]
    unread = [clip for clip in every if clip.id not in store]
    unfit = [clip for clip in every if clip.id in store and not phones.get(clip.id)]
    if line := left_out(every, {"without codes": unread, "whose sound does not fit the transcript": unfit}):
        announce(f"{corpus}: {line}")
    rows = {"train": [], "valid": []}
    for clip in every:
        if clip.id in store and phones.get(clip.id):
            said = labels([phone for phone, _, _ in phones[clip.id]])
            rows[clip.split].append(Row(store[clip.id], said, normalise(clip.text)))
    if not rows["train"]:
        raise DataError(f"{tokens}: holds no codes of {corpus}'s training clips")
    return rows["train"], rows["valid"][:valid_clips]


def _collate(rows: list[Row]) -> RecogniserBatch:
    codes, targets = [torch.from_numpy(row.codes) for row in rows], [torch.tensor(row.labels) for row in rows]
    return {
        "codes": torch.nn.utils.rnn.pad_sequence(codes, batch_first=True, padding_value=-1),
        "labels": torch.nn.utils.rnn.pad_sequence(targets, batch_first=True),
        "label_lengths": torch.tensor([len(target) for target in targets]),
    }


def corpus_lexicon(*corpora: str | Path) -> Lexicon:
    """The words of corpora's transcripts, with their pronunciations."""
    return _lexicon(_texts(*corpora))


def _texts(*corpora: str | Path) -> list[str]:
    return [clip.text for corpus in corpora for clip in read_manifest(corpus)]


def _lexicon(texts: Iterable[str]) -> Lexicon:
    return Lexicon(pronunciations(sorted({word for text in texts for word in normalise(text).split()})))
