"""Warm places of an infrared image, as prompts for SAM.

A grid of points has one point every few dozen pixels, and misses what is smaller: people far off, above all. In an
infrared image such things are brighter than what is around them. At every threshold, the pixels above it fall into
connected components; the box around a warm thing that has a sharp border stays nearly the same over many thresholds,
while boxes of shading and noise change from one threshold to the next. The idea is that of maximally stable extremal
regions (Matas et al., "Robust wide baseline stereo from maximally stable extremal regions", BMVC 2002), with boxes in
place of areas, because a box is what SAM is prompted with.
"""

import dataclasses
import functools

import cv2
import numpy as np
import numpy.typing as npt
import torch

from thfuse_sam.images import ImageArray
from thfuse_sam.options.generator import GeneratorSettings
from thfuse_sam.sam.candidates import Candidates

_LONGER_SIDE = 320  # pixels; images are reduced by a whole factor, to this length or up to twice as much
_STEP = 3  # grey levels from one threshold to the next
_MIN_PIXELS = 10  # of a component in the reduced image; smaller ones are mostly noise
_MAX_SHARE = 0.08  # of the image's pixels in a component; the grid finds what is larger
_SAME_IOU = 0.7  # boxes of two thresholds that overlap by more are boxes of the same thing
_OTHER_IOU = 0.6  # of two boxes that overlap by more, only that which stays over more thresholds is returned
_BLOCK = 512  # boxes that are compared with all others at once
_FIT_IOU = 0.4  # a mask whose box overlaps by less with the box that it was prompted with is of something else

_LEAST_STABILITY = 0.5  # of a mask of a warm place; SAM's own threshold is 0.95

Boxes = npt.NDArray[np.float64]


def warm_boxes(infrared: ImageArray, count: int) -> Boxes:
    """Boxes around up to `count` warm, well-bounded places of an infrared image (uint8 HxW, warm is bright).

    Boxes may lie inside one another. Returns float64 Nx4 (x0, y0, x1, y1, ends exclusive), those that stay over most
    thresholds first.
    """
    return _warm_boxes(infrared.tobytes(), (infrared.shape[0], infrared.shape[1]), count)


@functools.lru_cache(maxsize=1)  # the infrared and the visible image of a pair come one after the other
def _warm_boxes(pixels: bytes, shape: tuple[int, int], count: int) -> Boxes:
    infrared = np.frombuffer(pixels, dtype=np.uint8).reshape(shape)
    height, width = shape
    factor = max(1, max(height, width) // _LONGER_SIDE)
    size = max(1, width // factor), max(1, height // factor)
    boxes = _component_boxes(cv2.resize(infrared, size, interpolation=cv2.INTER_AREA).astype(np.uint8))
    if len(boxes) == 0:
        return boxes
    blocks = [boxes[first : first + _BLOCK] for first in range(0, len(boxes), _BLOCK)]
    persistence = np.concatenate([_summed_overlap(block, boxes) for block in blocks])
    chosen: list[int] = []
    candidates = np.ones(len(boxes), dtype=bool)
    for index in np.argsort(-persistence, kind="stable"):
        if len(chosen) == count:
            break
        if candidates[index]:
            chosen.append(int(index))
            candidates &= _overlaps(boxes[index : index + 1], boxes)[0] <= _OTHER_IOU
    warm = boxes[chosen] * np.tile([width / size[0], height / size[1]], 2)
    warm.setflags(write=False)  # it is handed out again
    return warm


def for_warm_places(settings: GeneratorSettings) -> GeneratorSettings:
    """The settings of the filters for masks of warm places.

    A model's estimate of a mask's quality, and its stability, say little about things of a few pixels. Where the border
    of a warm place and the mask agree, there are two witnesses; so `fitting_candidates` decides instead.
    """
    stability = min(settings.stability_score_thresh, _LEAST_STABILITY)
    return dataclasses.replace(settings, pred_iou_thresh=0.0, stability_score_thresh=stability, adaptive_points=False)


def fitting_candidates(found: Candidates) -> Candidates:
    """The masks whose boxes fit the boxes that SAM was prompted with."""
    boxes = found.boxes.numpy() + np.array([0.0, 0.0, 1.0, 1.0])  # now with exclusive ends
    fits = _overlaps(boxes[:, None], found.prompts.numpy()[:, None])[:, 0, 0]
    return found.take(torch.from_numpy(np.flatnonzero(fits >= _FIT_IOU)))


def _component_boxes(infrared: ImageArray) -> Boxes:
    """Boxes around the connected components above each threshold, from the lowest threshold on."""
    parts = [np.zeros((0, 4))]
    for threshold in range(int(infrared.min()) + _STEP, int(infrared.max()) + 1, _STEP):
        above = (infrared >= threshold).astype(np.uint8)
        _, _, components, _ = cv2.connectedComponentsWithStats(above, connectivity=8)
        x, y, width, height, pixels = components[1:].T  # the first one is everything below the threshold
        fits = (pixels >= _MIN_PIXELS) & (pixels <= _MAX_SHARE * infrared.size)
        parts.append(np.stack([x, y, x + width, y + height], axis=1)[fits].astype(np.float64))
    return np.concatenate(parts)


def _summed_overlap(some: Boxes, boxes: Boxes) -> npt.NDArray[np.float64]:
    """For each of `some` boxes the sum of its overlaps with those of `boxes` that are boxes of the same thing."""
    overlaps = _overlaps(some, boxes)
    return np.asarray((overlaps * (overlaps > _SAME_IOU)).sum(axis=1))


def _overlaps(some: npt.NDArray[np.floating], others: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """IoU of N with M boxes: ...xNx4 and ...xMx4 -> float64 ...xNxM."""
    x0, y0, x1, y1 = (some[..., :, None, side] for side in range(4))
    u0, v0, u1, v1 = (others[..., None, :, side] for side in range(4))
    width, height = np.minimum(x1, u1) - np.maximum(x0, u0), np.minimum(y1, v1) - np.maximum(y0, v0)
    common = np.maximum(width, 0) * np.maximum(height, 0)
    return np.asarray(common / ((x1 - x0) * (y1 - y0) + (u1 - u0) * (v1 - v0) - common))
