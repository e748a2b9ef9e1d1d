"""Random choices that differ from epoch to epoch and are the same in every process."""

import numpy as np
import torch


class EpochRandom:
    """Random generators that depend on a seed, an epoch and an index, not on the process or the order of reading."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        # In shared memory, so that loader workers that outlive an epoch see the change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Make the random choices of another epoch (0, 1, ...)."""
        self._epoch.fill_(epoch)

    def generator(self, *numbers: int) -> np.random.Generator:
        """The generator of this epoch for what `numbers` stand for, such as the index of a sample."""
        return np.random.default_rng([self._seed, self.epoch, *numbers])
