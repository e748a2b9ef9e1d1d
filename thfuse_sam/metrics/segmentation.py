"""How well predicted masks agree with target masks, those of the labels. Masks are bool HxW; higher is better."""

import collections
import contextlib
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from thfuse_sam.arrays import Mask, Size
from thfuse_sam.errors import UsageError
from thfuse_sam.masks.rle import encode_rle


def mask_iou(predicted: Mask, target: Mask) -> float:
    """Intersection over union, in [0, 1]; two empty masks agree (1). Raises ValueError where shapes differ."""
    _require_same_shape(predicted, target)
    union = np.count_nonzero(predicted | target)
    return np.count_nonzero(predicted & target) / union if union else 1.0


def mask_dice(predicted: Mask, target: Mask) -> float:
    """Dice coefficient 2|A and B| / (|A| + |B|), in [0, 1]; two empty masks agree (1)."""
    _require_same_shape(predicted, target)
    total = np.count_nonzero(predicted) + np.count_nonzero(target)
    return 2 * np.count_nonzero(predicted & target) / total if total else 1.0


def boundary_iou(predicted: Mask, target: Mask, dilation_ratio: float = 0.02) -> float:
    """IoU of the two masks' inner boundary bands (Cheng et al., "Boundary IoU", CVPR 2021), in [0, 1].

    A band is what lies within `dilation_ratio` times the image's diagonal (at least one pixel) of the mask's border;
    the image's edge is a border too.
    """
    _require_same_shape(predicted, target)
    width = max(1, round(dilation_ratio * math.hypot(*target.shape)))
    return mask_iou(_inner_band(predicted, width), _inner_band(target, width))


def _inner_band(mask: Mask, width: int) -> Mask:
    """The pixels of a mask that lie within `width` pixels of its border."""
    padded = np.pad(mask.astype(np.uint8), 1)
    eroded = cv2.erode(padded, np.ones((3, 3), np.uint8), iterations=width)
    return mask & ~eroded[1:-1, 1:-1].astype(bool)


@dataclass(frozen=True)
class ScoredMask:
    """A predicted mask and its target, run-length encoded, because there may be thousands of them."""

    image: str  # name; masks of one image are matched with each other
    size: Size  # height, width
    predicted: str  # COCO's compressed run-length encoding
    target: str
    score: float  # the model's own estimate of the mask's quality

    @classmethod
    def of(cls, image: str, predicted: Mask, target: Mask, score: float) -> "ScoredMask":
        """Encode two masks, bool HxW each."""
        _require_same_shape(predicted, target)
        height, width = target.shape
        return cls(image, (height, width), encode_rle(predicted)["counts"], encode_rle(target)["counts"], score)


def coco_average_precision(masks: Sequence[ScoredMask]) -> dict[str, float]:
    """COCO's average precision of masks, all of one category: "AP" (IoU 0.50 to 0.95), "AP50", "AP75", in [0, 1].

    NaN if `masks` is empty. A predicted mask may match any target of its image, as in COCO.

    Raises UsageError if `faster-coco-eval` is not installed.
    """
    names = ("AP", "AP50", "AP75")
    if not masks:
        return dict.fromkeys(names, math.nan)
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError:
        raise UsageError("COCO AP needs faster-coco-eval; pip install 'th-fuse-sam[finetune]'") from None
    image_ids = {name: number for number, name in enumerate(dict.fromkeys(item.image for item in masks), start=1)}
    sizes = {item.image: item.size for item in masks}
    truth = {
        "images": [
            {"id": number, "height": sizes[name][0], "width": sizes[name][1], "file_name": name}
            for name, number in image_ids.items()
        ],
        "annotations": [
            {**_annotation(item.target, item.size, image_ids[item.image]), "id": number, "iscrowd": 0}
            for number, item in enumerate(masks, start=1)
        ],
        "categories": [{"id": 1, "name": "object"}],
    }
    predicted = [
        {**_annotation(item.predicted, item.size, image_ids[item.image]), "score": item.score} for item in masks
    ]
    most_in_an_image = max(collections.Counter(item.image for item in masks).values())
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        labelled = COCO(truth)
        evaluation = COCOeval_faster(labelled, labelled.loadRes(predicted), "segm")
        evaluation.params.maxDets = [1, 10, max(100, most_in_an_image)]  # COCO's own bound is 100
        evaluation.evaluate()
        evaluation.accumulate()
    precision = np.asarray(evaluation.eval["precision"])  # IoU thresholds x recalls x categories x areas x maxDets
    values = precision[:, :, 0, 0, -1].mean(axis=1)
    return dict(zip(names, (float(values.mean()), float(values[0]), float(values[5])), strict=True))


def _annotation(counts: str, size: Size, image_id: int) -> dict[str, object]:
    encoded = {"size": list(size), "counts": counts}
    return {
        "image_id": image_id,
        "category_id": 1,
        "segmentation": encoded,
        "bbox": [float(value) for value in coco_mask.toBbox(encoded)],
        "area": int(coco_mask.area(encoded)),
    }


def _require_same_shape(predicted: Mask, target: Mask) -> None:
    if predicted.shape != target.shape:
        raise ValueError(f"masks of {predicted.shape} and {target.shape} cannot be compared")
