"""Pairs of one scene whose modalities differ in all but their edges, and known movements of them."""

import cv2
import numpy as np

from thfuse_sam.align.transform import Matrix, similarity
from thfuse_sam.arrays import ImageArray

SIZE = (240, 320)


def pair(seed: int = 0, size: tuple[int, int] = SIZE) -> tuple[ImageArray, ImageArray]:
    """Infrared and visible luma, uint8 HxW: the same shapes with unrelated grey values, and noise of their own."""
    random = np.random.default_rng(seed)
    height, width = size
    images = [np.full(size, 90, np.uint8), np.full(size, 150, np.uint8)]
    for _ in range(60):
        middle = (int(random.integers(0, width)), int(random.integers(0, height)))
        axes = (int(random.integers(5, 40)), int(random.integers(5, 25)))
        turn = float(random.integers(0, 180))
        for image in images:
            box = cv2.boxPoints((middle, axes, turn)).astype(np.int32)
            cv2.fillConvexPoly(image, box, int(random.integers(20, 240)))
    noise = random.normal(0, 4, (2, *size))
    return tuple(np.clip(image + part, 1, 255).astype(np.uint8) for image, part in zip(images, noise, strict=True))  # type: ignore[return-value]


def moved(image: ImageArray, degrees: float, scale: float, shift: tuple[float, float]) -> tuple[ImageArray, Matrix]:
    """The image after a similarity, with a black border, and the matrix that moves it back."""
    size = (image.shape[0], image.shape[1])
    matrix = similarity(degrees, scale, shift, size)
    return cv2.warpPerspective(image, matrix, size[::-1], flags=cv2.INTER_CUBIC), np.linalg.inv(matrix)
