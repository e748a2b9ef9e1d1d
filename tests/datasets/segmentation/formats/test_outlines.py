"""Outlines as masks: cut at the image's border, whatever the points are."""

import itertools
import math

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from thfuse_sam.datasets.segmentation.formats.outlines import CLIPPED, STRAY, circle_mask, line_mask, polygon_mask
from thfuse_sam.masks.rle import decode_rle

SHAPE = (20, 30)
MARGIN = 60
QUARTERS = st.integers(-4 * (MARGIN - 5), 4 * (MARGIN + 20)).map(lambda value: value / 4)
POINTS = st.lists(st.tuples(QUARTERS, QUARTERS), min_size=3, max_size=7)


def distances(corners: list[tuple[float, float]]) -> np.ndarray:
    """From the centre of each pixel to the line through `corners`, sampled."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]] + 0.5
    nearest = np.full(SHAPE, np.inf)
    for share in np.linspace(0, 1, 300):
        for (x0, y0), (x1, y1) in itertools.pairwise(corners):
            nearest = np.minimum(nearest, np.hypot(x - x0 - share * (x1 - x0), y - y0 - share * (y1 - y0)))
    return nearest


@settings(max_examples=150)
@given(POINTS)
@example([(27.75, -36.75), (0.0, 0.0), (-7.75, 32.25)])
def test_a_cut_polygon_is_the_part_in_the_image(points: list[tuple[float, float]]) -> None:
    reasons: list[str] = []
    mask = polygon_mask([points], SHAPE, reasons)
    large = (SHAPE[0] + 2 * MARGIN + 20, SHAPE[1] + 2 * MARGIN + 20)
    shifted = [value + MARGIN for point in points for value in point]
    whole = decode_rle(coco_mask.frPyObjects([shifted], *large)[0], large)
    wanted = whole[MARGIN : MARGIN + SHAPE[0], MARGIN : MARGIN + SHAPE[1]]
    assert distances([*points, points[0]])[mask != wanted].max(initial=0) <= 1, "but for roundings along the edges"
    assert reasons in ([], [CLIPPED])


@settings(max_examples=100)
@given(st.lists(st.lists(st.tuples(*[st.floats(allow_nan=True) | QUARTERS] * 2), max_size=5), max_size=3))
def test_any_numbers_make_a_mask_or_a_value_error(polygons: list[list[tuple[float, float]]]) -> None:
    reasons: list[str] = []
    try:
        mask = polygon_mask(polygons, SHAPE, reasons)
    except ValueError:
        assert any(
            not math.isfinite(value) or abs(value) > 1e6 for part in polygons for point in part for value in point
        )
    else:
        assert mask.shape == SHAPE and reasons.count(STRAY) == sum(len(part) < 3 for part in polygons)


@settings(max_examples=25)
@given(st.lists(st.tuples(QUARTERS, QUARTERS), min_size=2, max_size=5), st.integers(1, 9))
def test_a_line_holds_the_pixels_near_it(points: list[tuple[float, float]], width: int) -> None:
    mask = line_mask(points, width, SHAPE, [])
    nearest = distances(points)
    assert not (mask & (nearest > width / 2 + 0.3)).any() and not (~mask & (nearest < width / 2 - 0.3)).any()


def test_a_circle_around_a_point_outside() -> None:
    reasons: list[str] = []
    mask = circle_mask((-3.0, 10.0), (5.0, 10.0), SHAPE, reasons)
    assert reasons == [CLIPPED]
    assert mask[10, :5].all() and not mask[10, 5:].any() and mask.sum() < math.pi * 64 / 2
