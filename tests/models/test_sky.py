from itertools import pairwise

import pytest
import torch
from torch import Tensor

from thfuse_sam.models.sky import REACH, keep_sky

ROOF = 60  # rows of sky above it
SKY = (..., slice(4, ROOF - 8), slice(None))
GRAIN = torch.randn(1, 1, 96, 96, generator=torch.Generator().manual_seed(0)) / 255


def flat(level: float) -> Tensor:
    return torch.full((1, 1, 96, 96), level)


def before_sky(sky: Tensor | float, below: float) -> Tensor:
    image = flat(below)
    image[..., :ROOF, :] = sky[..., :ROOF, :] if isinstance(sky, Tensor) else sky
    return image


@pytest.fixture
def stripes() -> Tensor:
    """An infrared sky with clouds."""
    return 0.2 + 0.1 * torch.sin(torch.arange(96) / 3).reshape(1, 1, 96, 1).expand(1, 1, 96, 96)


def gradient(image: Tensor) -> float:
    return float(image.diff(dim=-2).abs().mean() + image.diff(dim=-1).abs().mean())


def test_a_bright_sky_is_damped_and_brighter_up_to_the_roof(stripes: Tensor) -> None:
    ir, vi, fused = before_sky(stripes, 0.5), before_sky(0.95, 0.3), before_sky(stripes + 0.35, 0.4)
    result = keep_sky(fused, ir, vi, 1.0)
    assert gradient(result[SKY]) < 0.5 * gradient(ir[SKY])
    rows = result[0, 0, :, 48]
    assert rows[: ROOF - 1].min() > 0.73  # no fringe
    assert torch.equal(result[..., ROOF + 2 :, :], fused[..., ROOF + 2 :, :])


@pytest.mark.parametrize(
    ("infrared", "visible"), [(0.85, 0.95), (0.2, 0.5), (0.2, None)], ids=["warm", "dark", "textured"]
)
def test_other_areas_keep_their_infrared_details(stripes: Tensor, infrared: float, visible: float | None) -> None:
    checks = (torch.arange(96)[:, None] // 8 + torch.arange(96) // 8) % 2
    vi = flat(visible) if visible else 0.7 + 0.2 * checks.expand(1, 1, 96, 96)
    ir = stripes + infrared - 0.2
    change = keep_sky(stripes, ir, vi, 1.0) - stripes
    assert change[..., 8:-8, 8:-8].abs().max() < 2 / 255


@pytest.mark.parametrize(("warm", "width"), [(0.8, 40), (0.66, 120)], ids=["small", "no warmer than smoke is bright"])
def test_what_infrared_alone_sees_before_bright_smoke_stays(warm: float, width: int) -> None:
    """Smoke that hides someone, a white house before a white sky: both as bright as the rest of it."""
    ir, vi = flat(0.1).repeat(1, 1, 4, 4), flat(0.98).repeat(1, 1, 4, 4)
    ir[..., 180:200, 160 : 160 + width] = warm
    fused = ir.clone()
    result = keep_sky(fused, ir, vi, 1.0)
    assert (result - fused)[..., 170:210, 150:210].max() < 0.1
    assert result[..., 190, 180] - result[..., 170, 180] > warm - 0.2
    assert keep_sky(fused, flat(0.1).repeat(1, 1, 4, 4), vi, 1.0)[..., 190, 150].item() == pytest.approx(0.98)


def test_the_mean_of_a_region_decides_so_that_a_darkening_sky_gets_no_disc() -> None:
    """An old camera's sky falls from 0.82 to 0.52 within 128 pixels; infrared's is dark."""
    away = torch.hypot(*torch.meshgrid(torch.arange(-192.0, 192), torch.arange(-192.0, 192), indexing="ij"))
    vi = (0.82 - 0.3 * (away / 128).clamp(max=1)).reshape(1, 1, 384, 384)
    dark = flat(0.1).repeat(1, 1, 4, 4)
    result = keep_sky(dark, dark, vi, 1.0)
    assert gradient(result) < 1.2 * gradient(vi)


def test_it_comes_and_goes_smoothly(stripes: Tensor) -> None:
    """Half a grey level of the visible image never makes more than a twentieth of the whole change."""
    levels = [keep_sky(stripes, stripes, flat(0.5 + step / 510), 1.0) for step in range(120)]
    steps = torch.stack([after - before for before, after in pairwise(levels)])
    assert levels[-1].mean() - levels[0].mean() > 0.3
    assert steps.abs().max() < 0.05 * (levels[-1] - levels[0]).max()


def test_nothing_farther_away_than_its_reach_counts(stripes: Tensor) -> None:
    images = [image.repeat(1, 1, 4, 4) for image in (stripes, stripes, flat(0.75) + GRAIN)]
    before = keep_sky(*images, 1.0)
    for image in images:
        image[..., :8, :8] = 0.1
    changed = torch.where((keep_sky(*images, 1.0) != before)[0, 0])
    assert 96 < int(max(places.max() for places in changed)) < 8 + REACH


def test_half_of_it_and_gradients(stripes: Tensor) -> None:
    fused, vi = (stripes + 0.3).requires_grad_(), flat(0.95)
    half, whole = (keep_sky(fused, stripes, vi, amount) for amount in (0.5, 1.0))
    assert fused.mean() < half.mean() < whole.mean()
    half.sum().backward()
    assert fused.grad is not None and fused.grad.isfinite().all() and fused.grad.min() > 0.1
