"""The pyramid target: what it keeps of each source."""

import pytest
import torch

from thfuse_sam.losses.pyramid import pyramid_loss, pyramid_target


def test_equal_sources_keep_detail_and_place() -> None:
    torch.manual_seed(0)
    x = 0.2 + 0.05 * torch.rand(2, 1, 64, 48)
    target = pyramid_target(x, x)
    residue = (target - target.mean()) - (x - x.mean())
    assert residue.abs().mean() < 0.02


def test_detail_comes_from_the_more_active_source() -> None:
    torch.manual_seed(0)
    stripes = 0.5 + 0.2 * (torch.arange(64) % 4 < 2).float().expand(1, 1, 64, 64) - 0.1
    flat = torch.full_like(stripes, 0.5)
    for ir, vi in ((stripes, flat), (flat, stripes)):
        target = pyramid_target(ir, vi)
        assert (target - target.mean() - (stripes - stripes.mean())).abs()[..., 8:-8, 8:-8].mean() < 0.03


def test_contrast_inside_the_other_sources_bright_area_survives() -> None:
    """Where one source is bright throughout, the maximum would show nothing of the other."""
    ir, vi = torch.full((1, 1, 128, 128), 0.1), torch.full((1, 1, 128, 128), 0.95)
    ir[..., 64:] = 0.6
    target = pyramid_target(ir, vi)
    assert target[..., 96:].mean() - target[..., :32].mean() > 0.15


def test_a_dark_scene_keeps_its_bright_person() -> None:
    ir, vi = torch.full((1, 1, 128, 128), 0.03), torch.full((1, 1, 128, 128), 0.02)
    ir[..., 40:88, 56:72] = 0.8
    assert pyramid_target(ir, vi)[..., 50:78, 60:68].mean() > 0.7


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (100, 75)])
def test_any_size_and_range(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    ir, vi = torch.rand(2, 1, *size), torch.rand(2, 1, *size)
    target = pyramid_target(ir, vi)
    assert target.shape == ir.shape
    assert target.min() >= 0 and target.max() <= 1


def test_images_of_a_batch_do_not_touch() -> None:
    torch.manual_seed(0)
    ir, vi = torch.rand(2, 1, 40, 40), torch.rand(2, 1, 40, 40)
    assert torch.allclose(pyramid_target(ir, vi)[1:], pyramid_target(ir[1:], vi[1:]), atol=1e-6)


def test_loss_is_zero_at_the_target_and_pulls_towards_it() -> None:
    torch.manual_seed(0)
    ir, vi = torch.rand(1, 1, 32, 32), torch.rand(1, 1, 32, 32)
    target = pyramid_target(ir, vi)
    assert pyramid_loss(target, ir, vi) == 0
    fused = (target + 0.1).requires_grad_()
    pyramid_loss(fused, ir, vi).backward()
    assert (fused.grad > 0).all()
