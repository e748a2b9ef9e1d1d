"""Full instance masks of one image as JSON, for those who need what a label map loses: overlaps.

::

    {"height": 480, "width": 640, "instances": [
      {"label": 1, "segmentation": {"size": [480, 640], "counts": "..."}, "area": 5123, "bbox": [x, y, width, height],
       "predicted_iou": 0.93, "stability_score": 0.97, "point_coords": [[x, y]]}]}

`segmentation` is COCO's compressed run-length encoding, which `pycocotools.mask.decode` reads; `label` is the number
that the instance has in the label map beside the file.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from thfuse_sam.arrays import Mask, Size
from thfuse_sam.errors import MaskReadError
from thfuse_sam.masks.format import as_read_error, paint_order
from thfuse_sam.masks.rle import decode_rle, encode_rle


@dataclass(frozen=True)
class Instance:
    """One segment of an image, as a mask generator gives it. Coordinates are pixels of the whole image."""

    mask: Mask  # HxW
    bbox: tuple[int, int, int, int]  # x, y of the first pixel; width, height as SAM counts: last minus first pixel
    predicted_iou: float  # the model's own estimate of the mask's quality
    stability_score: float  # IoU of the masks at a raised and a lowered threshold, in [0, 1]
    point: tuple[float, float]  # x, y of the prompt
    area: int  # pixels


def without(instances: Sequence[Instance], missing: Mask | None) -> list[Instance]:
    """The instances less the pixels `missing` (bool HxW; None: no pixel); one of which nothing is left is dropped."""
    if missing is None:
        return list(instances)
    kept = []
    for instance in instances:
        mask = instance.mask & ~missing
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if rows.size:
            left, top = int(columns[0]), int(rows[0])
            bbox = left, top, int(columns[-1]) - left, int(rows[-1]) - top
            kept.append(replace(instance, mask=mask, bbox=bbox, area=int(np.count_nonzero(mask))))
    return kept


def encode_instances(instances: Sequence[Instance], shape: Size) -> str:
    """The content of the instance file of an image of (height, width) `shape`, in the order of the labels."""
    order = paint_order([int(np.count_nonzero(instance.mask)) for instance in instances])
    records = [_record(label, instances[index], shape) for label, index in enumerate(order, start=1)]
    content = {"height": shape[0], "width": shape[1], "instances": records}
    return json.dumps(content, separators=(",", ":")) + "\n"


def read_instances(path: Path, shape: Size) -> list[dict[str, Any]]:
    """The records of the instance file of an image of (height, width) `shape`, in the order of their labels.

    Each record has its `mask` (bool HxW) besides what is stored. Raises MaskReadError if the file is missing,
    damaged, or of another size.
    """
    with as_read_error(path, "no such file; run `precompute()` with `save_instances`"):
        content = path.read_bytes()
    return decode_instances(content, str(path), shape)


def decode_instances(content: bytes, location: str, shape: Size) -> list[dict[str, Any]]:
    """As `read_instances`, from the content of the file; `location` names it in errors."""
    try:
        records = [dict(record) for record in json.loads(content.decode("utf-8"))["instances"]]
        for record in records:
            record["mask"] = decode_rle(record["segmentation"], shape)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise MaskReadError(f"{location}: damaged ({error}); run `precompute()` with `save_instances` again") from error
    return records


def _record(label: int, instance: Instance, shape: Size) -> dict[str, Any]:
    if instance.mask.shape != shape:
        raise ValueError(f"an instance mask has shape {instance.mask.shape}, but the image has {shape}")
    return {
        "label": label,
        "segmentation": encode_rle(instance.mask),
        "area": int(instance.area),
        "bbox": [float(value) for value in instance.bbox],
        "predicted_iou": float(instance.predicted_iou),
        "stability_score": float(instance.stability_score),
        "point_coords": [[float(value) for value in instance.point]],
    }
