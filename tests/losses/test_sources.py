import torch
from torch import Tensor

from thfuse_sam.losses import gradient_loss, intensity_loss
from thfuse_sam.losses.sources import fused_and_target_gradients, sobel


def ramp(slope: float, height: int = 16, width: int = 16) -> Tensor:
    return (slope * torch.arange(width)).expand(1, 1, height, width)


def test_intensity_is_the_distance_to_the_brighter_source() -> None:
    ir, vi = torch.rand(2, 2, 1, 16, 16)
    assert intensity_loss(torch.maximum(ir, vi), ir, vi) == 0
    torch.testing.assert_close(intensity_loss(torch.maximum(ir, vi) - 0.25, ir, vi), torch.tensor(0.25))


def test_sobel_is_the_slope_per_pixel() -> None:
    gradient = sobel(ramp(0.03))[0, :, 2:-2, 2:-2]
    torch.testing.assert_close(gradient[0], torch.full((12, 12), 0.03))
    torch.testing.assert_close(gradient[1], torch.zeros(12, 12), rtol=0, atol=1e-7)
    downwards = sobel(ramp(0.03).transpose(2, 3))[0, :, 2:-2, 2:-2]
    torch.testing.assert_close(downwards[1], torch.full((12, 12), 0.03))


def test_gradient_follows_the_steeper_source_and_its_direction() -> None:
    falling, rising = 1 + ramp(-0.04), ramp(0.02)
    assert gradient_loss(falling, falling, rising) == 0
    assert gradient_loss(falling - 0.1, rising, falling) < 1e-6  # the level is not its business
    assert gradient_loss(rising, falling, rising) > 0.05
    # As steep as the target, but the other way.
    assert gradient_loss(ramp(0.04), falling, rising) > 0.07


def test_the_target_takes_whole_vectors() -> None:
    across, down = ramp(0.04), ramp(0.03).transpose(2, 3)
    _, target = fused_and_target_gradients(across, across, down)
    torch.testing.assert_close(target[0, 1, 2:-2, 2:-2], torch.zeros(12, 12), rtol=0, atol=1e-7)
