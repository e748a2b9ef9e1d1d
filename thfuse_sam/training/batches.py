"""Which samples make a batch and an optimiser step, in an order drawn from a seed; and the loader that makes them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from thfuse_sam.cores import usable_cores
from thfuse_sam.errors import ThFuseError, WorkerError
from thfuse_sam.interrupts import ignore_interrupts

Batch = dict[str, Any]  # tensors and plain values; "name" holds the samples' names


class EpochDataset(Protocol):
    """A dataset whose samples are a function of (seed, epoch, index)."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int) -> Any: ...  # a dict of tensors and plain values, with "name"
    def set_epoch(self, epoch: int) -> None: ...


@dataclass(frozen=True)
class PlannedBatch:
    """One batch of one process, and its place in the optimiser step that it is a part of."""

    positions: tuple[int, ...] = ()  # of the batch's samples in the epoch's order
    # Factor on the batch's mean loss, such that a step's gradient is that of the mean over all its samples.
    loss_scale: float = 1.0
    ends_step: bool = True


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """Batches of (epoch, index) keys in an order drawn from (seed, epoch), from batch `first` on.

    An optimiser step is made of one batch or of several (accumulated gradients), in one process or in several, which
    take its samples in turns. The order, and which samples make a step, do not depend on the number of processes.
    """

    def __init__(
        self,
        size: int,
        batch_size: int,
        seed: int | None,
        *,
        step_size: int | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        """`seed` None: in the dataset's own order. `step_size`: samples of a step, of all processes together; None:
        one batch of each. Where fewer samples than processes are left for the last step, they wait for another epoch.
        """
        self.size = size
        self.seed = seed
        self.epoch = 0
        self.first = 0
        self.plan: list[PlannedBatch] = []
        step_size = step_size or batch_size * world_size
        for start in range(0, size, step_size):
            members = range(start, min(start + step_size, size))
            if len(members) < world_size:
                continue
            own = members[rank::world_size]
            for first in range(0, len(own), batch_size):
                positions = tuple(own[first : first + batch_size])
                loss_scale = len(positions) * world_size / len(members)
                self.plan.append(PlannedBatch(positions, loss_scale, first + batch_size >= len(own)))

    @property
    def steps(self) -> int:
        """Optimiser steps in a whole epoch."""
        return sum(batch.ends_step for batch in self.plan)

    def start_at(self, epoch: int, first: int = 0) -> None:
        """Let the next pass be that of `epoch`, without its first `first` batches."""
        self.epoch, self.first = epoch, first

    def __len__(self) -> int:
        """Batches of this process in a whole epoch."""
        return len(self.plan)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = list(range(self.size))
        if self.seed is not None:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(self.size).tolist()
        for batch in self.plan[self.first :]:
            yield [(self.epoch, order[position]) for position in batch.positions]


class _ByEpoch(Dataset[Any]):
    """Takes (epoch, index) keys, so that workers which outlive an epoch learn of the next one."""

    def __init__(self, dataset: EpochDataset) -> None:
        self.dataset = dataset
        self._epoch: int | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]) -> Any:
        epoch, index = key
        if epoch != self._epoch:
            self.dataset.set_epoch(epoch)
            self._epoch = epoch
        return self.dataset[index]


def make_loader(
    dataset: EpochDataset,
    batches: EpochBatches,
    *,
    num_workers: int = 0,
    pin_memory: bool = False,
    collate: Callable[[list[Any]], Batch] | None = None,
) -> DataLoader[Any]:
    """A loader whose next pass is the one that `batches` was told to start at.

    `collate` makes a batch of samples; None stacks their tensors.
    """
    return DataLoader(
        _ByEpoch(dataset),
        batch_sampler=batches,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
        pin_memory=pin_memory,
        collate_fn=collate,
        worker_init_fn=ignore_interrupts,
        # A generator of its own: starting a pass must not draw from the one that dropout draws from.
        generator=torch.Generator().manual_seed(0),
    )


def next_batch(batches: Iterator[Batch]) -> Batch | None:
    """The next batch, None after the last one. An error of a loader's worker is raised without that worker's trace.

    Raises WorkerError where the worker died while it handed a batch over.
    """
    try:
        return next(batches, None)
    except (ConnectionError, EOFError) as error:
        reason = str(error) or type(error).__name__
        raise WorkerError(f"a process that makes samples died ({reason}); use fewer `num_workers`") from error
    except ThFuseError as error:
        lines = str(error).strip().splitlines()
        if len(lines) < 2:
            raise
        # The last line is "module.Class: message".
        raise type(error)(lines[-1].partition(": ")[2]) from None


def default_num_workers(device: torch.device) -> int:
    """How many processes make samples for training on `device`: none for a CPU, whose cores they would take."""
    return min(8, usable_cores() - 1) if device.type == "cuda" else 0
