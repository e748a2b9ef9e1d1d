"""Warm places of an infrared image, as prompts for SAM.

A grid of points has one point every few dozen pixels, and misses what is smaller: people far off, above all. In an
infrared image such things are brighter than what is around them. At every threshold, the pixels above it fall into
connected components; the box around a warm thing that has a sharp border stays nearly the same over many thresholds,
while boxes of shading and noise change from one threshold to the next. The idea is that of maximally stable extremal
regions (Matas et al., "Robust wide baseline stereo from maximally stable extremal regions", BMVC 2002), with boxes in
place of areas, because a box is what SAM is prompted with.

A person's head and legs are often two warm places with a cold coat between them. So places are looked for twice: in the
image, and after its dark gaps between warm things one above the other were filled.
"""

import dataclasses
import functools
import itertools

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from thfuse_sam.arrays import ImageArray, Size, size_of
from thfuse_sam.masks.format import paint_order
from thfuse_sam.metrics.targets import box_ious
from thfuse_sam.options.generator import GeneratorSettings
from thfuse_sam.sam.candidates import Candidates

_LONGER_SIDE = 320  # pixels; images are reduced by a whole factor, to this length or up to twice as much
_STEP = 3  # grey levels from one threshold to the next
_MIN_PIXELS = 10  # of a component in the reduced image; smaller ones are mostly noise
_MAX_SHARE = 0.08  # of the image's pixels in a component; the grid finds what is larger
_SAME_IOU = 0.7  # boxes of two thresholds that overlap by more are boxes of the same thing
_OTHER_IOU = 0.6  # of two boxes that overlap by more, only that which stays over more thresholds is returned
_MOST_BOXES = 6000  # of an image; where there are more, the small ones are noise, and all are compared with all
_GAP = 1 / 7  # of the image's height; dark gaps in upright things that are filled
_BLOCK = 512  # boxes that are compared with all others at once
_FIT_IOU = 0.4  # a mask whose box overlaps by less with the box that it was prompted with is of something else
_LEAST_STABILITY = 0.5  # of a mask of a warm place; SAM's own threshold is 0.95
_UPRIGHT = (1.0, 2.5)  # height of a box, in widths: from the second value on it may be that of one person
_TALLEST = 5.0  # widths; what is taller is a pole
_UPRIGHT_BONUS = 0.15  # in predicted IoU; parts of people, and groups, are often rated a little higher than people
_FIT_BONUS = 0.15  # in predicted IoU, for a box that is the one that SAM was prompted with
_POINT_FIT = 0.7  # that is counted for masks of points, so that they rank as high as the average mask of a box
_WHOLE_IOU = 0.7  # a mask is taken apart if the box of what smaller ones leave of it overlaps by less with its own

Boxes = npt.NDArray[np.float64]


def warm_boxes(infrared: ImageArray, count: int) -> Boxes:
    """Boxes around up to `count` warm, well-bounded places of an infrared image (uint8 HxW, warm is bright).

    Boxes may lie inside one another. Returns float64 Nx4 (x0, y0, x1, y1, ends exclusive), those that stay over most
    thresholds first, in turn of the image and of the image with filled gaps.
    """
    return _warm_boxes(infrared.tobytes(), size_of(infrared), count)


@functools.lru_cache(maxsize=1)  # the infrared and the visible image of a pair come one after the other
def _warm_boxes(pixels: bytes, shape: Size, count: int) -> Boxes:
    infrared = np.frombuffer(pixels, dtype=np.uint8).reshape(shape)
    height, width = shape
    factor = max(1, max(height, width) // _LONGER_SIDE)
    size = max(1, width // factor), max(1, height // factor)
    reduced = cv2.resize(infrared, size, interpolation=cv2.INTER_AREA).astype(np.uint8)
    gap = np.ones((max(1, round(_GAP * size[1])), 1), np.uint8)
    closed = cv2.morphologyEx(reduced, cv2.MORPH_CLOSE, gap).astype(np.uint8)
    rankings = [_distinct(_most_persistent_first(_component_boxes(image)), count) for image in (reduced, closed)]
    in_turn = [box for ranked in itertools.zip_longest(*rankings) for box in ranked if box is not None]
    warm = _distinct(np.array(in_turn).reshape(-1, 4), count) * np.tile([width / size[0], height / size[1]], 2)
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
    return found.take((_fits(found) >= _FIT_IOU).nonzero()[:, 0])


def ratings(found: Candidates) -> Tensor:
    """By what masks are ranked beside masks of warm places: the predicted IoU, and two bonuses.

    One is for what stands upright like a person, the other for masks that agree with the border of a warm place.
    Without any mask of a warm place, there are none.
    """
    of_boxes = _of_boxes(found)
    if not of_boxes.any():
        return found.predicted_ious
    width, height = (found.boxes[:, 2:] - found.boxes[:, :2] + 1).unbind(1)
    upright = ((height / width - _UPRIGHT[0]) / (_UPRIGHT[1] - _UPRIGHT[0])).clamp(0, 1) * (height <= _TALLEST * width)
    fits = torch.where(of_boxes, _fits(found), _POINT_FIT)
    return found.predicted_ious + _UPRIGHT_BONUS * upright + _FIT_BONUS * fits


def without_parts(found: Candidates, size: Size) -> Candidates:
    """The masks of an image of (height, width) `size` without those that would take a better one apart.

    In a label map smaller segments are painted over larger ones. Where that would leave of a mask only a part of its
    extent, and it is rated as high as each of the smaller ones, those go. Small things inside of large ones stay.
    Without any mask of a warm place, nothing goes.
    """
    if not _of_boxes(found).any():
        return found
    masks = [packed.unpack(size) for packed in found.masks]
    areas = [int(np.count_nonzero(mask)) for mask in masks]
    boxes, rated = found.boxes.numpy() + np.array([0, 0, 1, 1]), ratings(found).numpy()
    kept = paint_order(areas)
    for whole in list(kept):
        if whole not in kept or areas[whole] > _MAX_SHARE * size[0] * size[1]:
            continue
        x0, y0, x1, y1 = boxes[whole]
        own = masks[whole][y0:y1, x0:x1]
        smaller = kept[kept.index(whole) + 1 :]
        common = {index: own & masks[index][y0:y1, x0:x1] for index in smaller if _touch(boxes[whole], boxes[index])}
        left = own & ~np.logical_or.reduce([np.zeros_like(own), *common.values()])
        parts = [index for index, mask in common.items() if 2 * np.count_nonzero(mask) >= areas[index]]
        if parts and rated[whole] >= rated[parts].max() and _box_share(left) < _WHOLE_IOU:
            kept = [index for index in kept if index not in parts]
    return found.take(torch.tensor(sorted(kept), dtype=torch.int64))


def _of_boxes(found: Candidates) -> Tensor:
    """Which masks SAM was prompted with a box for, not with a point: bool."""
    return (found.prompts[:, :2] < found.prompts[:, 2:]).any(dim=1)


def _fits(found: Candidates) -> Tensor:
    """IoU of the box of each mask with the box that SAM was prompted with; of a point it is 0."""
    boxes = found.boxes.numpy() + np.array([0.0, 0.0, 1.0, 1.0])  # now with exclusive ends
    return torch.from_numpy(box_ious(boxes[:, None], found.prompts.numpy()[:, None])[:, 0, 0]).float()


def _touch(one: npt.NDArray[np.int64], other: npt.NDArray[np.int64]) -> bool:
    """Whether two boxes with exclusive ends have a pixel in common."""
    return bool((np.maximum(one[:2], other[:2]) < np.minimum(one[2:], other[2:])).all())


def _box_share(mask: npt.NDArray[np.bool_]) -> float:
    """The share of an array HxW that the box around its True pixels covers."""
    if not mask.any():
        return 0.0
    width, height = (int(np.ptp(np.flatnonzero(mask.any(axis)))) + 1 for axis in (0, 1))
    return width * height / mask.size


def _component_boxes(infrared: ImageArray) -> Boxes:
    """Boxes around the connected components above each threshold, the largest `_MOST_BOXES`, from the lowest threshold
    on.
    """
    parts, areas = [np.zeros((0, 4))], [np.zeros(0)]
    # Labels of 16 bits take a third of the time. There are at most about as many as fourths of the pixels.
    label_type = cv2.CV_16U if infrared.size < 2**17 else cv2.CV_32S
    for threshold in range(int(infrared.min()) + _STEP, int(infrared.max()) + 1, _STEP):
        above = (infrared >= threshold).astype(np.uint8)
        _, _, components, _ = cv2.connectedComponentsWithStats(above, connectivity=8, ltype=label_type)
        x, y, width, height, pixels = components[1:].T  # the first one is everything below the threshold
        fits = (pixels >= _MIN_PIXELS) & (pixels <= _MAX_SHARE * infrared.size)
        parts.append(np.stack([x, y, x + width, y + height], axis=1)[fits].astype(np.float64))
        areas.append(pixels[fits])
    largest = np.argsort(-np.concatenate(areas), kind="stable")[:_MOST_BOXES]
    return np.concatenate(parts)[np.sort(largest)]


def _most_persistent_first(boxes: Boxes) -> Boxes:
    """Boxes in the order of how many thresholds they stay over."""
    blocks = [boxes[first : first + _BLOCK] for first in range(0, len(boxes), _BLOCK)]
    persistence = np.concatenate([np.zeros(0), *(_summed_overlap(block, boxes) for block in blocks)])
    return boxes[np.argsort(-persistence, kind="stable")]


def _distinct(boxes: Boxes, count: int) -> Boxes:
    """The first `count` boxes, in their order, of which no two overlap by more than `_OTHER_IOU`."""
    chosen: list[int] = []
    candidates = np.ones(len(boxes), dtype=bool)
    while len(chosen) < count and candidates.any():
        chosen.append(int(candidates.argmax()))
        candidates &= box_ious(boxes[chosen[-1:]], boxes)[0] <= _OTHER_IOU
    return boxes[chosen]


def _summed_overlap(some: Boxes, boxes: Boxes) -> npt.NDArray[np.float64]:
    """For each of `some` boxes the sum of its overlaps with those of `boxes` that are boxes of the same thing."""
    overlaps = box_ious(some, boxes)
    return np.asarray((overlaps * (overlaps > _SAME_IOU)).sum(axis=1))
