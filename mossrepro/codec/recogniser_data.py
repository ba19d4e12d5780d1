"""Batches of codes with the phones that were spoken, for the recogniser."""

from pathlib import Path

import numpy as np
import torch

from mossrepro.codec.batches import RecogniserBatch
from mossrepro.codec.lexicon import Lexicon
from mossrepro.codec.recogniser import labels
from mossrepro.data.alignment import phone_times, read_phones
from mossrepro.data.corpus import Clip, left_out, read_manifest
from mossrepro.data.token_store import TokenStore
from mossrepro.speech.normalise import normalise
from mossrepro.speech.sphinx import pronunciations
from mossrepro.training.step_data import Share, StepDataModule, announce
from mossrepro.utils.errors import DataError
from mossrepro.utils.random import rng

_JITTER = 6.0  # codes; regroups clips of similar length in every pass


class RecogniserDataModule(StepDataModule):
    """Batches of clips of similar length from a tokenised corpus, each a pure function of the step.

    `lexicon` holds the words of all splits: it is complete, and too large to be of help.

    Args:
        corpus: corpus folder.
        tokens: token store of that corpus.
        batch: clips per step, over all ranks.
        valid_clips: clips of the "valid" split that the error rates are measured on.
        seed: of the order of samples and of all randomness.
        num_workers: loader processes; the batches are the same for every number.
    """

    on_host = ("seed", "share", "codes", "label_lengths")  # CTC takes its lengths from main memory

    def __init__(
        self, corpus: str, tokens: str, batch: int = 24, valid_clips: int = 80, seed: int = 0, num_workers: int = 0
    ) -> None:
        super().__init__(seed, num_workers)
        self.store, self.batch = TokenStore(tokens), batch
        self.phones = read_phones(phone_times(corpus))
        every = [clip for clip in read_manifest(corpus) if clip.split in ("train", "valid")]
        unread = [clip for clip in every if clip.id not in self.store]
        unfit = [clip for clip in every if clip.id in self.store and not self.phones.get(clip.id)]
        if line := left_out(every, {"without codes": unread, "whose sound does not fit the transcript": unfit}):
            announce(f"{corpus}: {line}")
        clips = [clip for clip in every if clip.id in self.store and self.phones.get(clip.id)]
        self.train = [clip for clip in clips if clip.split == "train"]
        self.valid = [clip for clip in clips if clip.split == "valid"][:valid_clips]
        if not self.train:
            raise DataError(f"{tokens}: holds no codes of {corpus}'s training clips")
        self.lexicon = corpus_lexicon(corpus)
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

    def train_batch(self, step: int, rank: int, world: int) -> RecogniserBatch:
        """A rank's share of a step: codes (B, T) with -1 past the end, labels (B, S), label_lengths (B,).

        It is as long as the longest clip of all ranks, so that frames can be dropped at random for all of them alike.
        """
        number, index = divmod(step, -(-len(self.train) // self.batch))
        clips = [self.train[i] for i in self.groups(number)[index]]
        share = Share.of_rank(len(clips), rank, world)
        batch = {key: value[share.slice] for key, value in self._collate(clips).items()}
        if not share.rows:  # a clip of another rank: here it has no phones, and counts for nothing
            batch["label_lengths"] = torch.zeros(1, dtype=torch.int64)
        return batch | {"share": share.tensor()}

    def val_batches(self) -> list[RecogniserBatch]:
        """As `train_batch`, with text, a list of B strings."""
        parts = [self.valid[i : i + 16] for i in range(0, len(self.valid), 16)]
        return [{**self._collate(part), "text": [normalise(clip.text) for clip in part]} for part in parts]

    def _collate(self, clips: list[Clip]) -> RecogniserBatch:
        codes = [torch.from_numpy(self.store[clip.id]) for clip in clips]
        targets = [torch.tensor(labels([phone for phone, _, _ in self.phones[clip.id]])) for clip in clips]
        return {
            "codes": torch.nn.utils.rnn.pad_sequence(codes, batch_first=True, padding_value=-1),
            "labels": torch.nn.utils.rnn.pad_sequence(targets, batch_first=True),
            "label_lengths": torch.tensor([len(target) for target in targets]),
        }


def corpus_lexicon(*corpora: str | Path) -> Lexicon:
    """The words of corpora's transcripts, with their pronunciations."""
    clips = [clip for corpus in corpora for clip in read_manifest(corpus)]
    return Lexicon(pronunciations(sorted({word for clip in clips for word in normalise(clip.text).split()})))
