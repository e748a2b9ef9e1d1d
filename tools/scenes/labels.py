"""Label maps: which objects can be seen in an image."""

import cv2
import numpy as np
from numpy.typing import NDArray

from tools.scenes.canvas import Canvas

MIN_PIXELS = 20  # an object with fewer visible pixels in a modality is not in that modality's label map


def label_maps(
    canvas: Canvas, visible: NDArray[np.uint8], infrared: NDArray[np.uint8], noise: float
) -> tuple[list[NDArray[np.uint16]], dict[int, str]]:
    """Label maps of the visible and the infrared image, and label -> name. Only objects that stand out are in a map.

    Args:
        visible: HxWx3, without noise.
        infrared: HxW, without noise.
        noise: standard deviation of the visible image's noise, grey values.
    """
    maps = [_label_map(canvas, visible, 9.0 + 1.2 * noise), _label_map(canvas, infrared[..., None], 8.0)]
    used = np.union1d(np.unique(maps[0]), np.unique(maps[1]))
    used = used[used > 0]
    compact = np.zeros(len(canvas.things), np.uint16)
    compact[used] = np.arange(1, len(used) + 1)
    return [compact[m] for m in maps], {k + 1: canvas.things[int(t)].name for k, t in enumerate(used)}


def _label_map(canvas: Canvas, image: NDArray[np.uint8], threshold: float) -> NDArray[np.uint16]:
    """HxW map of thing numbers. A thing whose outline does not stand out by `threshold` grey values is transparent."""
    count = len(canvas.things)
    window = np.ones((5, 5), np.uint8)
    contrast = cv2.morphologyEx(image, cv2.MORPH_GRADIENT, window).reshape(*image.shape[:2], -1).max(2)
    strong = contrast >= threshold
    parent = np.array([thing.parent for thing in canvas.things])
    background = np.array([thing.background for thing in canvas.things])
    own = np.arange(count)
    whole = np.where(parent > 0, parent, own)  # a part counts as the thing that it belongs to
    of_part = np.array(canvas.part_thing)
    stands_out = (_strong_outline(canvas, whole[of_part], strong, count) >= 0.5) | background
    part_stands_out = (_strong_outline(canvas, own[of_part], strong, count) >= 0.5) & (parent > 0)
    label = np.where(stands_out[whole], whole, np.where(part_stands_out, own, 0))
    label[0] = 0
    # A thing of which too little can be seen is transparent as well.
    small = np.bincount(label[of_part][canvas.parts].ravel(), minlength=count) < MIN_PIXELS
    label[small[label] & ~background] = 0
    shown = canvas.labels(label)
    # What appears behind transparent things may be tiny parts of other things, which become "no object".
    small = np.bincount(shown.ravel(), minlength=count) < MIN_PIXELS
    shown[small[shown]] = 0
    return shown


def _strong_outline(
    canvas: Canvas, number_of_part: NDArray[np.int64], strong: NDArray[np.bool_], count: int
) -> NDArray[np.float64]:
    """The fraction of each thing's outline whose pixels are `strong`, for `count` things."""
    numbers = number_of_part[canvas.parts]
    edge = np.zeros(numbers.shape, bool)
    across, down = numbers[:, 1:] != numbers[:, :-1], numbers[1:] != numbers[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    on_edge = numbers[edge]
    total = np.bincount(on_edge, minlength=count)
    return np.bincount(on_edge, weights=strong[edge], minlength=count) / np.maximum(total, 1)
