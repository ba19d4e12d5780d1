import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer

from mossrepro.training.callbacks import AtomicCheckpoint
from mossrepro.training.step_data import LengthGroups, Share, StepDataModule
from mossrepro.utils.errors import ConfigError, Interrupted
from mossrepro.utils.random import rng


class ToyData(StepDataModule):
    def train_batch(self, step, rank, world):
        draw = rng(self.seed, step, rank)
        return {"x": torch.tensor(draw.standard_normal((4, 8), dtype="float32")), "step": torch.tensor(step)}

    def val_batches(self):
        return [{"x": torch.ones(2, 8)}, {"x": torch.zeros(2, 8)}]


class ToyTask(LightningModule):
    """AdamW, cosine schedule, dropout from the batch's seed: everything that a resumed run could get wrong."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.Linear(16, 8))
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append((int(batch["step"]), batch_idx))
        generator = torch.Generator().manual_seed(int(batch["seed"]))
        keep = torch.rand(batch["x"].shape, generator=generator) > 0.3
        loss = (self.net(batch["x"] * keep) - batch["x"]).square().mean()
        self.log("loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.net(batch["x"]).square().mean())

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class StopAt(AtomicCheckpoint):
    """Asks for a stop, as a signal would, while optimiser step `stop` is running."""

    def __init__(self, folder, stop):
        super().__init__(folder, every_minutes=0)
        self.stop = stop

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.stop:
            self._signal = 15


def fit(folder, stop=None, workers=0, resume=False, accumulate=1, **options):
    task, data = ToyTask(), ToyData(seed=3, num_workers=workers)
    settings = dict(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False, max_steps=9,
        max_epochs=-1, accumulate_grad_batches=accumulate, val_check_interval=3 * accumulate,
        check_val_every_n_epoch=None, enable_checkpointing=False,
    )  # fmt: skip
    trainer = Trainer(**{**settings, **options}, callbacks=[StopAt(folder, stop)])
    ckpt = folder / "last.ckpt" if resume else None
    if stop is None:
        trainer.fit(task, data, ckpt_path=ckpt)
    else:
        with pytest.raises(Interrupted, match="the same command continues"):
            trainer.fit(task, data, ckpt_path=ckpt)
    return task


@pytest.mark.parametrize(("workers", "stops", "accumulate"), [(0, (3,), 1), (2, (4,), 1), (0, (1, 5, 7), 3)])
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path, workers, stops, accumulate):
    whole = fit(tmp_path / "whole", accumulate=accumulate)
    seen = []
    for count, stop in enumerate(stops):
        seen += fit(tmp_path / "cut", stop, workers, resume=count > 0, accumulate=accumulate).seen
    resumed = fit(tmp_path / "cut", None, workers, resume=True, accumulate=accumulate)
    assert seen + resumed.seen == whole.seen == [(i, i) for i in range(9 * accumulate)]
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_workers_and_epochs_do_not_change_the_order(tmp_path):
    """limit_train_batches cuts the endless epoch into short ones; the stream must go on, not start again."""
    short = fit(tmp_path, workers=2, limit_train_batches=4, val_check_interval=None, check_val_every_n_epoch=1)
    assert [step for step, _ in short.seen] == list(range(9))


def test_the_position_survives_a_checkpoint_and_reads_as_plain_data(tmp_path):
    fit(tmp_path, stop=5)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert state["ToyData"] == {"step": 6} and state["global_step"] == 6


def test_the_seed_of_a_step_is_its_own_and_the_same_on_all_ranks():
    data = ToyData(seed=3)
    a = data.seeded_batch(7, 0, 2)
    for same in (data.seeded_batch(7, 0, 2), data.seeded_batch(7, 1, 2), data.seeded_batch(7)):
        assert torch.equal(a["seed"], same["seed"]) and a["seed"].dtype == torch.int64
    others = [data.seeded_batch(8, 0, 2), ToyData(seed=4).seeded_batch(7, 0, 2)]
    assert all(int(a["seed"]) != int(other["seed"]) for other in others)


@pytest.mark.parametrize(("total", "world"), [(1, 1), (8, 2), (7, 3), (2, 5), (1, 2)])
def test_ranks_share_all_rows_evenly(total, world):
    shares = [Share.of_rank(total, rank, world) for rank in range(world)]
    rows = [row for share in shares if share.rows for row in range(total)[share.slice]]
    assert rows == list(range(total)) and max(s.rows for s in shares) - min(s.rows for s in shares) <= 1
    for share in shares:  # without rows of its own a rank looks at another's, so that its batch is not empty
        assert len(range(total)[share.slice]) == max(share.rows, 1)
        assert Share.of_batch({"share": share.tensor()}, 99) == share
    assert Share.of_batch({}, 5) == Share(0, 5, 5)


def test_more_ranks_than_rows_are_refused(monkeypatch):
    data = ToyData()
    data.batch, data.trainer = 4, Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    for ranks in (4, 5):
        monkeypatch.setattr(Trainer, "distributed_sampler_kwargs", {"num_replicas": ranks, "rank": 0})
        if ranks == 4:
            data.train_dataloader()
        else:
            with pytest.raises(ConfigError, match="data.batch=4 cannot be shared by 5 ranks; raise it"):
                data.train_dataloader()


def test_a_module_without_train_batch_says_so():
    with pytest.raises(NotImplementedError, match="StepDataModule"):
        next(iter(StepDataModule().train_dataloader()))


def test_rows_of_similar_length_stand_together_and_every_row_comes_once_a_pass():
    lengths = np.random.default_rng(0).integers(10, 60, 50)
    rows = LengthGroups(lengths, 8, seed=1)
    passes = [[rows(step) for step in range(7 * number, 7 * number + 7)] for number in range(2)]
    for groups in passes:
        assert sorted(np.concatenate(groups).tolist()) == list(range(50))
        assert max(np.ptp(lengths[group]) for group in groups) < 25
        means = [lengths[group].mean() for group in groups]
        assert means != sorted(means)  # long and short ones in turn
    assert any(not np.array_equal(a, b) for a, b in zip(*passes, strict=True))
    again = LengthGroups(lengths, 8, seed=1)
    assert all(np.array_equal(again(step), group) for step, group in enumerate(passes[0]))
    assert any(not np.array_equal(LengthGroups(lengths, 8, seed=2)(i), group) for i, group in enumerate(passes[0]))
