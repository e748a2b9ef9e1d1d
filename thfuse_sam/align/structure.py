"""What an infrared and a visible image of one scene have in common: where their edges are and how they run."""

import cv2
import numpy as np
import numpy.typing as npt

from thfuse_sam.arrays import ImageArray
from thfuse_sam.thermal import connected_with_border

Float = npt.NDArray[np.float32]

# An edge counts half if its squared gradient is this share of the image's mean: weak edges count nearly as much as
# strong ones, because what is strong in one modality is often weak in the other.
_HALF_WEIGHT = 0.3
_LEAST_SHARE = 0.001  # of an image's pixels: a smaller black border is none
_CONVEX = 0.98  # least share that a moved image has of its convex hull; a black sky's outline is not convex


def orientations(image: Float) -> Float:
    """The direction of the edge in each pixel of an image HxW, as HxWx2: cosine and sine of twice its angle.

    Twice the angle, so that an edge from dark to light equals one from light to dark. The length is in [0, 1) and says
    how strong the edge is. With the gradient g as a complex number it is g^2 / (|g|^2 + 0.3 mean |g|^2).
    """
    smooth = cv2.GaussianBlur(image, (0, 0), 1.0)
    x, y = cv2.Scharr(smooth, cv2.CV_32F, 1, 0, scale=1 / 32), cv2.Scharr(smooth, cv2.CV_32F, 0, 1, scale=1 / 32)
    xx, yy = x * x, y * y
    energy = xx + yy
    weight = 1 / (energy + (_HALF_WEIGHT * float(energy.mean()) + 1e-6))
    return np.asarray(cv2.merge([(xx - yy) * weight, 2 * x * y * weight]), np.float32)


def measured_area(image: ImageArray) -> Float:
    """1 where an image HxW shows something, 0 in the black border that it got when it was turned or moved."""
    black = image == 0
    if not (black[0].any() or black[-1].any() or black[:, 0].any() or black[:, -1].any()):
        return np.ones(image.shape, np.float32)
    black = connected_with_border(black)
    if not _LEAST_SHARE < black.mean() < 1:
        return np.ones(image.shape, np.float32)
    shown = (~black).astype(np.uint8)
    hull = cv2.convexHull(cv2.findNonZero(shown))
    is_moved = shown.sum() >= _CONVEX * cv2.countNonZero(cv2.fillConvexPoly(np.zeros_like(shown), hull, 1))
    return shown.astype(np.float32) if is_moved else np.ones(image.shape, np.float32)
