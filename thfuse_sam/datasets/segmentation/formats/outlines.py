"""Outlines as masks. A pixel belongs to a shape where the shape covers its middle, so that areas come out unbiased."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from thfuse_sam.images import size_text
from thfuse_sam.masks.rle import decode_rle

Mask = npt.NDArray[np.bool_]
Point = tuple[float, float]

TOLERANCE = 1.0  # pixels that a point may lie outside the image: annotation programs round


def polygon_mask(points: Sequence[Point], shape: tuple[int, int]) -> Mask:
    """The inside of a polygon of at least 3 points (x, y), bool of (height, width) `shape`.

    Raises ValueError: too few points, a point that is no finite number or lies outside the image, or no pixel inside.
    """
    if len(points) < 3:
        raise ValueError(f"a polygon has {len(points)} points, it needs at least 3")
    inside = [_in_image(point, shape) for point in points]
    encoded = coco_mask.frPyObjects([[value for point in inside for value in point]], *shape)
    mask = decode_rle(encoded[0], shape)
    if not mask.any():
        raise ValueError("a polygon covers no pixel")
    return mask


def circle_mask(centre: Point, on_circle: Point, shape: tuple[int, int]) -> Mask:
    """The part in the image of the circle around `centre` through `on_circle`. Raises ValueError: nothing in it."""
    x, y = _in_image(centre, shape)
    radius = math.dist(centre, on_circle)
    if not math.isfinite(radius):
        raise ValueError("a circle's radius is no finite number")
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    mask: Mask = (columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2 <= radius**2
    if not mask.any():
        raise ValueError("a circle covers no pixel")
    return mask


def _in_image(point: Point, shape: tuple[int, int]) -> Point:
    """The point moved to the image's border if it lies outside by no more than TOLERANCE. Raises ValueError."""
    x, y = point
    height, width = shape
    if not (math.isfinite(x) and math.isfinite(y)):
        raise ValueError("a point is no finite number")
    if not (-TOLERANCE <= x <= width + TOLERANCE and -TOLERANCE <= y <= height + TOLERANCE):
        raise ValueError(f"the point ({x:.1f}, {y:.1f}) lies outside the image of {size_text(shape)} (width x height)")
    return min(max(x, 0.0), float(width)), min(max(y, 0.0), float(height))
