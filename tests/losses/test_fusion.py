import inspect

import pytest
import torch
from torch import Tensor

from thfuse_sam.errors import UsageError
from thfuse_sam.losses import DEFAULT_WEIGHTS, LOSS_PARTS, FusionLoss


@pytest.fixture
def batch() -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    ir, vi = torch.rand(2, 2, 1, 32, 32)
    labels = torch.randint(0, 4, (2, 4, 4)).repeat_interleave(8, 1).repeat_interleave(8, 2)
    warm = (..., slice(10, 15), slice(10, 15))  # a small segment, which the part `contrast` asks for
    vi_labels = labels.flip(0)
    labels[warm] = 4
    ir[warm] = 0.9 + ir[warm] / 10
    return ir, vi, labels, vi_labels


def test_total_is_the_weighted_sum_of_the_named_parts(batch: tuple[Tensor, ...]) -> None:
    parts = FusionLoss()(torch.rand(2, 1, 32, 32), *batch)
    total = parts.pop("total")
    assert set(parts) == set(DEFAULT_WEIGHTS)
    assert all(part.dim() == 0 and part > 0 for part in parts.values())
    torch.testing.assert_close(total, sum(DEFAULT_WEIGHTS[name] * part for name, part in parts.items()))


@pytest.mark.parametrize("part", list(DEFAULT_WEIGHTS))
def test_each_part_moves_the_fused_image_and_can_be_lowered(part: str, batch: tuple[Tensor, ...]) -> None:
    loss = FusionLoss({part: 1.0})
    fused = torch.full((2, 1, 32, 32), 0.5, requires_grad=True)
    optimizer = torch.optim.Adam([fused], lr=0.02)
    values = []
    for _ in range(20):
        optimizer.zero_grad()
        total = loss(fused, *batch)["total"]
        total.backward()
        assert fused.grad is not None
        assert fused.grad.isfinite().all()
        optimizer.step()
        values.append(total.item())
    assert values[-1] < 0.9 * values[0]


def test_without_labels_the_region_parts_are_zero(batch: tuple[Tensor, ...]) -> None:
    parts = FusionLoss()(torch.rand(2, 1, 32, 32), *batch[:2])
    assert parts["region"] == 0
    assert parts["region_edges"] == 0
    assert parts["total"] > 0


def test_every_part_needs_inputs_that_there_are() -> None:
    inputs = {*inspect.signature(FusionLoss.forward).parameters, "perceptual"} - {"self"}
    assert all(set(part.needs) <= inputs for part in LOSS_PARTS.values())


def test_a_perceptual_part_of_no_weight_needs_no_network(batch: tuple[Tensor, ...]) -> None:
    parts = FusionLoss({"ssim": 1.0, "perceptual": 0.0})(torch.rand(2, 1, 32, 32), *batch)
    assert parts["perceptual"] == 0 and parts["total"] == parts["ssim"]


def test_parts_that_are_not_named_are_not_computed(batch: tuple[Tensor, ...]) -> None:
    assert set(FusionLoss({"ssim": 2})(torch.rand(2, 1, 32, 32), *batch)) == {"total", "ssim"}


def test_half_precision_inputs_give_single_precision_losses(batch: tuple[Tensor, ...]) -> None:
    ir, vi, *labels = batch
    fused = torch.rand(2, 1, 32, 32).to(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        parts = FusionLoss()(fused, ir, vi, *labels)
    assert all(part.dtype == torch.float32 for part in parts.values())
    expected = FusionLoss()(fused.float(), ir, vi, *labels)
    torch.testing.assert_close(parts["total"], expected["total"])


@pytest.mark.parametrize(
    ("weights", "named"),
    [
        ({"beauty": 1.0}, "beauty"),
        ({"perceptual": 1.0}, "`vgg_weights`"),
        ({"ssim": -1.0}, "ssim=-1.0"),
        ({"ssim": float("nan")}, "ssim=nan"),
        ({"ssim": 0.0}, "nothing to train on"),
        ({}, "nothing to train on"),
    ],
)
def test_weights_that_cannot_work_are_usage_errors(weights: dict[str, float], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        FusionLoss(weights)
