"""Transformations of the image plane, as 3x3 matrices.

A matrix takes a place (x, y, 1) of one image to the same place of the scene in another image. The centre of a pixel has
whole numbers, the top left one (0, 0). Sizes are (height, width) in pixels.
"""

import math

import cv2
import numpy as np
import numpy.typing as npt

from thfuse_sam.arrays import Array, Size
from thfuse_sam.options.align import AlignKind

Matrix = npt.NDArray[np.float64]
Kind = AlignKind

_SAME_ASPECT = 0.01  # sides of two images whose ratios differ by less were rounded, not cut


def scaling(source: Size, target: Size) -> Matrix:
    """Takes an image of size `source` that is resampled to size `target` to its place there."""
    y, x = target[0] / source[0], target[1] / source[1]
    return np.array([[x, 0, (x - 1) / 2], [0, y, (y - 1) / 2], [0, 0, 1]])


def fitted(source: Size, target: Size) -> Matrix:
    """Resamples an image of size `source` to size `target`. Where the shapes differ, pixels stay square and the image
    lies in the middle of the other one, as large as it has room.
    """
    y, x = target[0] / source[0], target[1] / source[1]
    if abs(x / y - 1) <= _SAME_ASPECT:
        return scaling(source, target)
    factor = min(x, y)
    left, top = ((length - 1 - factor * (own - 1)) / 2 for length, own in zip(target[::-1], source[::-1], strict=True))
    return np.array([[factor, 0, left], [0, factor, top], [0, 0, 1]])


def similarity(degrees: float, scale: float, shift: tuple[float, float], size: Size) -> Matrix:
    """Turns and scales an image about its middle, then moves it by `shift`, (x, y) in pixels."""
    cosine, sine = scale * math.cos(math.radians(degrees)), scale * math.sin(math.radians(degrees))
    x, y = (size[1] - 1) / 2, (size[0] - 1) / 2
    left, top = x - cosine * x + sine * y + shift[0], y - sine * x - cosine * y + shift[1]
    return np.array([[cosine, -sine, left], [sine, cosine, top], [0, 0, 1]])


def inverse(matrix: Matrix) -> Matrix:
    """The transformation back."""
    return np.asarray(np.linalg.inv(matrix), np.float64)


def transformed(points: Array, matrix: Matrix) -> npt.NDArray[np.float64]:
    """Nx2 places (x, y) after the transformation."""
    moved = np.column_stack([points, np.ones(len(points))]) @ matrix.T
    return np.asarray(moved[:, :2] / moved[:, 2:])


def corners(size: Size) -> npt.NDArray[np.float64]:
    """4x2: the middles of the corner pixels."""
    height, width = size
    return np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], np.float64)


def corner_distance(one: Matrix, other: Matrix, size: Size) -> float:
    """Mean distance in pixels between the corners of an image of `size` after the one and after the other."""
    places = corners(size)
    return float(np.linalg.norm(transformed(places, one) - transformed(places, other), axis=1).mean())


def folds(matrix: Matrix, size: Size) -> bool:
    """Whether an image of `size` is folded, mirrored or torn, so that it is no image any more."""
    x, y = corners(size).T
    depth = matrix[2] @ np.stack([x, y, np.ones(4)])
    return bool(not np.isfinite(matrix).all() or (depth <= 1e-6).any() or np.linalg.det(matrix) <= 1e-12)


def warp(
    image: Array, matrix: Matrix, size: Size, *, interpolation: int = cv2.INTER_LINEAR, border: int | None = 0
) -> Array:
    """The image HxW or HxWxC as `matrix` places it in an image of `size`. Pixels outside of it are `border`, or None:
    those of its edge.
    """
    mode = cv2.BORDER_REPLICATE if border is None else cv2.BORDER_CONSTANT
    return np.asarray(
        cv2.warpPerspective(image, matrix, size[::-1], flags=interpolation, borderMode=mode, borderValue=border or 0)
    )
