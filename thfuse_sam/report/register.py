"""Pictures of how an infrared image lies on the visible one: its edges, drawn over the visible image."""

import cv2
import numpy as np

from thfuse_sam.align.placement import Placement, resample
from thfuse_sam.arrays import ImageArray
from thfuse_sam.datasets.pairs import ImagePair
from thfuse_sam.images import luma

_STRONG = 97.0  # percentile of the edges that is drawn in full
_COLOUR = (255, 140, 0)


def register_pictures(pair: ImagePair, placement: Placement) -> tuple[ImageArray, ImageArray]:
    """Two pictures, uint8 HxWx3: before the alignment, where the infrared image is only resampled, and after it."""
    infrared, visible = pair.read()
    placed = resample(visible, placement.vi, placement.size)
    before, after = (
        edges_over(resample(infrared, matrix, placement.size), luma(placed))
        for matrix in (placement.vi @ placement.alignment.resampled, placement.ir)
    )
    return before, after


def edges_over(infrared: ImageArray, visible_luma: ImageArray) -> ImageArray:
    """The infrared image's edges in orange over a dimmed visible image; uint8 HxW both, and HxWx3."""
    smooth = cv2.GaussianBlur(infrared.astype(np.float32), (0, 0), 1.0)
    strength = cv2.magnitude(cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1))
    weight = np.clip(strength / max(float(np.percentile(strength, _STRONG)), 1.0), 0, 1)[..., None] ** 1.5
    base = 0.7 * visible_luma[..., None].astype(np.float32)
    return np.rint((1 - weight) * base + weight * np.array(_COLOUR, np.float32)).astype(np.uint8)
