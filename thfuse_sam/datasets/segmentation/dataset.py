"""The interface of annotated data sets, and parts of them."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Sequence

from thfuse_sam.datasets.segmentation.sample import SegmentationSample
from thfuse_sam.datasets.splits import held_out
from thfuse_sam.errors import UsageError


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


class Subset(SegmentationDataset):
    """The samples of `dataset` at `indices`, in that order."""

    def __init__(self, dataset: SegmentationDataset, indices: Sequence[int]) -> None:
        self._dataset, self._indices = dataset, list(indices)

    @property
    def names(self) -> list[str]:
        names = self._dataset.names
        return [names[index] for index in self._indices]

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
