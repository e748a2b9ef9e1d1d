import torch
from torch import Tensor

from thfuse_sam.losses.ssim import ssim_loss


def ssim_by_the_formula(first: Tensor, second: Tensor) -> float:
    """Mean SSIM of two HxW images, one window after the other in double precision."""
    offsets = torch.arange(11, dtype=torch.float64) - 5
    window = torch.exp(-(offsets[:, None] ** 2 + offsets[None] ** 2) / (2 * 1.5**2))
    window = window / window.sum()
    padded = [
        torch.nn.functional.pad(x[None, None].double(), (5, 5, 5, 5), mode="reflect")[0, 0] for x in (first, second)
    ]
    values = []
    for row in range(first.shape[0]):
        for column in range(first.shape[1]):
            a, b = (x[row : row + 11, column : column + 11] for x in padded)
            mean_a, mean_b = (window * a).sum(), (window * b).sum()
            variance_a, variance_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
            covariance = (window * (a - mean_a) * (b - mean_b)).sum()
            luminance = (2 * mean_a * mean_b + 0.01**2) / (mean_a**2 + mean_b**2 + 0.01**2)
            values.append(luminance * (2 * covariance + 0.03**2) / (variance_a + variance_b + 0.03**2))
    return float(torch.stack(values).mean())


def test_ssim_equals_the_formula() -> None:
    torch.manual_seed(0)
    fused, textured = torch.rand(2, 1, 1, 12, 14)
    flat = torch.full_like(textured, 0.5)
    expected = 1 - ssim_by_the_formula(fused[0, 0], textured[0, 0])
    assert abs(ssim_loss(fused, textured, flat).item() - expected) < 1e-5
    assert abs(ssim_loss(fused, flat, textured).item() - expected) < 1e-5


def test_ssim_is_zero_for_the_more_active_source_and_larger_otherwise() -> None:
    torch.manual_seed(0)
    textured, flat = torch.rand(1, 1, 24, 24), torch.full((1, 1, 24, 24), 0.5)
    assert ssim_loss(textured, textured, flat).abs() < 1e-5
    assert ssim_loss(textured, flat, textured).abs() < 1e-5
    assert ssim_loss(flat, textured, flat) > 0.5
    assert ssim_loss(1 - textured, textured, flat) > 1


def test_ssim_chooses_the_source_at_each_place() -> None:
    torch.manual_seed(0)
    noise = torch.rand(1, 1, 32, 64)
    left, right = noise.clone(), noise.clone()
    left[..., 32:] = 0.5
    right[..., :32] = 0.5
    assert ssim_loss(noise, left, right) < 0.05
