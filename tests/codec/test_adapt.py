"""Adaptation: what was understood keeps its code, what was misheard may change, and the codebook stays."""

import pytest
import torch
from codec_toys import train
from stage_toys import know_phones, write_chain_folder

from mossrepro.codec.adapt_data import AdaptDataModule
from mossrepro.codec.adapt_task import AdaptTask
from mossrepro.codec.model import SpeechCodec


@pytest.fixture
def chain(tmp_path, monkeypatch):
    know_phones(monkeypatch.setattr)
    return write_chain_folder(tmp_path)


def data(chain, **more) -> AdaptDataModule:
    corpus = str(chain / "corpus")
    module = AdaptDataModule(corpus, corpus, batch_seconds=3.0, **more)
    module.setup()
    return module


def test_recordings_and_corpus_take_turns_and_a_batch_says_which(chain):
    module = data(chain, own_share=0.7, rough=1.0)
    asked = {0: [], 1: []}
    for own, part in enumerate(module.parts):  # the same folder here, so it is noted which of them is asked
        batch_of = part.train_batch
        part.train_batch = lambda step, *ranks, own=own, batch_of=batch_of: (
            asked[own].append(step) or batch_of(step, *ranks)
        )
    batches = [module.seeded_batch(step) for step in range(20)]
    assert all(len(batch["own"].unique()) == 1 and len(batch["own"]) == len(batch["wave"]) for batch in batches)
    assert sum(float(batch["own"][0]) for batch in batches) == 14
    assert asked == {0: [*range(6)], 1: [*range(14)]}
    batch, same = batches[0], module.parts[0].train_batch(0, 0, 1)  # the corpus's first step
    assert not batch["own"].any() and torch.equal(batch["wave"], same["wave"])
    assert not torch.equal(batch["wave"], batch["clean"])
    shared = [module.seeded_batch(0, rank, 2) for rank in (0, 1)]
    assert torch.equal(torch.cat([part["own"] for part in shared]), batch["own"])
    assert torch.equal(torch.cat([part["labels"] for part in shared]), batch["labels"])


def test_codebook_and_phones_of_codes_stay_bit_for_bit(chain, tmp_path):
    before = SpeechCodec.from_pretrained(chain / "codec")
    task = AdaptTask(str(chain / "codec"), lr=1e-2, recogniser_lr=1e-2)
    trainer = train(task, data(chain), steps=3)
    assert 0 <= trainer.callback_metrics["val/kept"] <= 1
    task.save_pretrained(tmp_path / "adapted")
    after = SpeechCodec.from_pretrained(tmp_path / "adapted").state_dict()
    same = {name for name, value in before.state_dict().items() if torch.equal(value, after[name])}
    kept = {name for name in after if name.startswith(("quantiser.", "phones."))}
    assert kept <= same and not any(name.startswith(("encoder.conv1", "recogniser.head")) for name in same)


def test_old_codes_are_kept_where_they_are_asked_for(chain):
    """Random phones pull the toy's codes away; the loss of the old codes holds them."""
    module = data(chain)
    batch = module.val_batches()[0]
    wave, lengths = batch["wave"], batch["lengths"]
    changed = {}
    for keep in (0.0, 20.0):
        torch.manual_seed(0)
        task = AdaptTask(str(chain / "codec"), lr=3e-3, keep=keep)
        before = task.codec.encode(wave, lengths)
        train(task, module, steps=40)
        assert ("train/keep" in task.trainer.callback_metrics) == (keep > 0)
        changed[keep] = int((task.codec.encode(wave, lengths) != before).sum())
    assert changed[20.0] < changed[0.0]


def test_a_recording_keeps_only_the_codes_whose_phones_were_right(chain):
    task = AdaptTask(str(chain / "codec"))
    task.log_dict = lambda *_, **__: None
    batch = data(chain).seeded_batch(0)
    codes, right = task._old_codes(batch)
    best = task.codec.phone_logits(task.codec.frames(codes)).argmax(-1)
    asked = {}
    for name, phones in (("right", best), ("wrong", torch.where(best == 5, 6, 5))):
        told = {**batch, "phones": phones, "own": torch.ones(len(codes))}
        latents = task.codec.latents(task.codec.features(batch["wave"])).detach().requires_grad_(True)
        valid = torch.ones(codes.shape, dtype=torch.bool)
        asked[name] = task._lost(latents, valid, told)
    assert right.shape == codes.shape and asked["right"].item() > 0 == asked["wrong"].item()
