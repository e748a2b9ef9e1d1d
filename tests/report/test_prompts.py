"""Prompts drawn over an image are where they say."""

import numpy as np

from thfuse_sam.datasets.prompts import ObjectPrompt
from thfuse_sam.datasets.segmentation.sample import SegmentationSample
from thfuse_sam.report.prompts import draw_sample

GREEN, RED = (40, 220, 60), (240, 40, 40)


def sample() -> SegmentationSample:
    labels = np.zeros((320, 640), np.int32)
    labels[100:200, 100:300] = 7
    return SegmentationSample("s", np.zeros((320, 640, 3), np.uint8), labels)


def test_points_and_boxes_in_x_y_order() -> None:
    prompt = ObjectPrompt(
        np.array([[150.5, 120.5], [500.5, 60.5]], np.float32),
        np.array([1, 0], np.int32),
        np.array([90, 80, 320, 210], np.float32),
    )
    picture = draw_sample(sample(), [prompt])
    assert picture.shape == (320, 640, 3)
    assert tuple(picture[120, 150]) == GREEN and tuple(picture[60, 500]) == RED
    assert not picture[:10, :10].any()
    for y, x in ((80, 200), (210, 200), (150, 90), (150, 320)):
        assert picture[y, x].any()
    assert not picture[260, 200].any() and picture[150, 250].any()


def test_small_images_are_made_larger_and_names_written() -> None:
    small = SegmentationSample("s", np.zeros((20, 30, 3), np.uint8), np.ones((20, 30), np.int32), {1: "cat"})
    unnamed = SegmentationSample("s", small.image, small.labels)
    picture = draw_sample(small)
    assert picture.shape == (440, 660, 3)
    assert (picture != draw_sample(unnamed)).any()
    assert (picture == 255).all(2).any()


def test_earlier_masks_are_outlined() -> None:
    earlier = np.full((320, 640), -8, np.float32)
    earlier[20:60, 400:500] = 8
    picture = draw_sample(sample(), [ObjectPrompt(mask=earlier)])
    assert (picture[20, 410:490] == 255).all() and not picture[40, 450].any()
