"""A codec of a few hundred numbers, shared by the tests of the codec."""

import lightning

from mossrepro.codec import CodecConfig
from mossrepro.training.callbacks import AtomicCheckpointIO

TINY = CodecConfig(
    codes=16, code_dim=8, dim=32, heads=2, ffn_dim=48, layers=1, slow_layers=1, window=8, slow_window=4,
    recogniser_dim=32, recogniser_layers=1, recogniser_kernel=3,
)  # fmt: skip


class Stop(lightning.Callback):
    """Saves `folder`/last.ckpt after step `at`."""

    def __init__(self, folder, at: int) -> None:
        self.folder, self.at = folder, at

    def on_train_batch_end(self, trainer, *_) -> None:
        if trainer.global_step == self.at:
            trainer.save_checkpoint(self.folder / "last.ckpt")


class Continues(lightning.Callback):
    """Fails where a fit that is to continue begins anew: from the same seeds it would end with the same bits."""

    def on_train_start(self, trainer, *_) -> None:
        assert trainer.global_step > 0, "the checkpoint was not read"


def train(task, data, steps: int, folder=None, ckpt=None, at: int = 0) -> lightning.Trainer:
    """Fit on a CPU, quietly, and validate at the end; see `Stop` for `folder` and `at`."""
    callbacks = [Stop(folder, at)] * bool(folder) + [Continues()] * bool(ckpt)
    trainer = lightning.Trainer(
        max_epochs=-1, max_steps=steps, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu", num_sanity_val_steps=0, val_check_interval=steps,
        check_val_every_n_epoch=None, callbacks=callbacks, plugins=[AtomicCheckpointIO()],
    )  # fmt: skip
    trainer.fit(task, data, ckpt_path=ckpt)
    return trainer
