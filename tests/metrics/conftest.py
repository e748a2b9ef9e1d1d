"""Generated grey images for the metric tests."""

from typing import NamedTuple

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray


class Triple(NamedTuple):
    """Fused image and its sources, uint8 HxW each."""

    fused: NDArray[np.uint8]
    infrared: NDArray[np.uint8]
    visible: NDArray[np.uint8]


def make_triple(height: int, width: int, seed: int = 0) -> Triple:
    """Textured sources with flat and saturated parts, and their noisy mean."""
    rng = np.random.default_rng(seed)
    visible = cv2.GaussianBlur(rng.integers(0, 256, (height, width), dtype=np.uint8), (5, 5), 1.2)
    infrared = cv2.GaussianBlur(rng.integers(0, 60, (height, width), dtype=np.uint8), (3, 3), 0.8)
    infrared[height // 4 : height // 2, width // 3 : width // 2] = 255
    visible[: height // 5, : width // 4] = 90
    infrared[: height // 5, : width // 4] = 90
    noise = rng.integers(-9, 10, (height, width))
    fused = np.clip((infrared.astype(int) + visible) // 2 + noise, 0, 255).astype(np.uint8)
    fused[: height // 5, : width // 4] = 90
    return Triple(fused, infrared, visible)


@pytest.fixture
def triple() -> Triple:
    return make_triple(44, 51)


@pytest.fixture
def large_triple() -> Triple:
    return make_triple(176, 187)
