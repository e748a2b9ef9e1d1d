"""Types that all modules share. An image is HxW, or HxWx3 in RGB; a size is (height, width) in pixels."""

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
ImageArray = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Size = tuple[int, int]


def size_of(image: Array) -> Size:
    """(height, width) of an image, also one with channels."""
    return image.shape[0], image.shape[1]
