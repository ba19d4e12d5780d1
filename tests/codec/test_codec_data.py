"""Batches for the codec: the same for the same step, every clip once a pass, spans where the speech is."""

import numpy as np
import pytest
import torch

from mossrepro.codec import data
from mossrepro.codec.data import CodecDataModule, Example, collate, phone_frames, speech_span, vary
from mossrepro.data.corpus import Clip, CorpusWriter, read_manifest
from mossrepro.utils.errors import DataError
from mossrepro.utils.random import rng


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


@pytest.fixture(autouse=True)
def tones_have_phones(monkeypatch):
    """No aligner finds phones in tones: every clip says AA all along."""
    monkeypatch.setattr(data, "phone_times", lambda corpus: corpus)
    monkeypatch.setattr(
        data, "read_phones", lambda corpus: {c.id: [("AA", 0.1, c.seconds - 0.1)] for c in read_manifest(corpus)}
    )


def module(corpus: str, **arguments) -> CodecDataModule:
    data = CodecDataModule(corpus=corpus, batch_seconds=6.0, **arguments)
    data.setup()
    return data


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[key], b[key]) for key in a)


class Counting(np.ndarray):
    """An array that counts the elements it computes with."""

    elements = 0

    def __array_ufunc__(self, ufunc, method, *inputs, **options):
        plain = [np.asarray(x) for x in inputs]
        Counting.elements += max(x.size for x in plain)
        return np.asarray(getattr(ufunc, method)(*plain, **options)).view(Counting)


def test_many_clips_are_grouped_in_a_few_passes_over_them(corpus, monkeypatch):
    """A hundred thousand clips make a corpus of a hundred hours: a search for each group's clips would take hours."""
    clips = [Clip(f"{i}", "", 16_000, 1.0 + i % 97 / 10, "", "", "train") for i in range(100_000)]
    one, cumsum = module(corpus), np.cumsum
    one.train = clips
    monkeypatch.setattr(data.np, "cumsum", lambda x: cumsum(x).view(Counting))
    groups = one.groups(0)
    assert len(groups) > 50_000 and sorted(np.concatenate(groups)) == list(range(100_000))
    assert Counting.elements < 5 * len(clips)


def test_a_step_does_not_look_at_all_clips(corpus):
    one, looked = module(corpus), []

    class Watched(list):
        def __iter__(self):
            looked.append(1)
            return super().__iter__()

    one.train = Watched(one.train)
    for step in range(3):  # of one pass
        one.train_batch(step, 0, 1)
    assert len(looked) == 1


def test_a_batch_depends_on_step_and_rank_alone(corpus):
    one, two = module(corpus), module(corpus)
    for step in range(4):  # `one` has been there before, `two` jumps
        one.train_batch(step, 0, 1)
    assert same(one.train_batch(3, 0, 1), two.train_batch(3, 0, 1))
    assert not torch.equal(one.train_batch(3, 0, 2)["lengths"], one.train_batch(3, 1, 2)["lengths"])
    assert "seed" in one.seeded_batch(3)


def test_every_clip_is_met_once_in_a_pass_and_groups_change(corpus):
    data = module(corpus)
    first, second = data.groups(0), data.groups(1)
    assert sorted(sum(first, [])) == sorted(sum(second, [])) == list(range(20))
    assert first != second
    spread = [max(data.train[i].seconds for i in g) - min(data.train[i].seconds for i in g) for g in first]
    assert max(spread) < 1.5  # of 2.3 s in all: little padding


def test_rough_clips_are_the_same_clips_made_worse(corpus):
    smooth, rough, half = (module(corpus, rough=share).train_batch(3, 0, 1) for share in (0.0, 1.0, 0.5))
    assert torch.equal(smooth["phones"], rough["phones"]) and torch.equal(smooth["lengths"], rough["lengths"])
    changed = [[not torch.equal(a, b) for a, b in zip(smooth["wave"], x["wave"], strict=True)] for x in (rough, half)]
    assert all(changed[0]) and 0 < sum(changed[1]) < len(changed[1])


def test_validation_is_fixed_and_unvaried(corpus):
    batches = module(corpus, valid_clips=3).val_batches()
    assert [len(batch["wave"]) for batch in batches] == [3]
    assert batches[0]["phones"].unique().tolist() == [-100, 0, 1]
    assert same(batches[0], module(corpus, valid_clips=3, seed=0).val_batches()[0])


def test_a_corpus_without_validation_is_refused(tmp_path):
    with CorpusWriter(tmp_path) as writer:
        writer.add("one", tone(0.5), 16_000, "word", "nobody", "train")
    with pytest.raises(DataError, match="valid"):
        module(str(tmp_path))


def test_what_is_not_trained_on_is_counted(corpus, monkeypatch, capsys):
    with CorpusWriter(corpus) as writer:
        writer.add("long", tone(15.2), 16_000, "word", "nobody", "train")
        writer.add("unfit", tone(7.0), 16_000, "…", "nobody", "valid")
        writer.add("test", tone(7.0), 16_000, "…", "nobody", "test")  # is nobody's loss
    fit = {c.id: [("AA", 0.1, 0.2)] for c in read_manifest(corpus) if c.id not in ("unfit", "test")}
    monkeypatch.setattr(data, "read_phones", lambda corpus: fit)
    module(corpus)
    said = capsys.readouterr().err
    assert f"{corpus}: 2 of 26 clips are left out: 1 whose sound does not fit the transcript (0.00 h), 1 longer" in said
    module(corpus, max_seconds=20.0)
    assert "1 of 26 clips are left out: 1 whose" in capsys.readouterr().err
    monkeypatch.setattr(data, "read_phones", lambda corpus: {c.id: [("AA", 0.1, 0.2)] for c in read_manifest(corpus)})
    module(corpus, max_seconds=20.0)
    assert capsys.readouterr().err == ""


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


def test_phones_are_asked_for_late_and_follow_a_change_of_speed():
    phones = [("AA", 0.2, 0.4), ("B", 0.4, 0.6)]
    span = (3200, 9600)
    exact = phone_frames(phones, 16_000, span, span, delay=0.0)
    assert len(exact) == 13 * 4 and exact[10:20].tolist() == [1] * 10 and exact[20:30].tolist() == [7] * 10
    assert not exact[:10].any() and not exact[30:].any()
    late = phone_frames(phones, 16_000, span, span, delay=0.08)
    assert np.array_equal(late[4:], exact[:-4])
    slow = phone_frames(phones, 32_000, span, (6400, 19_200), delay=0.0)
    assert np.array_equal(slow[20:60:2], exact[10:30])


def test_collate_pads_with_silence_and_nothing_to_learn():
    long = Example(np.ones(4, np.float32), np.zeros(4, np.float32), np.array([1, 2]), [5, 6, 7])
    short = Example(np.ones(2, np.float32), np.zeros(2, np.float32), np.array([3]), [8])
    batch = collate([long, short])
    assert "clean" not in batch and collate([long, short], clean=True)["clean"].tolist() == [[0.0] * 4] * 2
    assert batch["labels"].tolist() == [[5, 6, 7], [8, 0, 0]] and batch["label_lengths"].tolist() == [3, 1]
    assert batch["wave"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch["phones"].tolist() == [[1, 2], [3, -100]] and batch["lengths"].tolist() == [4, 2]
