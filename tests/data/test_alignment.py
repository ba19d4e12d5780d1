"""Phones of real speech: in order, inside the clip, and found again in the cache."""

import numpy as np
import pytest

from mossrepro.codec.recogniser import LABELS
from mossrepro.codec.recogniser_data import RecogniserDataModule
from mossrepro.data.alignment import FILE, phone_times, read_phones
from mossrepro.data.corpus import CorpusWriter
from mossrepro.data.token_store import TokenWriter
from mossrepro.speech import voices
from mossrepro.speech.sphinx import align_phones
from mossrepro.utils import audio
from mossrepro.utils.errors import DataError


@pytest.fixture(scope="module")
def spoken():
    wave, rate = voices.say("the green boat", "assistant")
    return audio.resample(wave, rate, 16_000)


def test_phones_stand_in_order(spoken):
    phones = align_phones(spoken, "the green boat")
    names = [name for name, *_ in phones]
    assert names[0] == "DH" and names[1] in ("AH", "IY")  # both are said
    assert names[2:] == ["G", "R", "IY", "N", "B", "OW", "T"]
    assert all(start < end for _, start, end in phones) and phones[-1][2] <= len(spoken) / 16_000 + 0.02
    assert all(a[2] <= b[1] + 1e-6 for a, b in zip(phones, phones[1:], strict=False))
    assert align_phones(np.zeros(0, np.float32), "word") == [] and align_phones(spoken, "") == []


def test_a_corpus_is_aligned_once(spoken, tmp_path, empty_home):
    with CorpusWriter(tmp_path / "corpus") as writer:
        for i in range(2):
            writer.add(f"clip-{i}", spoken, 16_000, "the green boat", "assistant", "train")
    folder = phone_times(tmp_path / "corpus", workers=1)
    assert set(read_phones(folder)) == {"clip-0", "clip-1"} and len(read_phones(folder)["clip-0"]) == 9
    before = (folder / FILE).stat().st_mtime_ns
    assert phone_times(tmp_path / "corpus") == folder and (folder / FILE).stat().st_mtime_ns == before


def test_wrong_transcripts_are_refused(spoken, tmp_path, empty_home):
    with CorpusWriter(tmp_path / "corpus") as writer:
        writer.add("clip", spoken[:4000], 16_000, "an entirely different and far longer sentence", "nobody", "train")
    with pytest.raises(DataError, match="fit their transcripts"):
        phone_times(tmp_path / "corpus", workers=1)


def test_reader_batches_hold_codes_and_phones(tmp_path):
    texts = ("one two", "the green boat", "four five six")
    with CorpusWriter(tmp_path / "corpus") as writer:
        for i, text in enumerate(texts):
            wave = audio.resample(*voices.say(text, "assistant"), 16_000)
            writer.add(f"clip-{i}", wave, 16_000, text, "assistant", "valid" if i == 1 else "train")
    with TokenWriter(tmp_path / "tokens", 8) as writer:
        writer.add([(f"clip-{i}", np.arange(3 + i) % 8) for i in range(3)])
    data = RecogniserDataModule(str(tmp_path / "corpus"), str(tmp_path / "tokens"), batch=2)
    batch = data.train_batch(0, 0, 1)
    rows = zip(batch["labels"], batch["label_lengths"], strict=True)
    said = [[LABELS[label] for label in row[:n]] for row, n in rows]
    assert sorted(map(len, said)) == [5, 10] and ["W", "AH", "N", "T", "UW"] in said
    assert batch["codes"].shape == (2, 5) and (batch["codes"] == -1).sum() == 2
    (valid,) = data.val_batches()
    assert valid["text"] == ["the green boat"] and len(valid["codes"]) == 1
    assert sorted(data.lexicon.words) == sorted({word for text in texts for word in text.split()})
    again = RecogniserDataModule(str(tmp_path / "corpus"), str(tmp_path / "tokens"), batch=2).train_batch(0, 0, 1)
    assert all((batch[key] == again[key]).all() for key in batch)
    folders = {"corpus": str(tmp_path / "corpus"), "tokens": str(tmp_path / "tokens")}
    own = {"own": str(tmp_path / "corpus"), "own_tokens": str(tmp_path / "tokens")}
    many = RecogniserDataModule(**folders, **own, own_share=0.75)
    assert len(many.train) == 2 + 3 * 2 and len(many.valid) == 1  # recordings are repeated until they are three in four
    few = RecogniserDataModule(**folders, **own, own_share=0.1)
    assert len(few.train) == 4  # but each is met


def test_clips_that_no_error_rate_sees_are_counted(tmp_path, capsys):
    with CorpusWriter(tmp_path / "corpus") as writer:
        for i, text in enumerate(("one two", "…", "one two")):
            wave = audio.resample(*voices.say("one two", "assistant"), 16_000)
            writer.add(f"clip-{i}", wave, 16_000, text, "assistant", "train")
    with TokenWriter(tmp_path / "tokens", 8) as writer:
        writer.add([(f"clip-{i}", np.arange(3)) for i in (0, 1)])
    RecogniserDataModule(str(tmp_path / "corpus"), str(tmp_path / "tokens"), batch=2)
    said = capsys.readouterr().err
    assert "2 of 3 clips are left out: 1 without codes (0.00 h), 1 whose sound does not fit the transcript" in said


@pytest.mark.parametrize(
    ("written", "said"),
    [("It was 1980s…", "it was nineteen eighties"), ("5kg", "five kilograms"), ("2:45pm", "two forty five p m")],
)
def test_numbers_beside_letters_are_aligned(written, said):
    wave = audio.resample(*voices.say(said, "assistant"), 16_000)
    assert len(align_phones(wave, written)) >= 7
