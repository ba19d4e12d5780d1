"""Training data as a pure function of the step, which is what makes resuming exact.

There is no epoch and no shuffling order to restore: the batch of a step is computed from (seed, step) alone, and every
rank takes its share of it, so that training does not depend on the number of ranks. The position is one integer in the
data module's state, so a resumed run continues in O(1) with the next batch, with any number of workers.
"""

import copy
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from mossrepro.utils.errors import ConfigError
from mossrepro.utils.private_apis import batches_taken
from mossrepro.utils.random import Memo, rng, seed_for

_JITTER = 6.0  # codes; regroups rows of similar length in every pass


class Share(NamedTuple):
    """Which rows of a step's batch a rank has: `first` to `first + rows` of `total`, without gaps."""

    first: int
    rows: int
    total: int

    @classmethod
    def of_rank(cls, total: int, rank: int, world: int) -> "Share":
        """Rows in even parts. With fewer rows than ranks some ranks have none."""
        first, end = rank * total // world, (rank + 1) * total // world
        return cls(first, end - first, total)

    @classmethod
    def of_batch(cls, batch: Mapping[str, Tensor], rows: int) -> "Share":
        """What the "share" of a batch says; without one (in validation) its `rows` rows are all there are."""
        return cls(*batch["share"].tolist()) if "share" in batch else cls(0, rows, rows)

    @property
    def slice(self) -> slice:
        """The rank's rows, as an index; without any, one of another rank, so that no batch is empty."""
        return slice(self.first, self.first + max(self.rows, 1))

    def tensor(self) -> Tensor:
        """(3,) int64, for "share" in a batch."""
        return torch.tensor(self, dtype=torch.int64)


class LengthGroups:
    """Which rows a step has: every row once a pass, those of similar length together, the groups in random order.

    Args:
        lengths: of the rows, in codes.
        batch: rows a step, over all ranks.
        seed: of the order.
    """

    def __init__(self, lengths: Sequence[int], batch: int, seed: int) -> None:
        self.lengths, self.batch, self.seed = np.array(lengths), batch, seed
        self._passes = Memo(self._groups, 2)

    def __call__(self, step: int) -> np.ndarray:
        """The rows of a step: (n,) int64, n at most `batch`."""
        number, index = divmod(step, -(-len(self.lengths) // self.batch))
        return self._passes(number)[index]

    def _groups(self, number: int) -> list[np.ndarray]:
        random = rng(self.seed, "pass", number)
        order = np.argsort(self.lengths + random.uniform(0.0, _JITTER, len(self.lengths)), kind="stable")
        found = [order[i : i + self.batch] for i in range(0, len(order), self.batch)]
        return [found[i] for i in random.permutation(len(found))]


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

    A subclass defines `train_batch`. If its batches have a fixed number of rows over all ranks, it is in `batch`.

    One fit is one endless epoch that `trainer.max_steps` ends. Checkpoints must be written at the end of a batch
    (as `mossrepro.training.callbacks.AtomicCheckpoint` does): the position counts the batches handed to the model.

    Args:
        seed: the seed of everything random: selection, augmentation, noise.
        num_workers: loader processes; the batches are the same for every number.
    """

    # Entries of a batch that stay in main memory: a step reads them, and fetching them back would stall a GPU.
    on_host: tuple[str, ...] = ("seed", "share")

    def __init__(self, seed: int = 0, num_workers: int = 0) -> None:
        super().__init__()
        self.seed, self.num_workers = seed, num_workers
        self.batch: int | None = None
        self._start, self._counted = 0, 0  # the loop's counter stood at `_counted` when step `_start` was next
        self._resume: int | None = None  # a position read from a checkpoint, used once

    def train_batch(self, step: int, rank: int, world: int) -> dict[str, Tensor]:
        """The share of a step's batch that one of `world` ranks has, with "share" if the task draws random numbers.

        The batch is that of the step, whatever `world` is: all randomness is from `random.rng(self.seed, step, ...)`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define train_batch")

    def val_batches(self) -> list[dict[str, Tensor]]:
        """The fixed validation batches (none by default); every rank sees all of them."""
        return []

    def seeded_batch(self, step: int, rank: int = 0, world: int = 1) -> dict[str, Tensor]:
        """`train_batch` plus "seed" (int64 scalar): seed a torch.Generator with it for randomness inside the step.

        It is the same on all ranks: draw for all rows of the step, and take those of the rank (`Share`).
        """
        batch = dict(self.train_batch(step, rank, world))
        batch["seed"] = torch.tensor(seed_for(self.seed, "step", step, 0), dtype=torch.int64)
        return batch

    def position(self) -> int:
        """The next step to train on."""
        return self._start + self._loop_count() - self._counted

    def _loop_count(self) -> int:
        """Batches the trainer has taken so far; `ready` counts the running one too, `completed` lags by one."""
        return batches_taken(self.trainer) if self.trainer else self._counted

    def train_dataloader(self) -> DataLoader:
        """The endless loader, starting at `position()`. ConfigError if there are more ranks than rows in a batch."""
        self._start = self.position() if self._resume is None else self._resume
        self._counted, self._resume = self._loop_count(), None
        shares = (self.trainer.distributed_sampler_kwargs if self.trainer else None) or {"rank": 0, "num_replicas": 1}
        # devices of a tensor-parallel group share a rank, and so a share
        if self.batch is not None and shares["num_replicas"] > self.batch:
            raise ConfigError(f"data.batch={self.batch} cannot be shared by {shares['num_replicas']} ranks; raise it")
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
        """The position, for the checkpoint."""
        return {"step": self.position()}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Continue at the saved position, whatever the trainer's own counters say."""
        self._resume = int(state_dict["step"])
