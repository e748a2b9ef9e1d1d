"""Drawing a label map over its image: one colour per segment, semi-transparent, with thin outlines."""

import colorsys

import numpy as np
import numpy.typing as npt

from thfuse_sam.arrays import ImageArray
from thfuse_sam.masks.outlines import thin_outlines

# The golden ratio spreads any number of hues so that consecutive segments never look alike.
_HUE_STEP = 0.6180339887498949
# Neighbouring hues differ in lightness and saturation too, which keeps a hundred segments apart.
_TONES = ((0.55, 0.95), (0.68, 0.80), (0.45, 0.85))  # (HLS lightness, HLS saturation)


def segment_colors(count: int) -> ImageArray:
    """Colours of segments 1..count: uint8 count x 3, RGB. The colour of a segment does not depend on `count`."""
    colors = np.empty((count, 3), dtype=np.uint8)
    for index in range(count):
        lightness, saturation = _TONES[index % len(_TONES)]
        rgb = colorsys.hls_to_rgb((0.02 + index * _HUE_STEP) % 1.0, lightness, saturation)
        colors[index] = np.round(np.asarray(rgb) * 255)
    return colors


def draw_overlay(image: ImageArray, label_map: npt.NDArray[np.integer], *, opacity: float = 0.45) -> ImageArray:
    """Draw the segments of `label_map` over `image`.

    Args:
        image: uint8 HxWx3, RGB.
        label_map: integer HxW of the image's own size; 0 is "no segment" and stays untouched.
        opacity: opacity of the segments' colours, in [0, 1]; outlines are drawn nearly opaque.

    Returns:
        uint8 HxWx3, RGB; a new array.
    """
    if label_map.shape != image.shape[:2]:
        raise ValueError(f"label map {label_map.shape} and image {image.shape[:2]} differ in size")
    labels = label_map.astype(np.intp)
    palette = np.concatenate([np.zeros((1, 3)), segment_colors(int(labels.max(initial=0)))]).astype(np.float32)
    weight = np.where(labels > 0, np.float32(opacity), np.float32(0))
    edge = thin_outlines(label_map)
    weight[edge] = max(opacity, 0.9)
    colors = palette[labels]
    # A lighter line of the segment's own hue is seen on dark infrared and on bright visible images alike.
    colors[edge] = 0.6 * colors[edge] + 0.4 * 255
    blended = image.astype(np.float32) * (1 - weight[..., None]) + colors * weight[..., None]
    return np.round(blended).clip(0, 255).astype(np.uint8)
