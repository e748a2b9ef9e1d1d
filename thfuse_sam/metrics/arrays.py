"""What the metrics have in common: checks of the images, smoothing windows, local moments."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

Grey: TypeAlias = NDArray[np.uint8]
Values: TypeAlias = NDArray[np.float64]

SMALLEST_SIDE = 2  # px; below that an image has no gradient


def grey_values(**images: Grey) -> list[Values]:
    """Check named 8-bit grey images against each other and give them as float64 in [0, 255].

    `images`: uint8 HxW each, all of one shape, sides of at least 2 px. The names appear in error messages. Raises
    ValueError: a type, number of dimensions or shape differs from that.
    """
    first_name, first = next(iter(images.items()))
    for name, image in images.items():
        if not isinstance(image, np.ndarray):
            raise ValueError(f"{name} is a {type(image).__name__}; metrics take NumPy arrays, uint8 HxW")
        if image.dtype != np.uint8:
            raise ValueError(
                f"{name} has dtype {image.dtype}; metrics take uint8: clamp to [0, 255] and round, never stretch"
            )
        if image.ndim != 2:
            raise ValueError(f"{name} has shape {image.shape}; metrics take one grey channel, HxW (BT.601 luma of RGB)")
        if min(image.shape) < SMALLEST_SIDE:
            raise ValueError(f"{name} has shape {image.shape}; metrics need sides of at least {SMALLEST_SIDE} px")
        if image.shape != first.shape:
            raise ValueError(
                f"{name} has shape {image.shape} but {first_name} {first.shape}; metrics compare images of one size"
            )
    return [image.astype(np.float64) for image in images.values()]


def ratio_or_zero(numerator: Values, denominator: Values) -> Values:
    """Element-wise quotient, 0 where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator != 0)


def gaussian_window(size: int, sigma: float) -> Callable[[Values], Values]:
    """Filter with a `size` x `size` Gaussian, keeping only positions where the window lies fully inside.

    Args:
        size: window side in px, odd.
        sigma: standard deviation in px.

    Returns:
        a function from float64 HxW to float64 (H - size + 1)x(W - size + 1).
    """
    radius = size // 2
    taps = np.exp(-(np.arange(-radius, radius + 1, dtype=np.float64) ** 2) / (2 * sigma**2))
    taps /= taps.sum()
    return lambda image: _inside(cv2.sepFilter2D(image, cv2.CV_64F, taps, taps), radius)


def box_window(size: int) -> Callable[[Values], Values]:
    """Mean over a `size` x `size` window; same arguments and result as `gaussian_window`."""
    return lambda image: _inside(cv2.boxFilter(image, cv2.CV_64F, (size, size)), size // 2)


def _inside(filtered: npt.ArrayLike, radius: int) -> Values:
    """The filtered values whose window, `radius` pixels to each side, lies fully inside the image."""
    values = np.asarray(filtered, dtype=np.float64)
    return values[radius : values.shape[0] - radius, radius : values.shape[1] - radius]


class Moments(NamedTuple):
    """Local means, variances and covariance of two images, float64 maps of one shape."""

    mean_first: Values
    mean_second: Values
    variance_first: Values
    variance_second: Values
    covariance: Values


def local_moments(first: Values, second: Values, smooth: Callable[[Values], Values]) -> Moments:
    """Moments of two float64 HxW images under the window `smooth`."""
    mean_first, mean_second = smooth(first), smooth(second)
    variance_first, variance_second, covariance = smooth(first**2), smooth(second**2), smooth(first * second)
    # In place: allocating maps of this size takes longer than filling them.
    variance_first -= mean_first**2
    variance_second -= mean_second**2
    covariance -= mean_first * mean_second
    return Moments(mean_first, mean_second, variance_first, variance_second, covariance)
