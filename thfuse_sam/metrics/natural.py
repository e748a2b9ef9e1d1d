"""Metrics of natural looks: colour that is kept, and skies and flat areas that stay as calm as they were.

Images are uint8 HxW, those in RGB HxWx3. Limits and thresholds are this project's own.
"""

import math

import cv2
import numpy as np

from thfuse_sam.arrays import ImageArray, Mask
from thfuse_sam.images import LUMA_WEIGHTS
from thfuse_sam.metrics.arrays import Grey, Values, grey_values

COLOURFUL = 0.25  # saturation (HSV) from which on a visible pixel counts as colourful
EXPOSED = (40, 220)  # luma between which it counts as well exposed
FLAT = 1.0  # levels per pixel; areas of a smaller gradient, once smoothed, are flat
BRIGHT = 180  # luma above which flat visible areas count as sky
_SMOOTHING = 2.0  # pixels; sigma of the Gaussian before the gradient that decides what is flat
_SMALLEST_SHARE = 0.005  # of the image's pixels; a metric of less is undefined
_ROUNDING_NOISE = 1 / math.sqrt(12)  # levels; standard deviation of what rounding to 8 bits adds
# Differences of two discrete Laplacians: 0 on planes and straight edges.
_NOISE_KERNEL = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float64)


def chroma_kept(fused_rgb: ImageArray, visible_rgb: ImageArray) -> float:
    """Share of the visible image's chroma that the fused image keeps where that is colourful and well exposed; 0 to 1.

    The chroma is the vector (Cb, Cr) of BT.601. Of the fused one counts what points in the visible one's direction, at
    most all of it; the mean is over pixels. NaN where less than 0.5 % of the pixels are such.
    """
    fused, visible = fused_rgb.astype(np.float64), visible_rgb.astype(np.float64)
    luma, highest = visible @ np.array(LUMA_WEIGHTS), visible.max(axis=2)
    chosen = (highest - visible.min(axis=2) > COLOURFUL * highest) & (luma >= EXPOSED[0]) & (luma <= EXPOSED[1])
    if not _is_enough(chosen):
        return math.nan
    own, kept = _chroma(visible[chosen]), _chroma(fused[chosen])
    return float(np.clip((own * kept).sum(axis=1) / (own**2).sum(axis=1), 0, 1).mean())


def sky_gradient(fused: Grey, infrared: Grey, visible: Grey) -> float:
    """Gradient of the fused image in flat, bright areas of the visible one, relative to the infrared image's there.

    Lower is better: 0 is a clean sky, 1 one that is as restless as the infrared image. NaN where less than 0.5 % of the
    pixels are such, or the infrared image is calm there, too: a mean gradient of less than 1 level.
    """
    fused_values, infrared_values, visible_values = grey_values(fused=fused, infrared=infrared, visible=visible)
    sky = _is_flat(visible_values) & (_smooth(visible_values) > BRIGHT)
    own = float(_gradient(infrared_values)[sky].mean()) if _is_enough(sky) else 0.0
    return float(_gradient(fused_values)[sky].mean()) / own if own >= FLAT else math.nan


def flat_noise(fused: Grey, infrared: Grey, visible: Grey) -> float:
    """Noise of the fused image where both sources are flat, relative to that of the quieter source. Lower is better.

    The noise is the standard deviation that J. Immerkaer, "Fast noise variance estimation", Computer Vision and Image
    Understanding 64, 1996 estimates; a source's counts as at least that of rounding to 8 bits. NaN where less than
    0.5 % of the pixels are flat.
    """
    values = grey_values(fused=fused, infrared=infrared, visible=visible)
    flat = _is_flat(values[1]) & _is_flat(values[2])
    if not _is_enough(flat):
        return math.nan
    own, *sources = (_noise(image, flat) for image in values)
    return own / max(min(sources), _ROUNDING_NOISE)


def _is_enough(chosen: Mask) -> bool:
    return bool(chosen.mean() >= _SMALLEST_SHARE)


def _chroma(rgb: Values) -> Values:
    """Cb and Cr of BT.601, Nx2, of Nx3 values."""
    luma = rgb @ np.array(LUMA_WEIGHTS)
    return np.stack([(rgb[:, 2] - luma) / 1.772, (rgb[:, 0] - luma) / 1.402], axis=1)


def _smooth(image: Values) -> Values:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), _SMOOTHING, borderType=cv2.BORDER_REPLICATE), np.float64)


def _gradient(image: Values) -> Values:
    vertical, horizontal = np.gradient(image)
    return np.sqrt(horizontal**2 + vertical**2)


def _is_flat(image: Values) -> Mask:
    return np.asarray(_gradient(_smooth(image)) < FLAT)


def _noise(image: Values, flat: Mask) -> float:
    response = np.abs(np.asarray(cv2.filter2D(image, cv2.CV_64F, _NOISE_KERNEL)))
    return math.sqrt(math.pi / 2) / 6 * float(response[flat].mean())
