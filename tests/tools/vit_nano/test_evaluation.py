"""IoU from one point and from a box."""

import numpy as np
import torch

from thfuse_sam.sam.nano import build_vit_nano
from tools.vit_nano.evaluation import prompted_ious

SIZE = 64


def test_prompted_ious_count_large_objects_only() -> None:
    torch.manual_seed(0)
    labels = np.zeros((48, 64), np.int32)
    labels[10:30, 10:30] = 1
    labels[40, 60] = 2
    ious = prompted_ious(build_vit_nano(SIZE).eval(), np.zeros((48, 64, 3), np.uint8), labels)
    assert len(ious) == 1 and 0 <= ious[0].point <= 1 and 0 <= ious[0].box <= 1
