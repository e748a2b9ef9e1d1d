"""The colour step: networks fuse luma, and the visible image's chroma is put on the result."""

from typing import NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from thfuse_sam.align.placement import Placement
from thfuse_sam.arrays import ImageArray
from thfuse_sam.images import LUMA_WEIGHTS, luma
from thfuse_sam.losses.filters import smooth_step

# Below the first of these values a visible pixel's colour is noise, from the second on it is trusted (8-bit values).
DARK = (5.0, 12.0)  # values of the brightest channel
# Up to the first of these values a visible pixel's colour is trusted, from the second on it is clipped.
CLIPPED = (235.0, 252.0)  # values of the darkest channel
GROWTH = 1.6  # chroma grows with luma, as in brighter light, at most by this factor ...
COLOURFUL = (25.0, 60.0)  # ... but not below the first of these ranges of the three channels: a cast, or noise
KEPT_CHROMA = 0.85  # of the visible image's; `leave_room` leaves room for at least this share


_Floats = NDArray[np.float32]


class _Chroma(NamedTuple):
    """The trusted chroma of an image, and how far it may grow: float32 HxW but for `offsets`."""

    lowest: _Floats  # the least that it adds to the luma in any channel, 0 or less
    highest: _Floats  # the most
    offsets: _Floats  # what it adds to each channel, HxWx3
    own_luma: _Floats  # of the image, 1 or more
    growth: _Floats  # the factor by which it may grow, 1 or more


def leave_room(fused: ImageArray, visible: ImageArray) -> ImageArray:
    """Bring `fused`, a luma, to where most of the visible image's colour fits beside it and is not burnt to white.

    Colour that is trusted (see `add_colour`) keeps at least KEPT_CHROMA of its chroma; where there is little colour
    hardly anything changes, and in grey nothing does. uint8 HxW and uint8 HxWx3 RGB -> uint8 HxW.
    """
    return _with_room(fused, _chroma(visible))


def add_colour(fused: ImageArray, visible: ImageArray) -> ImageArray:
    """Put the visible image's colour on `fused`, a luma: uint8 HxW and uint8 HxWx3 RGB -> uint8 HxWx3 RGB.

    Chroma (Cb, Cr of BT.601) is the visible image's; where colourful surfaces become brighter it grows, so that they
    do not turn pale. It is faded out where that image has no signal to take it from (nearly black, or clipped in all
    channels), and reduced where it does not fit into RGB beside the new luma: clipping single channels there would
    shift the hue, which shows as fringes around lamps. The result's luma is `fused`, up to rounding.
    """
    return _coloured(fused, _chroma(visible))


def fitted_colour(fused: ImageArray, visible: ImageArray) -> ImageArray:
    """`add_colour` after `leave_room`, in less time."""
    chroma = _chroma(visible)
    return _coloured(_with_room(fused, chroma), chroma)


def finished(fused: ImageArray, visible: ImageArray, placement: Placement | None, *, gray: bool) -> ImageArray:
    """What the network made of a pair, luma uint8 HxW, as it is shown: HxWx3 RGB, or with `gray` HxW.

    `placement` says where both images were placed, see `Placement.blend`; None: nowhere else.
    """
    if placement is not None:
        fused = placement.blend(fused, luma(visible))
    return fused if gray else fitted_colour(fused, visible)


def _with_room(fused: ImageArray, chroma: _Chroma) -> ImageArray:
    lowest, highest, _, own_luma, growth = chroma
    # Rounded inwards, so that whole levels leave the room as well; a hundredth is the rounding of grey pixels.
    least = np.ceil(-KEPT_CHROMA * lowest - 0.01)
    # Chroma grows in proportion to luma or by `growth`, whichever is less: there is room if there is for either.
    growing = 255.01 * own_luma / (own_luma + KEPT_CHROMA * highest)
    most = np.floor(np.maximum(growing, 255.01 - KEPT_CHROMA * growth * highest))
    return np.clip(fused, least, most).astype(np.uint8)


def _coloured(fused: ImageArray, chroma: _Chroma) -> ImageArray:
    lowest, highest, offsets, own_luma, growth = chroma
    y = fused.astype(np.float32)
    above, below = (255 - y) / np.maximum(highest, 1e-6), y / np.maximum(-lowest, 1e-6)
    grown = np.minimum(np.maximum(y / own_luma, 1), growth)
    scale = np.minimum(np.minimum(above, below), grown)
    coloured = cv2.merge([y, y, y]) + offsets * cv2.merge([scale, scale, scale])
    return np.asarray(cv2.convertScaleAbs(np.maximum(coloured, 0)), np.uint8)


def _chroma(visible: ImageArray) -> _Chroma:
    """The chroma of an image uint8 HxWx3."""
    red, green, blue = cv2.split(visible)
    brightest, darkest = cv2.max(cv2.max(red, green), blue), cv2.min(cv2.min(red, green), blue)
    trust = cv2.LUT(brightest, _steps(*DARK)) * cv2.LUT(darkest, 1 - _steps(*CLIPPED))
    rgb = visible.astype(np.float32)
    own_luma: _Floats = np.asarray(cv2.transform(rgb, np.array([LUMA_WEIGHTS], np.float32)), np.float32)
    growths = (1 + (GROWTH - 1) * _steps(*COLOURFUL)).astype(np.float32)
    growth: _Floats = np.asarray(cv2.LUT(brightest - darkest, growths), np.float32)
    offsets = (rgb - cv2.merge([own_luma] * 3)) * cv2.merge([trust] * 3)
    lowest, highest = (darkest - own_luma) * trust, (brightest - own_luma) * trust
    return _Chroma(lowest, highest, offsets, np.maximum(own_luma, 1), growth)


def _steps(low: float, high: float) -> _Floats:
    """`smooth_step` of each 8-bit value: float32, 256."""
    return np.asarray(smooth_step(torch.arange(256.0), low, high))
