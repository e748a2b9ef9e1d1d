"""The interface of annotated data sets, and parts of them."""

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from thfuse_sam.datasets.segmentation.sample import SegmentationSample
from thfuse_sam.datasets.splits import held_out
from thfuse_sam.errors import UsageError

log = logging.getLogger(__name__)


class SegmentationDataset(ABC):
    """Annotated images in a fixed order; each has at least one object."""

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """One name for each sample."""

    @abstractmethod
    def __getitem__(self, index: int) -> SegmentationSample:
        """Read a sample. Raises SampleError, ImageReadError or MaskReadError for bad files; IndexError past the end."""

    @property
    def paths(self) -> list[Path]:
        """The file of each sample's image; empty where the images are of no files."""
        return []

    @property
    def classes(self) -> list[str]:
        """The names of the classes of its objects, also of a part's whole data set, sorted."""
        return []

    @property
    def flaws(self) -> Counter[str]:
        """What was mended or left out when the annotations were read: reason -> how often."""
        return Counter()

    def __len__(self) -> int:
        return len(self.names)

    def set_epoch(self, epoch: int) -> None:  # noqa: B027 - for most there is nothing to do
        """Make the random choices of epoch 0, 1, ...; most data sets make none."""

    def split(self, val_fraction: float, seed: int) -> tuple["SegmentationDataset", "SegmentationDataset"]:
        """Samples for training and for validation: `val_fraction` in (0, 1) of them, but at least one on each side.

        The names and the seed decide, not the order of the samples. Raises UsageError: fewer than 2 samples.
        """
        count = len(self)
        if count < 2:
            raise UsageError(f"{count} sample cannot be split into training and validation; give at least 2")
        by_name = sorted(range(count), key=self.names.__getitem__)
        validation = {by_name[position] for position in held_out(count, val_fraction, seed)}
        return Subset(self, sorted(set(by_name) - validation)), Subset(self, sorted(validation))

    def without(self, files: Collection[Path]) -> "SegmentationDataset | None":
        """The samples whose images are none of `files`, which are resolved paths; None: there are none."""
        rest = [index for index, path in enumerate(self.paths) if path.resolve() not in files]
        return Subset(self, rest) if rest else None


class Subset(SegmentationDataset):
    """The samples of `dataset` at `indices`, in that order."""

    def __init__(self, dataset: SegmentationDataset, indices: Sequence[int]) -> None:
        self._dataset, self._indices = dataset, list(indices)

    @property
    def names(self) -> list[str]:
        names = self._dataset.names
        return [names[index] for index in self._indices]

    @property
    def paths(self) -> list[Path]:
        paths = self._dataset.paths
        return [paths[index] for index in self._indices] if paths else []

    @property
    def classes(self) -> list[str]:
        return self._dataset.classes

    @property
    def flaws(self) -> Counter[str]:
        """Those of the whole data set."""
        return self._dataset.flaws

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> SegmentationSample:
        return self._dataset[self._indices[index]]

    def set_epoch(self, epoch: int) -> None:
        self._dataset.set_epoch(epoch)


class OneSample(SegmentationDataset):
    """The first sample of `dataset`, the same in every epoch, even if the data set makes random choices."""

    def __init__(self, dataset: SegmentationDataset) -> None:
        self._sample = dataset[0]

    @property
    def names(self) -> list[str]:
        return [self._sample.name]

    def __getitem__(self, index: int) -> SegmentationSample:
        return [self._sample][index]


def without_shared(train: SegmentationDataset, val: SegmentationDataset) -> SegmentationDataset:
    """`train` without the samples whose images are in `val`, too, unless those are all of it. A warning tells it."""
    shared = {path.resolve() for path in train.paths} & {path.resolve() for path in val.paths}
    if not shared:
        return train
    rest = train.without(shared)
    what = "trained on, so the validation says nothing of others" if rest is None else "left out of training"
    log.warning("%d samples for training are those for validation, too, and are %s", len(shared), what)
    return train if rest is None else rest
