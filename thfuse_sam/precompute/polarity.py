"""Noticing infrared images in which what is warm is dark, by the segments that stand upright, as people do."""

from collections.abc import Iterable

import numpy as np

from thfuse_sam.arrays import ImageArray
from thfuse_sam.masks.format import LabelMap
from thfuse_sam.metrics.targets import Target, label_boxes, target_contrast

# Of the upright segments that clearly stand out 1 to 18 % are dark where warm is bright, and 40 to 85 % in the same
# images turned black-hot: benchmarks/results/thermal_points.md. A wrong hint is worse than none.
_CLEAR = 30.0  # grey levels
_LEAST_SEGMENTS, _LEAST_DARK = 10, 0.6
_SLENDER, _HEIGHT, _FILLED = (1.6, 4.5), (0.04, 0.6), (0.45, 0.9)  # height by width; of the image; of the box


def upright_contrasts(labels: LabelMap, infrared: ImageArray) -> list[float]:
    """By how many grey levels upright segments are brighter than what is around them: label map and uint8 HxW."""
    contrasts = []
    for number, box in zip(np.unique(labels[labels > 0]), label_boxes(labels), strict=True):
        left, top, right, bottom = (int(side) for side in box)
        mask = labels[top:bottom, left:right] == number
        height, width = mask.shape
        is_whole = left > 0 and top > 0 and right < labels.shape[1] and bottom < labels.shape[0]
        shares = ((height / width, _SLENDER), (height / labels.shape[0], _HEIGHT), (float(mask.mean()), _FILLED))
        if is_whole and all(low <= share <= high for share, (low, high) in shares):
            contrasts.append(target_contrast(infrared, Target("", (left, top, right, bottom), mask)))
    return contrasts


def dark_segments(images: Iterable[tuple[LabelMap, ImageArray]]) -> tuple[int, int] | None:
    """How many of how many clear upright segments are darker than what is around them; None: few, or not most."""
    contrasts = np.array([value for image in images for value in upright_contrasts(*image)])
    dark, bright = int((contrasts < -_CLEAR).sum()), int((contrasts > _CLEAR).sum())
    is_black_hot = dark + bright >= _LEAST_SEGMENTS and dark >= _LEAST_DARK * (dark + bright)
    return (dark, dark + bright) if is_black_hot else None
