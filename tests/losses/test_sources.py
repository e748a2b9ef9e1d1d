import torch
from torch import Tensor

from thfuse_sam.losses.filters import sobel
from thfuse_sam.losses.sources import (
    average_intensity_loss,
    fused_and_target_gradients,
    gradient_loss,
    intensity_loss,
    salient_intensity_loss,
    squared_intensity_loss,
)


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


def test_squared_and_average_intensity_are_zero_at_their_targets() -> None:
    ir, vi = torch.rand(2, 2, 1, 16, 16)
    highest, mean = torch.maximum(ir, vi), (ir + vi) / 2
    assert squared_intensity_loss(highest, ir, vi) == 0
    torch.testing.assert_close(squared_intensity_loss(highest - 0.5, ir, vi), torch.tensor(0.25))
    assert average_intensity_loss(mean, ir, vi) == 0
    torch.testing.assert_close(average_intensity_loss(mean + 0.25, ir, vi), torch.tensor(0.25))


def test_salient_intensity_keeps_what_stands_out_dark_or_bright() -> None:
    flat = torch.full((1, 1, 64, 64), 0.6)
    dark = torch.full((1, 1, 64, 64), 0.6)
    dark[..., 28:36, 28:36] = 0.1
    kept, filled = dark.clone(), flat.clone()
    for ir, vi in ((dark, flat), (flat, dark)):
        assert salient_intensity_loss(kept, ir, vi) < 0.05 * salient_intensity_loss(filled, ir, vi)
        assert intensity_loss(filled, ir, vi) == 0  # the brighter source loses it
    assert salient_intensity_loss(flat, flat, flat) < 1e-6
