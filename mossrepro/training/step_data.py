"""Training data as a pure function of the step, which is what makes resuming exact.

There is no epoch and no shuffling order to restore: batch `step` is computed from (seed, step, rank, world) alone.
The position is one integer in the data module's state, so a resumed run continues in O(1) with the next batch, with
any number of workers.
"""

import copy
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from mossrepro.utils.errors import ConfigError
from mossrepro.utils.private_apis import batches_taken
from mossrepro.utils.random import seed_for


@rank_zero_only
def announce(line: str) -> None:
    """Print a line about the data on the first rank, for those who train on it."""
    print(f"mossrepro: {line}", file=sys.stderr)


class _Steps(IterableDataset):
    """An endless stream of batches; worker w of W builds every W-th one, and the loader yields them in order."""

    def __init__(self, module: "StepDataModule", start: Callable[[], int], rank: int, world: int) -> None:
        self.module, self.start, self.rank, self.world = module, start, rank, world

    def __getstate__(self) -> dict[str, Any]:
        """Spawned workers get the position as a number, and no trainer, which cannot be pickled."""
        module = copy.copy(self.module)
        module.trainer = None
        return {**self.__dict__, "module": module, "start": _Constant(self.start())}

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        info = get_worker_info()
        index, stride = (info.id, info.num_workers) if info else (0, 1)
        step = self.start() + index
        while True:
            yield self.module.seeded_batch(step, self.rank, self.world)
            step += stride


class _Constant:
    """A position that was known before the worker started (a lambda would not pickle)."""

    def __init__(self, value: int) -> None:
        self.value = value

    def __call__(self) -> int:
        return self.value


class StepDataModule(LightningDataModule):
    """Base of every training data module: a resumed fit equals an uninterrupted one, bit for bit.

    A subclass defines `train_batch`.

    One fit is one endless epoch that `trainer.max_steps` ends. Checkpoints must be written at the end of a batch
    (as `mossrepro.training.callbacks.AtomicCheckpoint` does): the position counts the batches handed to the model.

    `shares_batch` says whose a batch is: each rank's (False), so that other ranks make another step, or that of all
    ranks together (True).

    Args:
        seed: the seed of everything random: selection, augmentation, noise.
        num_workers: loader processes; the batches are the same for every number.
    """

    shares_batch = False
    # Entries of a batch that stay in main memory: a step reads them, and fetching them back would stall a GPU.
    on_host: tuple[str, ...] = ("seed",)

    def __init__(self, seed: int = 0, num_workers: int = 0) -> None:
        super().__init__()
        self.seed, self.num_workers = seed, num_workers
        self._start, self._counted = 0, 0  # the loop's counter stood at `_counted` when step `_start` was next
        self._resume: int | None = None  # a position read from a checkpoint, used once
        self._ranks: int | None = None  # that read a batch each, as in the checkpoint

    def train_batch(self, step: int, rank: int, world: int) -> dict[str, Tensor]:
        """The batch of one step on one of `world` ranks; all randomness from `random.rng(self.seed, step, ...)`."""
        raise NotImplementedError(f"{type(self).__name__} must define train_batch")

    def val_batches(self) -> list[dict[str, Tensor]]:
        """The fixed validation batches (none by default); every rank sees all of them."""
        return []

    def seeded_batch(self, step: int, rank: int = 0, world: int = 1) -> dict[str, Tensor]:
        """`train_batch` plus "seed" (int64 scalar): seed a torch.Generator with it for randomness inside the step."""
        batch = dict(self.train_batch(step, rank, world))
        batch["seed"] = torch.tensor(seed_for(self.seed, "step", step, rank), dtype=torch.int64)
        return batch

    def position(self) -> int:
        """The next step to train on."""
        return self._start + self._loop_count() - self._counted

    def _loop_count(self) -> int:
        """Batches the trainer has taken so far; `ready` counts the running one too, `completed` lags by one."""
        return batches_taken(self.trainer) if self.trainer else self._counted

    def train_dataloader(self) -> DataLoader:
        """The endless loader, starting at `position()`.

        Raises:
            ConfigError: a checkpoint is continued on another number of ranks, and each reads a batch of its own.
        """
        self._start = self.position() if self._resume is None else self._resume
        self._counted, self._resume = self._loop_count(), None
        shares = (self.trainer.distributed_sampler_kwargs if self.trainer else None) or {"rank": 0, "num_replicas": 1}
        # devices of a tensor-parallel group share a rank, and so a batch
        if self._ranks not in (None, shares["num_replicas"]) and not self.shares_batch:
            raise ConfigError(
                f"started on {self._ranks} devices, continued on {shares['num_replicas']}: each reads a batch, so the "
                f"steps would be others; give --trainer.devices {self._ranks}, or another --output"
            )
        self._ranks = shares["num_replicas"]
        steps = _Steps(self, self.position, shares["rank"], shares["num_replicas"])
        return DataLoader(steps, batch_size=None, num_workers=self.num_workers)

    def val_dataloader(self) -> DataLoader | list:
        """The validation batches, each with a seed of its own, or an empty list when there are none."""
        batches = [
            {**batch, "seed": torch.tensor(seed_for(self.seed, "validation", i), dtype=torch.int64)}
            for i, batch in enumerate(self.val_batches())
        ]
        return DataLoader(batches, batch_size=None) if batches else []

    def transfer_batch_to_device(self, batch: dict[str, Tensor], device: torch.device, dataloader_idx: int) -> Any:
        """Moves everything but the entries named by `on_host`."""
        rest = {key: value for key, value in batch.items() if key not in self.on_host}
        moved = super().transfer_batch_to_device(rest, device, dataloader_idx)
        return {key: moved.get(key, value) for key, value in batch.items()}

    def state_dict(self) -> dict[str, int]:
        """The position, for the checkpoint, and how many ranks read a batch each."""
        return {"step": self.position(), "ranks": self._ranks or 1}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Continue at the saved position, whatever the trainer's own counters say."""
        self._resume, self._ranks = int(state_dict["step"]), state_dict.get("ranks")
