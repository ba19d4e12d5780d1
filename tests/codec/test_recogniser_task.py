"""The recogniser learns to hear phones in codes that stay as they are."""

import lightning
import torch
from codec_toys import TINY, train

from mossrepro.codec.lexicon import Lexicon
from mossrepro.codec.model import SpeechCodec
from mossrepro.codec.recogniser import labels
from mossrepro.codec.recogniser_task import RecogniserTask
from mossrepro.training.step_data import StepDataModule
from mossrepro.utils.random import rng

PHONES = ["AA", "B", "CH", "D", "EH"]


class Spelling(StepDataModule):
    """Code i is the i-th of five phones, and each phone a word."""

    lexicon = Lexicon({phone.lower(): [[phone]] for phone in PHONES})

    def train_batch(self, step: int, rank: int, world: int) -> dict[str, torch.Tensor]:
        codes = [torch.from_numpy(rng(self.seed, step, i).permutation(5)) for i in range(8)]
        targets = [torch.tensor(labels([PHONES[i] for i in row])) for row in codes]
        text = [" ".join(PHONES[i].lower() for i in row) for row in codes]
        sizes = torch.tensor([len(target) for target in targets])
        return {"codes": torch.stack(codes), "labels": torch.stack(targets), "label_lengths": sizes, "text": text}

    def val_batches(self) -> list[dict[str, torch.Tensor]]:
        return [self.train_batch(10_000, 0, 1)]


def test_it_learns_to_read_and_leaves_the_codes_alone(tmp_path):
    codec = SpeechCodec(TINY)
    codec.quantiser.codebook.normal_()
    codec.quantiser.started.fill_(True)
    codec.save_pretrained(tmp_path / "codec")
    task = RecogniserTask(
        str(tmp_path / "codec"), lr=1e-2, warmup_steps=10, frame_dropout=0.0
    )  # every code counts in a toy
    trainer = lightning.Trainer(
        max_epochs=-1, max_steps=200, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu", num_sanity_val_steps=0, val_check_interval=200,
        check_val_every_n_epoch=None,
    )  # fmt: skip
    trainer.fit(task, Spelling())
    assert trainer.callback_metrics["val/per"] < 0.2 and trainer.callback_metrics["val/wer"] < 0.2
    task.save_pretrained(tmp_path / "read")
    read = SpeechCodec.from_pretrained(tmp_path / "read")
    same = {n for n, p in read.state_dict().items() if torch.equal(p, codec.state_dict()[n])}
    assert same == {n for n in codec.state_dict() if not n.startswith("recogniser.")}


def test_a_fit_trains_with_dropout(tmp_path, monkeypatch):
    """A trainer leaves modules in the mode that it finds them in, and what is loaded from a folder is in evaluation."""
    SpeechCodec(TINY).save_pretrained(tmp_path / "codec")
    modes = []
    monkeypatch.setattr(
        RecogniserTask, "on_train_batch_start", lambda task, *_: modes.append(task.codec.recogniser.training)
    )
    train(RecogniserTask(str(tmp_path / "codec")), Spelling(), steps=3)
    assert modes == [True] * 3


def test_a_step_draws_all_its_chance_from_the_batch(tmp_path):
    codec = SpeechCodec(TINY)
    codec.save_pretrained(tmp_path / "codec")
    task = RecogniserTask(str(tmp_path / "codec"), frame_dropout=0.5)
    task.log = lambda *_, **__: None
    assert task.codec.recogniser.blocks[0].dropout.p > 0
    batch = {**Spelling().train_batch(0, 0, 1), "seed": torch.tensor(5)}
    losses = []
    for _ in range(2):  # between the two calls the global generator has moved on, as it has after a resume
        losses.append(task.train().training_step(batch, 0).item())
        torch.rand(7)
    assert losses[0] == losses[1] != task.training_step({**batch, "seed": torch.tensor(6)}, 0).item()


def test_every_rank_drops_other_units(tmp_path):
    """Frames are dropped for all rows of the step alike on all ranks; the masks inside are each rank's own."""
    SpeechCodec(TINY).save_pretrained(tmp_path / "codec")
    task = RecogniserTask(str(tmp_path / "codec"), frame_dropout=0.0).train()
    task.log = lambda *_, **__: None
    batch = {name: value for name, value in Spelling().train_batch(0, 0, 1).items() if name != "text"}
    two = {name: value[:1].repeat(2, *[1] * (value.dim() - 1)) for name, value in batch.items()}
    first, second = (
        task.training_step({**two, "seed": torch.tensor(5), "share": torch.tensor([at, 2, 4])}, 0) for at in (0, 2)
    )
    assert first.item() != second.item()
