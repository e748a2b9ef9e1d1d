"""The colour step: networks fuse luma, and the visible image's chroma is put on the result."""

import numpy as np
from numpy.typing import NDArray

from thfuse_sam.images import LUMA_WEIGHTS, ImageArray

# Below the first of these values a visible pixel's colour is noise, from the second on it is trusted (8-bit values).
DARK = (6.0, 30.0)  # values of the brightest channel
# Up to the first of these values a visible pixel's colour is trusted, from the second on it is clipped.
CLIPPED = (235.0, 252.0)  # values of the darkest channel
KEPT_CHROMA = 0.85  # of the visible image's; `leave_room` leaves room for at least this share


def leave_room(luma: ImageArray, visible: ImageArray) -> ImageArray:
    """Bring a fused `luma` to where most of the visible image's colour fits beside it and is not burnt to white.

    Colour that is trusted (see `add_colour`) keeps at least KEPT_CHROMA of its chroma; where there is little colour
    hardly anything changes, and in grey nothing does. uint8 HxW and uint8 HxWx3 RGB -> uint8 HxW.
    """
    offsets = KEPT_CHROMA * _colour_offsets(visible)
    # Rounded inwards, so that whole levels leave the room as well; a hundredth is the rounding of grey pixels.
    lowest, highest = np.ceil(-offsets.min(axis=2) - 0.01), np.floor(255.01 - offsets.max(axis=2))
    return np.clip(luma, lowest, highest).astype(np.uint8)


def add_colour(luma: ImageArray, visible: ImageArray) -> ImageArray:
    """Put the visible image's colour on a fused `luma`: uint8 HxW and uint8 HxWx3 RGB -> uint8 HxWx3 RGB.

    Chroma (Cb, Cr of BT.601) is the visible image's. It is faded out where that image has no signal to take it from
    (nearly black, or clipped in all channels), and reduced where it does not fit into RGB beside the new luma: clipping
    single channels there would shift the hue, which shows as fringes around lamps. The result's luma is `luma`, up to
    rounding.
    """
    offsets = _colour_offsets(visible)
    y = luma.astype(np.float32)[..., None]
    room = np.where(offsets > 0, 255 - y, y)
    scale = np.minimum(room / np.maximum(np.abs(offsets), 1e-6), 1).min(axis=2, keepdims=True)
    return np.rint(np.clip(y + offsets * scale, 0, 255)).astype(np.uint8)


def _colour_offsets(visible: ImageArray) -> NDArray[np.float32]:
    """What the trusted chroma of an image adds to the luma of each channel: uint8 HxWx3 -> float32 HxWx3."""
    rgb = visible.astype(np.float32)
    luma = rgb @ np.array(LUMA_WEIGHTS, np.float32)
    trust = _smooth_step(rgb.max(axis=2), *DARK) * (1 - _smooth_step(rgb.min(axis=2), *CLIPPED))
    return (rgb - luma[..., None]) * trust[..., None]


def _smooth_step(values: NDArray[np.float32], low: float, high: float) -> NDArray[np.float32]:
    """0 up to `low`, 1 from `high` on, smooth between."""
    position = np.clip((values - low) / (high - low), 0, 1).astype(np.float32)
    return (position * position * (3 - 2 * position)).astype(np.float32)
