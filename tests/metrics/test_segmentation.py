"""Agreement of masks, against hand computations and pycocotools."""

import contextlib
import io
import math

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scipy import ndimage

from thfuse_sam.metrics.segmentation import ScoredMask, boundary_iou, coco_average_precision, mask_dice, mask_iou


def box(top: int, left: int, bottom: int, right: int, size: int = 40) -> np.ndarray:
    mask = np.zeros((size, size), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def test_iou_and_dice_by_hand() -> None:
    one, other = box(0, 0, 10, 10), box(0, 5, 10, 15)
    assert mask_iou(one, other) == pytest.approx(50 / 150)
    assert mask_dice(one, other) == pytest.approx(100 / 200)
    empty = np.zeros((40, 40), bool)
    assert mask_iou(empty, empty) == mask_dice(empty, empty) == boundary_iou(empty, empty) == 1
    assert mask_iou(one, empty) == mask_dice(one, empty) == 0
    with pytest.raises(ValueError, match="cannot be compared"):
        mask_iou(one, np.zeros((2, 2), bool))


def test_boundary_iou_against_distances() -> None:
    random = np.random.default_rng(0)
    blobs = [ndimage.gaussian_filter(random.random((60, 80)), 4) > 0.5 for _ in range(2)]
    width = round(0.02 * math.hypot(60, 80))
    bands = []
    for blob in blobs:
        depth = ndimage.distance_transform_cdt(np.pad(blob, 1), metric="chessboard")[1:-1, 1:-1]
        bands.append(blob & (depth <= width))
    assert boundary_iou(*blobs) == pytest.approx(mask_iou(*bands))
    assert 0 < boundary_iou(*blobs) < 1


def test_boundary_iou_feels_what_iou_does_not() -> None:
    wanted = box(4, 4, 196, 196, 200)
    shifted = box(6, 6, 198, 198, 200)
    assert mask_iou(shifted, wanted) > 0.9 > 0.75 > boundary_iou(shifted, wanted)


def test_average_precision_by_hand() -> None:
    wanted = box(0, 0, 10, 10)
    six_tenths = box(0, 0, 10, 6)
    values = coco_average_precision([ScoredMask.of("a", six_tenths, wanted, 0.9)])
    assert values == pytest.approx({"AP": 0.3, "AP50": 1.0, "AP75": 0.0})  # thresholds 0.50, 0.55, 0.60 of ten
    assert coco_average_precision([ScoredMask.of("a", wanted, wanted, 0.5)]) == pytest.approx(
        dict.fromkeys(values, 1.0)
    )
    assert all(math.isnan(value) for value in coco_average_precision([]).values())


def test_average_precision_equals_pycocotools() -> None:
    random = np.random.default_rng(1)
    masks, raw = [], []
    for image in "abc":
        for _ in range(4):
            top, left = random.integers(0, 20, 2)
            shift = int(random.integers(0, 5))
            wanted = box(top, left, top + 12, left + 9)
            raw.append((wanted, box(top + shift, left, top + 12 + shift, left + 9)))
            masks.append(
                ScoredMask.of(image, box(top + shift, left, top + 12 + shift, left + 9), wanted, float(random.random()))
            )
    ids = {"a": 1, "b": 2, "c": 3}

    def annotation(mask: np.ndarray, item: ScoredMask) -> dict:
        encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
        return {
            "image_id": ids[item.image],
            "category_id": 1,
            "segmentation": {"size": [40, 40], "counts": encoded["counts"].decode()},
            "area": int(mask.sum()),
            "bbox": [0.0, 0.0, 1.0, 1.0],
        }

    truth = COCO()
    truth.dataset = {
        "images": [{"id": number, "height": 40, "width": 40} for number in ids.values()],
        "annotations": [
            {**annotation(both[0], item), "id": k, "iscrowd": 0}
            for k, (item, both) in enumerate(zip(masks, raw, strict=True), start=1)
        ],
        "categories": [{"id": 1}],
        "info": {},
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluation = COCOeval(
            truth,
            truth.loadRes([{**annotation(b[1], m), "score": m.score} for m, b in zip(masks, raw, strict=True)]),
            "segm",
        )
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    expected = dict(zip(("AP", "AP50", "AP75"), evaluation.stats[:3].tolist(), strict=True))
    assert coco_average_precision(masks) == pytest.approx(expected)
    assert 0 < expected["AP"] < 1
