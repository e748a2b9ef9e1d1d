"""Samples: objects, overlaps, selection."""

import dataclasses

import numpy as np
import pytest

from thfuse_sam.datasets.segmentation.annotated import select_objects
from thfuse_sam.datasets.segmentation.sample import SegmentationSample


@pytest.fixture
def overlapping() -> SegmentationSample:
    """A large object 3 of which a small object 5 covers a part, and object 9 apart."""
    large, small, apart = (np.zeros((10, 12), bool) for _ in range(3))
    large[1:8, 1:8] = True
    small[4:9, 4:6] = True
    apart[0, 11] = True
    image = np.zeros((10, 12, 3), np.uint8)
    return SegmentationSample.from_masks("x", image, {5: small, 3: large, 9: apart}, {3: "sofa", 5: "cat"})


def test_overlapped_objects_keep_their_whole_mask(overlapping: SegmentationSample) -> None:
    assert overlapping.object_ids == (3, 5, 9)
    assert overlapping.mask(3).sum() == 49 and (overlapping.labels == 3).sum() == 49 - 8
    assert overlapping.mask(5).sum() == 10 and overlapping.labels[5, 5] == 5
    assert set(overlapping.overlapped) == {3}
    with pytest.raises(KeyError):
        overlapping.mask(4)


def test_an_object_hidden_entirely_is_still_one() -> None:
    same = np.zeros((6, 6), bool)
    same[2:4, 2:4] = True
    sample = SegmentationSample.from_masks("x", np.zeros((6, 6, 3), np.uint8), {1: same, 2: same.copy()})
    assert sample.object_ids == (1, 2)
    assert sample.mask(1).sum() == 4 and not (sample.labels == 1).any()


def test_wrong_size_and_empty_masks_are_refused() -> None:
    image = np.zeros((6, 6, 3), np.uint8)
    with pytest.raises(ValueError, match="differ in size"):
        SegmentationSample("x", image, np.zeros((6, 5), np.int32))
    with pytest.raises(ValueError, match="without a pixel"):
        SegmentationSample.from_masks("x", image, {1: np.zeros((6, 6), bool)})


def test_labels_select_and_merge_joins(overlapping: SegmentationSample) -> None:
    sofa = select_objects(overlapping, ["sofa"], merge=False)
    assert sofa is not None and sofa.object_ids == (3,)
    assert (sofa.labels == 3).sum() == 49, "what covered it is gone"
    assert select_objects(overlapping, ["dog"], merge=False) is None
    merged = select_objects(overlapping, None, merge=True)
    assert merged is not None and merged.object_ids == (1,)
    assert merged.mask(1).sum() == 49 + 2 + 1 and merged.categories == {}
    one = select_objects(overlapping, ["cat"], merge=True)
    assert one is not None and one.categories == {1: "cat"}
    assert select_objects(overlapping, None, merge=False) is overlapping


def test_ignored_pixels_are_no_objects_and_stay_when_objects_are_selected(overlapping: SegmentationSample) -> None:
    masks = {number: overlapping.mask(number) for number in overlapping.object_ids}
    everywhere = np.ones((10, 12), bool)
    sample = SegmentationSample.from_masks("x", overlapping.image, masks, overlapping.categories, ignored=everywhere)
    assert sample.ignored is not None and np.array_equal(sample.ignored, sample.labels == 0)
    for chosen in (select_objects(sample, ["cat"], merge=False), select_objects(sample, None, merge=True)):
        assert chosen is not None and chosen.ignored is not None and np.array_equal(chosen.ignored, sample.ignored)


def test_samples_may_be_compared(overlapping: SegmentationSample) -> None:
    same = dataclasses.replace(overlapping, image=overlapping.image.copy())
    assert overlapping == overlapping and overlapping != same and len({overlapping, same}) == 2
