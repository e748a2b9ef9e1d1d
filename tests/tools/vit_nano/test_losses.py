"""The mask loss of training vit_nano."""

import pytest
import torch

from tools.vit_nano.losses import mask_loss


def test_mask_loss_prefers_the_right_mask_and_small_ones_count() -> None:
    target = torch.zeros(32, 32)
    target[4:7, 4:7] = 1
    right, empty = (target * 2 - 1) * 9, torch.full((32, 32), -9.0)
    assert mask_loss(right, target) < 0.1
    assert mask_loss(empty, target) > 2


def test_mask_loss_without_entropy_is_dice() -> None:
    target = torch.zeros(32, 32)
    target[:16] = 1
    assert mask_loss(torch.zeros(32, 32), target, 0.0).item() == pytest.approx(1 - 513 / 1025)  # 0.5 everywhere
    assert mask_loss(torch.zeros(32, 32), target) > mask_loss(torch.zeros(32, 32), target, 0.1)
