"""Augmentation keeps image and masks together."""

import numpy as np
import pytest
from torchvision.transforms import v2

from thfuse_sam.datasets.segmentation.augment import Augmentation, AugmentedDataset, crop_foreground, transformed
from thfuse_sam.datasets.segmentation.sample import SegmentationSample


@pytest.fixture
def sample() -> SegmentationSample:
    """Objects whose pixels are bright, one hidden partly by the other, on black."""
    large, small = np.zeros((40, 60), bool), np.zeros((40, 60), bool)
    large[8:24, 10:30] = True
    small[12:20, 24:40] = True
    image = np.zeros((40, 60, 3), np.uint8)
    image[large] = (200, 0, 0)
    image[small] = (0, 200, 0)
    return SegmentationSample.from_masks("s", image, {1: large, 2: small}, {1: "a", 2: "b"})


class Listed:
    """A data set of one sample many times."""

    def __init__(self, sample: SegmentationSample, count: int) -> None:
        self.sample, self.names = sample, [f"{index}" for index in range(count)]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> SegmentationSample:
        return self.sample

    def image_path(self, index: int) -> None:
        return None


def test_flip_turns_image_labels_and_hidden_parts(sample: SegmentationSample) -> None:
    flipped = transformed(sample, v2.RandomHorizontalFlip(1.0))
    assert flipped is not None
    assert np.array_equal(flipped.image, sample.image[:, ::-1])
    for number in (1, 2):
        assert np.array_equal(flipped.mask(number), sample.mask(number)[:, ::-1])
    assert flipped.categories == sample.categories


def test_masks_follow_their_pixels(sample: SegmentationSample) -> None:
    augmented = AugmentedDataset(Listed(sample, 12), Augmentation(colour=0.0), seed=3)
    areas = []
    for index in range(12):
        changed = augmented[index]
        assert changed.image.shape == sample.image.shape and changed.image.dtype == np.uint8
        seen = changed.image.max(2) > 100
        drawn = changed.labels > 0
        assert (seen & drawn).sum() / (seen | drawn).sum() > 0.85
        areas.append(int(changed.mask(1).sum()))
    assert min(areas) < 320 * 0.9 and max(areas) > 320 * 1.1


def test_epoch_and_index_decide(sample: SegmentationSample) -> None:
    augmented, again = (AugmentedDataset(Listed(sample, 2), Augmentation(), seed=1) for _ in range(2))
    assert np.array_equal(augmented[1].image, again[1].image)
    assert not np.array_equal(augmented[0].image, augmented[1].image)
    augmented.set_epoch(1)
    assert not np.array_equal(augmented[1].image, again[1].image)


def test_objects_that_leave_are_dropped(sample: SegmentationSample) -> None:
    right = transformed(sample, v2.RandomAffine(0, translate=None, scale=(1, 1), shear=None, center=None))
    assert right is not None and right.object_ids == (1, 2)
    gone = transformed(sample, v2.Compose([v2.Lambda(lambda item: item * 0)]))
    assert gone is None


def test_pasting_keeps_overlaps_and_size(sample: SegmentationSample) -> None:
    background = np.full((30, 200, 3), (0, 0, 255), np.uint8)
    rng = np.random.default_rng(0)
    for _ in range(5):
        pasted = crop_foreground(sample, background, rng)
        assert pasted.shape == sample.shape and pasted.object_ids == (1, 2)
        assert pasted.mask(1).sum() > (pasted.labels == 1).sum()
        blue = (pasted.image == (0, 0, 255)).all(2)
        assert np.array_equal(blue, ~(pasted.mask(1) | pasted.mask(2)))
    assert (background == (0, 0, 255)).all()


def test_foreground_as_large_as_the_image(sample: SegmentationSample) -> None:
    whole = SegmentationSample("w", sample.image, np.ones((40, 60), np.int32))
    pasted = crop_foreground(whole, np.zeros((5, 5, 3), np.uint8), np.random.default_rng(1))
    assert pasted.mask(1).sum() > 0.5 * 40 * 60
