"""Masks of single images."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from thfuse_sam.datasets.prompts import ObjectPrompt
from thfuse_sam.finetune.prediction import automatic_predictor, prompted_predictor
from thfuse_sam.masks.instances import Instance
from thfuse_sam.sam.nano import build_vit_nano

IMAGE = np.zeros((4, 6, 3), np.uint8)
MISSING = np.zeros((4, 6), bool)
MISSING[:, :3] = True


def instance(mask: npt.NDArray[np.bool_]) -> Instance:
    return Instance(mask, (0, 0, 1, 1), 0.9, 0.9, (0.0, 0.0), int(mask.sum()))


def test_masks_of_everything_leave_out_pixels_without_data_and_what_is_empty_then() -> None:
    large, small = np.zeros((4, 6), bool), np.zeros((4, 6), bool)
    large[:, 1:4], small[:2, 4:] = True, True
    generator: Any = SimpleNamespace(
        generate=lambda image, infrared: [instance(MISSING), instance(large), instance(small)]
    )
    predict = automatic_predictor(generator, "vi")
    assert [segment.area for segment in predict(IMAGE, None)] == [12, 12, 4]
    segments = predict(IMAGE, MISSING)
    assert [segment.area for segment in segments] == [4, 4], "in the order of what is left"
    assert not any((segment.mask & MISSING).any() for segment in segments)


def test_prompted_masks_stay_one_for_each_prompt() -> None:
    torch.manual_seed(0)
    sam = build_vit_nano(64).eval()
    sam.mask_threshold = -1e9  # every pixel is inside
    predict = prompted_predictor(
        sam, [ObjectPrompt(box=np.array([0.0, 0, 2, 2])), ObjectPrompt(box=np.array([1.0, 1, 5, 3]))]
    )
    assert [segment.area for segment in predict(IMAGE, None)] == [24, 24]
    assert [segment.area for segment in predict(IMAGE, MISSING)] == [12, 12]
    assert [segment.area for segment in predict(IMAGE, np.ones((4, 6), bool))] == [0, 0]
