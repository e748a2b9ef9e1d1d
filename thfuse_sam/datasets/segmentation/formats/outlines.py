"""Outlines as masks. A pixel belongs to a shape where the shape covers its middle, so that areas come out unbiased.

What lies outside of the image is cut off, and parts without an area are left out. Each function appends to `reasons`
what it had to mend (see `sample.Flaw`), so that nothing is lost without a word.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from thfuse_sam.arrays import Mask, Size
from thfuse_sam.masks.rle import decode_rle

Point = tuple[float, float]

CLIPPED = "partly outside of the image, cut off at its border"
STRAY = "with a part of fewer than 3 points, which is dropped"
EMPTY = "without a pixel in the image, left out"
NO_OUTLINE = "without an outline (a box is none), left out"

TOLERANCE = 1.0  # pixels that a point may lie outside the image without a word: annotation programs round
_FARTHEST = 1e6  # pixels; a coordinate beyond it is no position


def polygon_mask(polygons: Sequence[Sequence[Point]], shape: Size, reasons: list[str]) -> Mask:
    """The inside of polygons, each a list of points (x, y), bool of (height, width) `shape`; it may be empty.

    Raises ValueError: a point that is no finite number.
    """
    mask = np.zeros(shape, bool)
    for points in polygons:
        if len(points) < 3:
            reasons.append(STRAY)
            continue
        corners = _finite(points)
        if _leaves(corners, shape):
            reasons.append(CLIPPED)
        # A little more than the image is kept, so that the cut itself lies outside.
        corners = _cut(corners, shape)
        if len(corners) >= 3:
            mask |= decode_rle(coco_mask.frPyObjects([corners.ravel().tolist()], *shape)[0], shape)
    return mask


def require_pixels(polygons: Sequence[Sequence[Point]]) -> None:
    """Raise ValueError where all coordinates are fractions of the image, as some programs write them."""
    values = [value for points in polygons for point in points for value in point]
    if values and all(0 <= value <= 1 for value in values) and any(value % 1 for value in values):
        raise ValueError("its coordinates lie between 0 and 1, as fractions of the image do; give pixels")


def circle_mask(centre: Point, on_circle: Point, shape: Size, reasons: list[str]) -> Mask:
    """The part in the image of the circle around `centre` through `on_circle`. Raises ValueError: no finite number."""
    x, y = _finite([centre, on_circle])[0]
    radius = math.dist(centre, on_circle)
    if _leaves(np.array([[x - radius, y - radius], [x + radius, y + radius]]), shape):
        reasons.append(CLIPPED)
    rows, columns = np.ogrid[: shape[0], : shape[1]]
    inside: Mask = (columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2 <= radius**2
    return inside


def line_mask(points: Sequence[Point], width: int, shape: Size, reasons: list[str]) -> Mask:
    """A line through `points`, `width` pixels wide, with round ends; it may be empty.

    Raises ValueError: a point that is no finite number, or fewer than 2 points.
    """
    if len(points) < 2:
        raise ValueError(f"a line has {len(points)} points, it needs 2")
    corners = _finite(points)
    if _leaves(corners, shape):
        reasons.append(CLIPPED)
    mask = np.zeros(shape, bool)
    for start, end in itertools.pairwise(corners):
        # Only pixels that the line can reach: those in the box around it.
        near = np.clip([np.minimum(start, end) - width, np.maximum(start, end) + width + 1], 0, shape[::-1]).astype(int)
        (left, top), (right, bottom) = near
        x, y = np.arange(left, right) + 0.5 - start[0], np.arange(top, bottom)[:, None] + 0.5 - start[1]
        along = (end - start) / max(float(np.sum((end - start) ** 2)), 1e-12)
        # Of the nearest point of the line, from its start to its end.
        place = np.clip(x * along[0] + y * along[1], 0, 1)
        distances = np.hypot(x - place * (end - start)[0], y - place * (end - start)[1])
        mask[top:bottom, left:right] |= distances <= width / 2
    return mask


def _finite(points: Sequence[Point]) -> npt.NDArray[np.float64]:
    corners = np.array(points, np.float64)
    if not (np.isfinite(corners).all() and (np.abs(corners) <= _FARTHEST).all()):
        raise ValueError("a point is no finite number of pixels")
    return corners


def _leaves(corners: npt.NDArray[np.float64], shape: Size) -> bool:
    """Whether a point lies outside the image by more than TOLERANCE."""
    return bool((corners < -TOLERANCE).any() or (corners > np.array(shape[::-1]) + TOLERANCE).any())


def _cut(corners: npt.NDArray[np.float64], shape: Size) -> npt.NDArray[np.float64]:
    """The part of a polygon in the image and a pixel around it (Sutherland and Hodgman, CACM 1974): Kx2, or empty.

    pycocotools cuts too, but walks along every pixel of an edge, however far outside it runs.
    """
    for axis, length in ((0, shape[1]), (1, shape[0])):
        for side, limit in ((1.0, -TOLERANCE), (-1.0, length + TOLERANCE)):
            inside = side * (corners[:, axis] - limit)  # how far, in pixels; negative outside
            if (inside >= 0).all():
                continue
            kept = []
            following = zip(np.roll(corners, -1, axis=0), np.roll(inside, -1), strict=True)
            for start, own, (end, other) in zip(corners, inside, following, strict=True):
                if own >= 0:
                    kept.append(start)
                if (own >= 0) != (other >= 0):
                    kept.append(start + (end - start) * own / (own - other))
            corners = np.array(kept).reshape(-1, 2)
    return corners
