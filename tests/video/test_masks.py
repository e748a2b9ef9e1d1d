"""Masks move with the picture between key frames."""

import numpy as np
import numpy.typing as npt

from tests.video.clips import scene
from thfuse_sam.images import luma
from thfuse_sam.video.masks import CarriedMasks, moved, places_before

_HEIGHT, _WIDTH = 96, 128


def _labels(shift: int) -> npt.NDArray[np.uint8]:
    labels = np.zeros((_HEIGHT, _WIDTH), np.uint8)
    labels[30:60, 20 + shift : 50 + shift] = 7
    return labels


def _iou(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> float:
    return float(((one > 0) & (other > 0)).sum() / ((one > 0) | (other > 0)).sum())


def test_masks_are_carried_by_the_flow_and_made_again_on_key_frames_and_cuts() -> None:
    calls: list[int] = []
    shift = 0

    def make(image: npt.NDArray[np.uint8], infrared: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        calls.append(shift)
        return _labels(shift)

    masks = CarriedMasks(make)
    for index in range(10):
        shift = 2 * index
        image = scene(shift, seed=6, height=_HEIGHT, width=_WIDTH)
        grey = luma(image)
        mask = masks.mask(image, grey, grey, is_key=index == 6, is_cut=index == 8)
        assert mask.carried == (index not in (0, 6, 8))
        assert (mask.places is None) == (index in (0, 8))
        assert _iou(mask.labels, _labels(shift)) > 0.8, index
    assert calls == [0, 12, 16]


def test_values_move_with_the_picture() -> None:
    before, now = (luma(scene(shift, seed=6, height=_HEIGHT, width=_WIDTH)) for shift in (0, 3))
    values = before.astype(np.float32)
    middle = np.s_[12:-12, 12:-12]
    error = np.abs(moved(values, places_before(now, before)) - now)[middle].mean()
    assert error < 0.3 * np.abs(values - now)[middle].mean()
