"""Batches for the flow and the vocoder: pure functions of the step, with codes, mel, pitch and wave in line."""

import numpy as np
import pytest
import torch

from mossrepro.data.corpus import CorpusWriter
from mossrepro.data.token_store import TokenWriter
from mossrepro.utils.audio import mel24
from mossrepro.utils.errors import DataError
from mossrepro.vocoder.data import FlowDataModule, VocoderDataModule


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Clips of a steady tone each: clip i hums at 200 + 20 i Hz and its codes are all i."""
    folder = tmp_path_factory.mktemp("hum")
    lengths = [1920 * 12, 1920 * 5 + 700, 1920 * 7 - 3, 1920 * 6]
    with CorpusWriter(folder) as corpus, TokenWriter(folder / "tokens", 8) as tokens:
        for i, n in enumerate(lengths):
            time = np.arange(n) / 24000
            wave = 0.1 * sum(np.sin(2 * np.pi * (200 + 20 * i) * h * time) / h for h in (1, 2, 3))
            speaker, split = ("user" if i == 2 else "assistant"), ("valid" if i == 3 else "train")
            corpus.add(f"clip-{i}", wave.astype(np.float32), 24000, "hum", speaker, split)
            tokens.add([(f"clip-{i}", np.full(-(-n // 1920), i))])
    return folder


def same(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def test_a_batch_depends_on_seed_step_and_rank_only(corpus):
    for make in (
        lambda seed: VocoderDataModule(corpus, batch=3, frames=8, seed=seed),
        lambda seed: FlowDataModule(corpus, corpus / "tokens", batch=3, length=9, seed=seed),
    ):
        data, fresh = make(0), make(0)
        for step in (0, 1, 5):
            data.seeded_batch(step, 0, 2)
        assert same(data.seeded_batch(7, 1, 2), fresh.seeded_batch(7, 1, 2))
        others = [fresh.seeded_batch(8, 1, 2), fresh.seeded_batch(7, 0, 2), make(1).seeded_batch(7, 1, 2)]
        assert not any(same(fresh.seeded_batch(7, 1, 2), other) for other in others)


def test_a_step_does_not_look_at_all_clips(corpus):
    for data in (VocoderDataModule(corpus, batch=2), FlowDataModule(corpus, corpus / "tokens", batch=2, length=9)):
        looked = []

        class Watched(list):
            def __iter__(self, looked=looked):
                looked.append(1)
                return super().__iter__()

        data.clips("train")
        data.own._splits = {split: Watched(clips) for split, clips in data.own._splits.items()}
        for step in range(4):
            data.train_batch(step, 0, 1)
        assert len(looked) <= 1


def test_wave_mel_and_pitch_of_a_piece_belong_together(corpus):
    batch = VocoderDataModule(corpus, batch=8, frames=10).train_batch(3, 0, 1)
    assert batch["wave"].shape == (8, 4800) and batch["mel"].shape == (8, 80, 10) and batch["pitch"].shape == (8, 10)
    inner = slice(3, 7)  # frames that a piece of its own computes from the same samples
    assert torch.allclose(mel24(batch["wave"])[..., inner], batch["mel"][..., inner], atol=0.05)
    peak = torch.fft.rfft(batch["wave"][:, 960:3360]).abs().argmax(-1) * 10.0  # 2,400 samples: 10 Hz a bin
    voiced = batch["pitch"][:, inner]
    assert ((voiced == 0) | ((voiced / peak[:, None] - 1).abs() < 0.06)).all() and (voiced > 0).any()


def test_codes_and_mel_stay_in_line_across_clips(corpus):
    batch = FlowDataModule(corpus, corpus / "tokens", batch=6, length=30).train_batch(0, 0, 1)
    codes, mel = batch["codes"], batch["mel"]
    assert codes.shape == (6, 30) and mel.shape == (6, 80, 120) and batch["valid"].all()
    assert set(codes.unique().tolist()) == {0, 1}, "only the assistant's training clips"
    loudest = mel.argmax(1).view(6, 30, 4)[..., 1]
    for code, other in ((0, 1), (1, 0)):
        of_one, of_other = loudest[codes == code].mode().values, loudest[codes == other].mode().values
        assert of_one != of_other  # 200 and 220 Hz fall into different bands
        assert (loudest[codes == code] == of_one).float().mean() > 0.8


def test_statistics_are_those_of_the_mels(corpus):
    data = FlowDataModule(corpus, corpus / "tokens")
    mels = torch.cat([data.sound(clip).mel for clip in data.clips("train")], -1)
    assert data.mel_statistics() == pytest.approx((mels.mean().item(), mels.std().item()), rel=1e-4)


def test_validation_uses_its_own_clips(corpus):
    codes = FlowDataModule(corpus, corpus / "tokens", length=6).val_batches()[0]["codes"]
    assert (codes == 3).all()


def test_a_corpus_without_the_speaker_or_its_codes_is_refused(corpus, tmp_path):
    with pytest.raises(DataError, match="nobody"):
        VocoderDataModule(corpus, speaker="nobody").train_batch(0, 0, 1)
    with TokenWriter(tmp_path / "few", 8) as tokens:
        tokens.add([("clip-2", np.zeros(7))])
    with pytest.raises(DataError, match="no codes"):
        FlowDataModule(corpus, tmp_path / "few").train_batch(0, 0, 1)


def test_codes_of_another_length_are_refused(corpus, tmp_path):
    with TokenWriter(tmp_path / "long", 8) as tokens:
        tokens.add([("clip-0", np.zeros(30)), ("clip-1", np.zeros(30))])
    with pytest.raises(DataError, match="30 codes"):
        FlowDataModule(corpus, tmp_path / "long").train_batch(0, 0, 1)


def test_clips_without_codes_are_counted(corpus, tmp_path, capsys):
    with TokenWriter(tmp_path / "few", 8) as tokens:
        tokens.add([("clip-0", np.zeros(12)), ("clip-3", np.zeros(6))])
    FlowDataModule(corpus, tmp_path / "few", length=6).train_batch(0, 0, 1)
    assert "few: 1 of 3 clips are left out: 1 without codes (0.00 h)" in capsys.readouterr().err
    FlowDataModule(corpus, corpus / "tokens", length=6).train_batch(0, 0, 1)
    assert capsys.readouterr().err == ""
