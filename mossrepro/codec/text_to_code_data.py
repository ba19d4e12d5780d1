"""Codes with the phones that are spoken in them and who speaks, to learn how people sound."""

from pathlib import Path
from typing import NamedTuple, NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor

from mossrepro.codec.batches import IGNORE
from mossrepro.codec.data import phone_frames
from mossrepro.codec.recogniser import LABELS, STEPS, labels
from mossrepro.data.alignment import Phone, phone_times, read_phones
from mossrepro.data.corpus import Clip, read_manifest
from mossrepro.data.token_store import TokenStore
from mossrepro.training.step_data import LengthGroups, Share, StepDataModule
from mossrepro.utils.audio import SAMPLE_RATE
from mossrepro.utils.errors import DataError

_SHORTEST, _LEAST = 0.5, 0.05  # frames of a phone and its spread, at least


class TextToCodeBatch(TypedDict):
    """B clips of T codes."""

    phones: Tensor  # (B, 4 T) int64, silence past the end
    codes: Tensor  # (B, T) int64, IGNORE past the end
    speakers: Tensor  # (B,) int64
    count: Tensor  # () float32, codes of the step on all ranks, for each rank
    share: NotRequired[Tensor]  # (3,) int64


class _Row(NamedTuple):
    phones: np.ndarray
    codes: np.ndarray
    speaker: int
    text: str


class TextToCodeDataModule(StepDataModule):
    """Clips of similar length from a tokenised corpus with the times of its phones.

    Args:
        corpus: corpus folder.
        tokens: token store of that corpus.
        batch: clips a step, over all ranks.
        seed: of the order of samples.
        num_workers: loader processes; the batches are the same for every number.
    """

    on_host = ("seed", "share", "count")

    def __init__(self, corpus: str, tokens: str, batch: int = 64, seed: int = 0, num_workers: int = 0) -> None:
        super().__init__(seed, num_workers)
        self.batch, store, times = batch, TokenStore(tokens), read_phones(phone_times(corpus))
        clips = [clip for clip in read_manifest(Path(corpus)) if clip.id in store and times.get(clip.id)]
        train = [clip for clip in clips if clip.split == "train"]
        if not train:
            raise DataError(f"{tokens}: holds no codes of {corpus}'s training clips")
        self.codebook, self.speakers = store.vocabulary, sorted({clip.speaker for clip in train})
        number = {name: i for i, name in enumerate(self.speakers)}
        self.train = [_row(clip, store[clip.id], times[clip.id], number[clip.speaker]) for clip in train]
        known = [clip for clip in clips if clip.split == "valid" and clip.speaker in number]
        self.valid = [_row(clip, store[clip.id], times[clip.id], number[clip.speaker]) for clip in known]
        self.durations, self.pace = _durations([(times[clip.id], number[clip.speaker], clip) for clip in train])
        self._rows = LengthGroups([len(row.codes) for row in self.train], batch, seed)

    def train_batch(self, step: int, rank: int, world: int) -> TextToCodeBatch:
        """A rank's clips of a step, as long as the longest of all ranks."""
        rows = [self.train[i] for i in self._rows(step)]
        share = Share.of_rank(len(rows), rank, world)
        batch = {key: value[share.slice] for key, value in collate(rows).items()}
        if not share.rows:  # fewer clips than ranks: another's, that counts for nothing
            batch["codes"] = torch.full_like(batch["codes"], IGNORE)
        return batch | {"count": torch.tensor(sum(len(row.codes) for row in rows) / world), "share": share.tensor()}

    def val_batches(self) -> list[TextToCodeBatch]:
        parts = [self.valid[i : i + self.batch] for i in range(0, len(self.valid), self.batch)]
        return [collate(part) | {"count": torch.tensor(float(sum(len(x.codes) for x in part)))} for part in parts]


def collate(rows: list[_Row]) -> TextToCodeBatch:
    """Pad clips to a batch, without its count."""
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        "phones": pad([torch.from_numpy(row.phones) for row in rows], batch_first=True),
        "codes": pad([torch.from_numpy(row.codes) for row in rows], batch_first=True, padding_value=IGNORE),
        "speakers": torch.tensor([row.speaker for row in rows]),
    }


def _row(clip: Clip, codes: np.ndarray, phones: list[Phone], speaker: int) -> _Row:
    samples = round(clip.seconds * SAMPLE_RATE)
    frames = phone_frames(phones, samples, (0, samples), (0, samples), 0.0)
    count = min(len(codes), len(frames) // STEPS)
    return _Row(frames[: STEPS * count], codes[:count], speaker, clip.text)


def _durations(clips: list[tuple[list[Phone], int, Clip]]) -> tuple[np.ndarray, np.ndarray]:
    """Logarithms of 20 ms frames: mean and spread of every phone (40, 2), and the pace of every speaker (speakers,)."""
    rows = []
    for phones, speaker, clip in clips:
        rows += [(labels([name])[0], speaker, 50 * (end - start)) for name, start, end in phones]
        rows += [(0, speaker, 50 * phones[0][1]), (0, speaker, 50 * (clip.seconds - phones[-1][2]))]
    phone, speaker = (np.array([row[i] for row in rows]) for i in (0, 1))
    length = np.log(np.maximum([row[2] for row in rows], _SHORTEST))
    table = np.zeros((len(LABELS), 2))
    for label in range(len(LABELS)):
        table[label, 0] = length[phone == label].mean() if (phone == label).any() else length.mean()
    rest = length - table[phone, 0]
    spoken = phone > 0
    pace = np.array([rest[spoken & (speaker == i)].mean() for i in range(speaker.max() + 1)])
    rest = rest - np.where(spoken, pace[speaker], 0.0)
    for label in range(len(LABELS)):
        table[label, 1] = max(rest[phone == label].std() if (phone == label).any() else rest.std(), _LEAST)
    return table, pace
