"""Parts of a data set: for training and for validation."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from thfuse_sam.datasets.segmentation.sample import SegmentationDataset, SegmentationSample
from thfuse_sam.errors import UsageError


class Subset:
    """The samples of `dataset` at `indices`, in that order."""

    def __init__(self, dataset: SegmentationDataset, indices: Sequence[int]) -> None:
        self.dataset = dataset
        self.indices = list(indices)

    @property
    def names(self) -> list[str]:
        names = self.dataset.names
        return [names[index] for index in self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> SegmentationSample:
        return self.dataset[self.indices[index]]

    def image_path(self, index: int) -> Path | None:
        return self.dataset.image_path(self.indices[index])

    def set_epoch(self, epoch: int) -> None:
        set_epoch(self.dataset, epoch)


class OneSample:
    """The first sample of `dataset`, the same in every epoch, also where the data set draws by chance."""

    def __init__(self, dataset: SegmentationDataset) -> None:
        self.names = dataset.names[:1]
        self._sample, self._image_path = dataset[0], dataset.image_path(0)

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> SegmentationSample:
        if index:
            raise IndexError(index)
        return self._sample

    def image_path(self, index: int) -> Path | None:
        return self._image_path


def set_epoch(dataset: SegmentationDataset, epoch: int) -> None:
    """Make the random choices of epoch 0, 1, ... in a data set that makes any."""
    setter = getattr(dataset, "set_epoch", None)
    if setter is not None:
        setter(epoch)


def split_dataset(
    dataset: SegmentationDataset, val_ratio: float, seed: int
) -> tuple[SegmentationDataset, SegmentationDataset]:
    """Split into training and validation samples by chance: `val_ratio` in (0, 1) of them, at least one each.

    The names and the seed decide, not the order of the samples. A mixture is split in each of its sets, unless it
    names a test set: that is its validation part. Raises UsageError: a ratio outside (0, 1), or fewer than 2 samples.
    """
    if not 0 < val_ratio < 1:
        raise UsageError(f"`val_ratio` {val_ratio}: give a number between 0 and 1")
    own = getattr(dataset, "split", None)
    if own is not None:
        return own(val_ratio, seed)
    count = len(dataset)
    if count < 2:
        raise UsageError(f"{count} sample cannot be split into training and validation; give at least 2")
    by_name = sorted(range(count), key=dataset.names.__getitem__)
    shuffled = [by_name[position] for position in np.random.default_rng(seed).permutation(count)]
    held = min(count - 1, max(1, round(val_ratio * count)))
    return Subset(dataset, sorted(shuffled[held:])), Subset(dataset, sorted(shuffled[:held]))
