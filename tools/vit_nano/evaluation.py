"""How well a SAM finds labelled objects from a point inside them or a box around them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from segment_anything import SamPredictor
from segment_anything.modeling import Sam

from thfuse_sam.datasets.prompts import interior_point
from thfuse_sam.datasets.segmentation.sample import mask_box
from thfuse_sam.metrics.segmentation import mask_iou


@dataclass(frozen=True)
class ObjectIou:
    """IoU of one object's masks with its label."""

    point: float  # best of three masks from the interior point
    box: float  # the one mask from the box


def prompted_ious(
    sam: Sam, image: NDArray[np.uint8], labels: NDArray[np.integer], min_area: float = 0.002
) -> list[ObjectIou]:
    """IoUs at the image's own size for each label.

    Args:
        image: uint8, HxWx3, RGB.
        labels: HxW; 0 is not an object.
        min_area: fraction of the image; smaller objects are left out.
    """
    predictor = SamPredictor(sam)
    predictor.set_image(image)
    ious = []
    for label in np.unique(labels[labels > 0]):
        target = labels == label
        if target.mean() < min_area:
            continue
        point = np.array([interior_point(target)])
        by_point, _, _ = predictor.predict(point, np.array([1]), multimask_output=True)
        by_box, _, _ = predictor.predict(box=mask_box(target), multimask_output=False)
        ious.append(ObjectIou(max(mask_iou(mask, target) for mask in by_point), mask_iou(by_box[0], target)))
    return ious
