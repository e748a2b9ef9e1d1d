import torch

from thfuse_sam.losses import FusionLoss
from thfuse_sam.losses.colour import colour_loss


def red(level: float) -> torch.Tensor:
    """A plain image whose RGB is (level + 0.4, level, level)."""
    return torch.tensor([level + 0.4, level, level]).reshape(1, 3, 1, 1).expand(1, 3, 8, 8)


def luma_of(rgb: torch.Tensor) -> torch.Tensor:
    return (rgb * torch.tensor([0.299, 0.587, 0.114]).reshape(1, 3, 1, 1)).sum(1, keepdim=True)


def test_the_visible_images_own_luma_has_room_for_its_colour() -> None:
    assert colour_loss(luma_of(red(0.2)), red(0.2)) < 1e-6
    assert colour_loss(luma_of(red(0.6)), red(0.6)) < 1e-6


def test_what_leaves_the_range_is_measured() -> None:
    # 0.3 brighter: red wants 0.6 + 0.4 + 0.3.
    torch.testing.assert_close(colour_loss(luma_of(red(0.6)) + 0.3, red(0.6)), torch.tensor(0.3))
    # 0.1 darker: green and blue want -0.1 + 0.05.
    torch.testing.assert_close(colour_loss(luma_of(red(0.05)) - 0.1, red(0.05)), torch.tensor(0.1))


def test_grey_costs_nothing_at_any_level() -> None:
    grey = torch.rand(1, 1, 8, 8).expand(1, 3, 8, 8)
    assert colour_loss(torch.rand(1, 1, 8, 8), grey) < 1e-6
    assert colour_loss(torch.rand(1, 1, 8, 8), None) == 0


def test_the_gradient_makes_room() -> None:
    fused = torch.full((1, 1, 8, 8), 0.95, requires_grad=True)
    source = torch.rand(1, 1, 8, 8)
    FusionLoss({"colour": 1.0})(fused, source, source, vi_rgb=red(0.5))["total"].backward()
    assert fused.grad is not None and (fused.grad > 0).all()
