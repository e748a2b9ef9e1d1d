"""How well a SAM finds labelled objects from a point inside them."""

import numpy as np
from numpy.typing import NDArray
from segment_anything import SamPredictor
from segment_anything.modeling import Sam

from thfuse_sam.datasets.prompts import interior_point
from thfuse_sam.metrics.segmentation import mask_iou


def interior_point_iou(
    sam: Sam, image: NDArray[np.uint8], labels: NDArray[np.integer], min_area: float = 0.002
) -> list[float]:
    """IoU at the image's own size from one interior point, best of three masks, for each label.

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
        masks, _, _ = predictor.predict(np.array([interior_point(target)]), np.array([1]), multimask_output=True)
        ious.append(max(mask_iou(mask, target) for mask in masks))
    return ious
