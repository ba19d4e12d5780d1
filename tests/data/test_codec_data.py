"""Batches for the codec: the same for the same step, every clip once a pass, spans where the speech is."""

import numpy as np
import pytest
import torch

from mossrepro.codec.recogniser import ALPHABET
from mossrepro.data.codec_data import CodecDataModule, collate, speech_span, vary
from mossrepro.data.corpus import CorpusWriter
from mossrepro.errors import DataError
from mossrepro.order import rng


def tone(seconds: float, quiet: float = 0.1) -> np.ndarray:
    """A tone with silence at both ends."""
    wave = 0.3 * np.sin(np.arange(int(seconds * 16_000)) * 0.3).astype(np.float32)
    return np.pad(wave, int(quiet * 16_000))


@pytest.fixture
def corpus(tmp_path):
    with CorpusWriter(tmp_path / "corpus") as writer:
        for i in range(24):
            split = "valid" if i % 6 == 0 else "train"
            writer.add(f"clip-{i:02d}", tone(0.5 + 0.1 * i), 16_000, f"Word {'abcdefgh'[i % 8]}", "nobody", split)
    return str(tmp_path / "corpus")


def module(corpus: str, **arguments) -> CodecDataModule:
    data = CodecDataModule(corpus=corpus, batch_seconds=6.0, **({"short_steps": 0} | arguments))
    data.setup()
    return data


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[key], b[key]) for key in a)


def test_a_batch_depends_on_step_and_rank_alone(corpus):
    one, two = module(corpus), module(corpus)
    for step in range(4):  # `one` has been there before, `two` jumps
        one.train_batch(step, 0, 1)
    assert same(one.train_batch(3, 0, 1), two.train_batch(3, 0, 1))
    assert not torch.equal(one.train_batch(3, 0, 2)["lengths"], one.train_batch(3, 1, 2)["lengths"])
    assert "seed" in one.seeded_batch(3)


def test_every_clip_is_met_once_in_a_pass_and_groups_change(corpus):
    data = module(corpus)
    first, second = data.groups(0, False), data.groups(1, False)
    assert sorted(sum(first, [])) == sorted(sum(second, [])) == list(range(20))
    assert first != second
    spread = [max(data.train[i].seconds for i in g) - min(data.train[i].seconds for i in g) for g in first]
    assert max(spread) < 1.5  # of 2.3 s in all: little padding


def test_the_run_begins_with_the_shortest_clips(corpus):
    data = module(corpus, short_steps=3, augment=False)
    short = max(data.train_batch(step, 0, 1)["lengths"].max() for step in range(3))
    assert short < 1.5 * 16_000 < data.train_batch(3, 0, 1)["lengths"].max()


def test_validation_is_fixed_and_unvaried(corpus):
    batches = module(corpus, valid_clips=3).val_batches()
    assert [len(batch["wave"]) for batch in batches] == [3]
    text = ["".join(ALPHABET[label] for label in row if label) for row in batches[0]["labels"].tolist()]
    assert all(line.startswith("word ") for line in text)
    assert same(batches[0], module(corpus, valid_clips=3, seed=0).val_batches()[0])


def test_a_corpus_without_validation_is_refused(tmp_path):
    with CorpusWriter(tmp_path) as writer:
        writer.add("one", tone(0.5), 16_000, "word", "nobody", "train")
    with pytest.raises(DataError, match="valid"):
        module(str(tmp_path))


def test_the_span_follows_the_speech():
    wave = tone(1.0, quiet=0.25)
    start, end = speech_span(wave)
    assert start == pytest.approx(4000, abs=5) and end == pytest.approx(20_000, abs=5)
    for seed in range(3):
        varied, (start, end) = vary(wave, rng(seed))
        assert varied.dtype == np.float32 and np.abs(varied).max() <= 1
        loud = np.abs(varied) > 0.5 * np.abs(varied).max()
        assert np.flatnonzero(loud)[0] == pytest.approx(start, abs=60)
        assert np.flatnonzero(loud)[-1] == pytest.approx(end, abs=60)


def test_collate_pads_with_silence_and_blank():
    batch = collate([np.ones(4, np.float32), np.ones(2, np.float32)], ["abc", "a"], [(0, 4), (0, 2)])
    assert batch["wave"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch["label_lengths"].tolist() == [3, 1] and batch["labels"][1].tolist()[1:] == [0, 0]
