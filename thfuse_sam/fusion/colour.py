"""The colour step: networks fuse luma, and the visible image's chroma is put on the result."""

import numpy as np
from numpy.typing import NDArray

from thfuse_sam.images import LUMA_WEIGHTS, ImageArray

# Below the first of these values a visible pixel's colour is noise, from the second on it is trusted (8-bit values).
DARK = (6.0, 30.0)  # values of the brightest channel
# Up to the first of these values a visible pixel's colour is trusted, from the second on it is clipped.
CLIPPED = (235.0, 252.0)  # values of the darkest channel
_RED_SCALE, _BLUE_SCALE = 1.402, 1.772  # R - luma and B - luma at Cr = 1 and Cb = 1, BT.601


def add_colour(luma: ImageArray, visible: ImageArray) -> ImageArray:
    """Put the visible image's colour on a fused `luma`: uint8 HxW and uint8 HxWx3 RGB -> uint8 HxWx3 RGB.

    Chroma (Cb, Cr of BT.601) is the visible image's. It is faded out where that image has no signal to take it from
    (nearly black, or clipped in all channels), and reduced where it does not fit into RGB beside the new luma: clipping
    single channels there would shift the hue, which shows as fringes around lamps. The result's luma is `luma`, up to
    rounding.
    """
    red_weight, green_weight, blue_weight = LUMA_WEIGHTS
    rgb = visible.astype(np.float32)
    red, green, blue = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    vi_luma = red_weight * red + green_weight * green + blue_weight * blue
    trust = _smooth_step(rgb.max(axis=2), *DARK) * (1 - _smooth_step(rgb.min(axis=2), *CLIPPED))
    cb = (blue - vi_luma) / _BLUE_SCALE * trust
    cr = (red - vi_luma) / _RED_SCALE * trust
    green_offset = (-red_weight * _RED_SCALE * cr - blue_weight * _BLUE_SCALE * cb) / green_weight
    offsets = np.stack([_RED_SCALE * cr, green_offset, _BLUE_SCALE * cb], axis=2)
    y = luma.astype(np.float32)
    scale = np.ones_like(y)
    for channel in range(3):
        offset = offsets[..., channel]
        room = np.where(offset > 0, 255 - y, y)
        scale = np.minimum(scale, room / np.maximum(np.abs(offset), 1e-6))
    return np.rint(np.clip(y[..., None] + offsets * scale[..., None], 0, 255)).astype(np.uint8)


def _smooth_step(values: NDArray[np.float32], low: float, high: float) -> NDArray[np.float32]:
    """0 up to `low`, 1 from `high` on, smooth between."""
    position = np.clip((values - low) / (high - low), 0, 1).astype(np.float32)
    return (position * position * (3 - 2 * position)).astype(np.float32)
