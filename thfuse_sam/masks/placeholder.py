"""The placeholder: the guidance of an image that has no mask. It changes no feature of a network."""

import numpy as np
import numpy.typing as npt

from thfuse_sam.arrays import Size

PLACEHOLDER_VALUE = 0.5  # in every channel, at every pixel


def placeholder_guidance(shape: Size) -> npt.NDArray[np.float32]:
    """Guidance of an image of `shape` = (height, width) without a mask: float32 2xHxW, PLACEHOLDER_VALUE everywhere."""
    return np.full((2, *shape), PLACEHOLDER_VALUE, dtype=np.float32)
