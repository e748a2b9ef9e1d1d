import pytest
import torch
from torch import Tensor

from thfuse_sam.losses.contrast import contrast_loss, missing_contrast
from thfuse_sam.masks.segments import find_segments

FLAT = torch.full((2, 1, 96, 96), 0.3)


@pytest.fixture
def labels() -> Tensor:
    result = torch.zeros(2, 96, 96, dtype=torch.int64)
    result[0, 28:38, 20:30] = 1
    result[0, 8:13, 40:45] = 2
    return result


def scene(labels: Tensor, contrast: float, number: int | None = None) -> Tensor:
    inside = labels > 0 if number is None else labels == number
    return FLAT + contrast * inside[:, None]


def test_it_is_the_share_of_the_contrast_that_is_lacking(labels: Tensor) -> None:
    ir = scene(labels, 0.4)
    for kept in (0.0, 0.25, 1.0, 1.2):
        # The second image has no segments and counts as 0.
        loss = contrast_loss(scene(labels, 0.4 * kept), ir, FLAT, labels)
        assert float(loss) == pytest.approx(max(1 - kept, 0) / 2, abs=1e-5)


def test_small_segments_count_like_large_ones(labels: Tensor) -> None:
    ir = scene(labels, 0.4)
    without_large, without_small = (contrast_loss(scene(labels, 0.4, number), ir, FLAT, labels) for number in (2, 1))
    torch.testing.assert_close(without_large, without_small)
    assert without_large > 0.2


def test_only_what_is_warm_is_asked_for(labels: Tensor) -> None:
    for in_ir, in_vi in ((-0.2, 0.0), (0.2, -0.3), (0.07, -0.12), (0.0, 0.3)):
        ir, vi = scene(labels, in_ir), scene(labels, in_vi)
        assert contrast_loss(FLAT, ir, vi, labels) == 0
    assert contrast_loss(FLAT, scene(labels, 0.2), FLAT, torch.zeros_like(labels)) == 0
    assert contrast_loss(FLAT, scene(labels, 0.2), FLAT, None) == 0


def test_a_part_of_something_warm_is_not_asked_for(labels: Tensor) -> None:
    ir = scene(labels, 0.4)
    assert contrast_loss(FLAT, ir, FLAT, labels) > 0.4
    ir[0, 0, 28:96, :70] = 0.7  # a roof, at whose edge the first segment lies
    labels[labels == 2] = 0
    assert contrast_loss(FLAT, ir, FLAT, labels) == 0


def test_what_is_before_a_cold_sky_is_no_warmer_for_that(labels: Tensor) -> None:
    labels[labels == 2] = 0
    ir, vi = torch.full_like(FLAT, 0.5), FLAT.clone()
    sky = torch.zeros_like(FLAT, dtype=torch.bool)
    sky[..., :28, :] = sky[..., 30:] = True  # the segment is the corner of a wall
    ir[sky] = 0.1
    by_night = contrast_loss(FLAT, ir, vi, labels)
    vi[sky] = 0.5
    assert contrast_loss(FLAT, ir, vi, labels) == 0 < by_night


def test_texture_is_not_inverted_where_surroundings_leave_no_room(labels: Tensor) -> None:
    ir = scene(labels, 0.4)
    ir[0, 0, 28:38, 20:25] -= 0.2  # the segment's colder half
    fused = torch.where(labels > 0, 0.5, 0.99)[:, None]
    missing, _, _ = missing_contrast(fused, ir, FLAT, find_segments(labels), gain=1.0)
    assert 0 < missing[0, 0, 30, 22] <= missing[0, 0, 30, 27]


def test_gradients_raise_the_segment_and_lower_its_surroundings(labels: Tensor) -> None:
    fused = FLAT.clone().requires_grad_()
    contrast_loss(fused, scene(labels, 0.4), FLAT, labels).backward()
    assert fused.grad is not None and fused.grad.isfinite().all()
    assert (fused.grad[0, 0][labels[0] > 0] < 0).all()
    assert fused.grad[0, 0, 22, 25] > 0 and fused.grad[1].count_nonzero() == 0
