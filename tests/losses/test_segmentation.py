"""Each loss against an implementation that shares no code with it."""

import math

import pytest
import torch
from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from thfuse_sam.errors import UsageError
from thfuse_sam.losses.segmentation import (
    SegmentationLoss,
    bce_loss,
    dice_loss,
    focal_loss,
    iou_head_loss,
    mask_iou,
    soft_iou_loss,
)


@pytest.fixture
def case() -> tuple[Tensor, Tensor, Tensor]:
    """Logits 3x6x8, soft targets, and a validity map that leaves two rows out."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn((3, 6, 8), generator=generator) * 3
    target = (torch.rand((3, 6, 8), generator=generator) > 0.6).float()
    target[0, 0, 0] = 0.25
    valid = torch.ones(6, 8)
    valid[4:] = 0
    return logits, target, valid


def test_focal_equals_torchvision(case: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, target, valid = case
    hard = target.round()
    for alpha, gamma in ((0.25, 2.0), (0.8, 1.5), (-1, 2.0), (0.5, 0.0)):
        expected = sigmoid_focal_loss(logits[:, :4], hard[:, :4], alpha, gamma).mean((1, 2))
        assert torch.allclose(focal_loss(logits, hard, valid, alpha, gamma), expected, atol=1e-6)


def test_bce_equals_torch_on_the_valid_pixels(case: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, target, valid = case
    expected = [torch.nn.BCEWithLogitsLoss()(a[:4], b[:4]) for a, b in zip(logits, target, strict=True)]
    assert torch.allclose(bce_loss(logits, target, valid), torch.stack(expected), atol=1e-6)


def test_dice_and_soft_iou_by_hand(case: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, target, valid = case
    for index in range(3):
        both = one = other = 0.0
        for y in range(4):
            for x in range(8):
                p = 1 / (1 + math.exp(-float(logits[index, y, x])))
                t = float(target[index, y, x])
                both, one, other = both + p * t, one + p, other + t
        assert float(dice_loss(logits, target, valid)[index]) == pytest.approx(
            1 - (2 * both + 1) / (one + other + 1), abs=1e-5
        )
        assert float(soft_iou_loss(logits, target, valid)[index]) == pytest.approx(
            1 - (both + 1) / (one + other - both + 1), abs=1e-5
        )


def test_iou_head_error_by_hand() -> None:
    logits = torch.tensor([[[9.0, 9.0, -9.0, -9.0]]], requires_grad=True)
    target = torch.tensor([[[1.0, 0.0, 1.0, 0.0]]])
    estimate = torch.tensor([0.75], requires_grad=True)
    valid = torch.ones(1, 4)
    assert mask_iou(logits, target, valid).tolist() == pytest.approx([1 / 3])
    loss = iou_head_loss(estimate, logits, target, valid)
    assert loss.tolist() == pytest.approx([(0.75 - 1 / 3) ** 2])
    loss.sum().backward()
    assert logits.grad is None and estimate.grad is not None
    nothing = torch.full((1, 1, 4), -9.0)
    assert mask_iou(nothing, torch.zeros(1, 1, 4), valid).tolist() == [1.0]


def test_losses_are_finite_and_have_slopes_far_from_the_truth() -> None:
    logits = torch.tensor([[[80.0, -80.0], [80.0, -80.0]]], requires_grad=True)
    target = torch.tensor([[[0.0, 1.0], [0.0, 1.0]]])
    valid = torch.ones(2, 2)
    total = sum(f(logits, target, valid).sum() for f in (focal_loss, bce_loss))
    total.backward()
    assert math.isfinite(total.item()) and float(logits.grad.abs().min()) > 0.01


def test_sum_and_parts(case: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, target, valid = case
    loss = SegmentationLoss({"dice": 2.0, "focal": 3.0, "bce": 5.0, "iou": 7.0, "iou_head": 11.0}, alpha=0.7, gamma=1.0)
    parts = loss(logits[:, None], torch.full((3, 1), 0.4), target, valid)
    expected = (
        2 * dice_loss(logits, target, valid)
        + 3 * focal_loss(logits, target, valid, 0.7, 1.0)
        + 5 * bce_loss(logits, target, valid)
        + 7 * soft_iou_loss(logits, target, valid)
        + 11 * iou_head_loss(torch.full((3,), 0.4), logits, target, valid)
    )
    assert torch.allclose(parts["total"], expected, atol=1e-5)
    assert set(parts) == {"total", "dice", "focal", "bce", "iou", "iou_head", "mask_iou"}


def test_of_several_masks_the_best_one_is_trained_and_every_estimate() -> None:
    target = torch.zeros(1, 4, 4)
    target[0, :2] = 1
    right, wrong = (target * 2 - 1) * 4, (1 - target * 2) * 4
    logits = torch.stack([wrong, right, wrong], dim=1).requires_grad_()
    estimates = torch.zeros(1, 3, requires_grad=True)
    parts = SegmentationLoss()(logits, estimates, target, torch.ones(4, 4))
    assert parts["mask_iou"].tolist() == [1.0]
    parts["total"].sum().backward()
    slopes = logits.grad.abs().sum((0, 2, 3))
    assert slopes[1] > 0 and slopes[0] == slopes[2] == 0
    # Of the wrong masks the true IoU is 0, which is what the estimates say.
    assert estimates.grad.tolist()[0] == pytest.approx([0, -2 / 3, 0])


@pytest.mark.parametrize(
    ("weights", "named"),
    [({"iou_head": 1.0}, "no loss of the mask"), ({"dice": 1.0, "focus": 1.0}, "loss part 'focus' is unknown"),
     ({"dice": 1.0, "focal": -1.0}, "loss weight focal=-1.0"), ({"dice": math.inf}, "loss weight dice=inf")],
)  # fmt: skip
def test_weights_that_cannot_work_are_usage_errors(weights: dict[str, float], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        SegmentationLoss(weights)
