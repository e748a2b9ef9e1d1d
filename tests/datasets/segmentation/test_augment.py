"""Augmentation keeps image and masks together."""

import dataclasses
from typing import Any

import cv2
import numpy as np
import pytest

from thfuse_sam.datasets.segmentation.augment import crop_foreground, flipped
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


def test_flip_turns_image_labels_and_hidden_parts(sample: SegmentationSample) -> None:
    turned = flipped(sample)
    assert np.array_equal(turned.image, sample.image[:, ::-1])
    assert turned.object_ids == (1, 2) and turned.categories == sample.categories
    for number in (1, 2):
        assert np.array_equal(turned.mask(number), sample.mask(number)[:, ::-1])


def test_ignored_pixels_are_mirrored_but_not_pasted(sample: SegmentationSample) -> None:
    border = np.zeros((40, 60), bool)
    border[:, :5] = True
    sample = dataclasses.replace(sample, ignored=border)
    assert np.array_equal(flipped(sample).ignored, border[:, ::-1])
    background = np.zeros((40, 60, 3), np.uint8)
    assert crop_foreground(sample, background, np.random.default_rng(0)).ignored is None, "its pixels are known"


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


@pytest.mark.parametrize("size", [(10, 4000), (4000, 10), (500, 700), (40, 60)])
def test_backgrounds_are_cropped_before_they_are_enlarged(
    sample: SegmentationSample, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    resized = []
    resize = cv2.resize

    def watched(*args: Any, **kwargs: Any) -> Any:
        result = resize(*args, **kwargs)
        resized.append(result.shape[:2])
        return result

    monkeypatch.setattr(cv2, "resize", watched)
    pasted = crop_foreground(sample, np.full((*size, 3), 9, np.uint8), np.random.default_rng(0))
    assert pasted.shape == (40, 60) and max(height * width for height, width in resized) == 40 * 60
    assert (pasted.image[pasted.labels == 0] == 9).any()
