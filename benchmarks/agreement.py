"""How well two lists of masks of one image agree."""

import numpy as np
import numpy.typing as npt

from thfuse_sam.masks.format import paint_label_map

Masks = list[npt.NDArray[np.bool_]]


def equal_pixels(expected: Masks, actual: Masks) -> float:
    """Fraction of pixels at which the label maps of two lists of masks agree; 1 where both are empty."""
    if not expected or not actual:
        return float(len(expected) == len(actual))
    first, second = (paint_label_map(masks, masks[0].shape) for masks in (expected, actual))
    return float((first == second).mean())


def recall(expected: Masks, actual: Masks, iou: float = 0.8) -> float:
    """Fraction of the expected masks that an actual one overlaps by at least that IoU; 1 where none is expected."""
    return float((best_ious(expected, actual) >= iou).mean()) if expected else 1.0


def best_ious(expected: Masks, actual: Masks) -> npt.NDArray[np.float32]:
    """For each expected mask the largest IoU with an actual one; 0 where there is none."""
    if not expected or not actual:
        return np.zeros(len(expected), np.float32)
    first, second = (np.stack(masks).reshape(len(masks), -1).astype(np.float32) for masks in (expected, actual))
    overlap = first @ second.T
    ious: npt.NDArray[np.float32] = (overlap / (first.sum(1)[:, None] + second.sum(1)[None] - overlap)).max(1)
    return ious
