"""Overlays mark every segment, touch nothing else, and keep neighbours apart."""

import numpy as np
import pytest

from thfuse_sam.masks.overlay import draw_overlay, segment_colors


def test_pixels_without_a_segment_stay_as_they_are() -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    label_map = np.zeros((20, 30), dtype=np.uint8)
    label_map[5:15, 5:25] = 1
    drawn = draw_overlay(image, label_map)
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    np.testing.assert_array_equal(drawn[label_map == 0], image[label_map == 0])
    assert (drawn[label_map == 1] != image[label_map == 1]).any(axis=1).all()


def test_the_image_shows_through_a_segment() -> None:
    image = np.zeros((9, 9, 3), dtype=np.uint8)
    image[4, 4] = 255
    label_map = np.ones((9, 9), dtype=np.uint16)
    drawn = draw_overlay(image, label_map, opacity=0.4)
    assert (drawn[4, 4].astype(int) - drawn[4, 5]).min() == pytest.approx(0.6 * 255, abs=1)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1)])
def test_tiny_images(shape: tuple[int, int]) -> None:
    assert draw_overlay(np.zeros((*shape, 3), np.uint8), np.ones(shape, np.uint8)).shape == (*shape, 3)


def test_no_segment_at_all_leaves_the_image() -> None:
    image = np.full((4, 4, 3), 77, dtype=np.uint8)
    np.testing.assert_array_equal(draw_overlay(image, np.zeros((4, 4), np.uint8)), image)


def test_more_than_255_segments() -> None:
    label_map = np.arange(400, dtype=np.uint16).reshape(20, 20)
    assert draw_overlay(np.zeros((20, 20, 3), np.uint8), label_map).shape == (20, 20, 3)


def test_colors_are_distinct_and_independent_of_the_count() -> None:
    colors = segment_colors(100).astype(int)
    np.testing.assert_array_equal(segment_colors(7), colors[:7])
    assert len(np.unique(colors, axis=0)) == 100
    steps = np.abs(np.diff(colors, axis=0)).sum(axis=1)
    assert steps.min() > 100


def test_sizes_must_agree() -> None:
    with pytest.raises(ValueError, match="differ in size"):
        draw_overlay(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5), np.uint8))
