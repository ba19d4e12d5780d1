"""A fit in a process of its own, so that Lightning can start its sisters: `python two_ranks.py SETTINGS.json`.

Settings: script, start (without it: a mini backbone), mix, train, alone (a mouth by itself), more (arguments of the
task), pack, strategy,
devices, accumulate, steps, at (the step after which last.ckpt is saved), ckpt, out, spoilt (the step at which rank 1
gets a loss that is no number). Or: stages (of `stage_toys`, each fitted under DDP), folder, out.
"""

import json
import sys
from pathlib import Path

import lightning
import torch
from codec_toys import Continues, Stop
from lightning.pytorch.strategies import ModelParallelStrategy
from lm_toys import module
from stage_toys import fit, know_phones
from torch import distributed

from mossrepro.lm.mini import MiniBackboneTask
from mossrepro.lm.mouth_task import MouthTask
from mossrepro.lm.task import LayerSplitTask
from mossrepro.training.callbacks import AtomicCheckpoint, AtomicCheckpointIO, Export
from mossrepro.training.finite import FiniteCheck


def all_stages(names: list[str], folder: Path, out: Path) -> None:
    """Fit stages on two ranks, one after the other, and write the weights that each rank has in the end."""
    torch.set_num_threads(1)
    know_phones()
    for name in names:
        state = fit(name, folder, strategy="ddp", devices=2)
        torch.save(state, out / f"{name}.rank{distributed.get_rank()}.pt")


def spoil(task: lightning.LightningModule, step: int) -> None:
    """Let the loss of rank 1 be no number at that step; that of rank 0 is fine."""
    plain = task.training_step

    def spoilt(batch, batch_idx):
        return plain(batch, batch_idx) * (float("nan") if (task.global_step, task.global_rank) == (step, 1) else 1.0)

    task.training_step = spoilt


def main(asked: dict) -> None:
    """Train, and write the weights of every rank that holds them all."""
    torch.set_num_threads(1)
    out = Path(asked["out"])
    strategy = asked["strategy"]
    if strategy in ("fsdp2", "tensor"):
        sizes = (asked["devices"], 1) if strategy == "fsdp2" else (1, asked["devices"])
        strategy = ModelParallelStrategy(*sizes, save_distributed_checkpoint=False)
    torch.manual_seed(0)
    if "start" in asked:
        kind = MouthTask if asked.get("alone") else LayerSplitTask
        task = kind(asked["start"], 64, train=asked.get("train", "all"), lr=1e-3, **asked.get("more", {}))
    else:
        shape = {"tail_layers": 1, "layers": 3, "dim": 32, "ffn_dim": 64}
        task = MiniBackboneTask(str(Path(asked["script"]) / "tokenizer.json"), codes=64, **shape)
    monologue = "start" in asked
    data = module(Path(asked["script"]), batch=4, mix=asked["mix"], monologue=monologue, pack=asked.get("pack", False))
    callbacks = [Stop(out, asked["at"])] * bool(asked["at"]) + [Continues()] * bool(asked["ckpt"])
    callbacks += [FiniteCheck(every_n_steps=4), Export(out / "export")]
    if asked.get("spoilt"):
        spoil(task, asked["spoilt"])
        callbacks.append(AtomicCheckpoint(out, every_n_steps=2, every_minutes=0))
    trainer = lightning.Trainer(
        accelerator="cpu", devices=asked["devices"], strategy=strategy, max_epochs=-1, max_steps=asked["steps"],
        accumulate_grad_batches=asked["accumulate"], gradient_clip_val=0.5, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False, num_sanity_val_steps=0,
        limit_val_batches=0, plugins=[AtomicCheckpointIO()],
        callbacks=callbacks,
    )  # fmt: skip
    trainer.fit(task, data, ckpt_path=asked["ckpt"])
    if trainer.is_global_zero or not isinstance(strategy, ModelParallelStrategy):  # else the others hold a part
        torch.save(task.state_dict(), out / f"rank{trainer.global_rank}.pt")


if __name__ == "__main__":
    asked = json.loads(Path(sys.argv[1]).read_text())
    if "stages" in asked:
        all_stages(asked["stages"], Path(asked["folder"]), Path(asked["out"]))
    else:
        main(asked)
