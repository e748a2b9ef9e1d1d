"""A target made of both sources: both contrasts at the coarse end, the livelier source's detail at each finer scale.

The detail rule is that of Laplacian-pyramid fusion (Burt and Adelson, "The Laplacian Pyramid as a Compact Image Code",
1983). Its coarse end usually is an average, which is flat, or a maximum, which swallows whatever one source shows
inside the other's bright areas (clouds, trees before a bright sky). Here most of it is the sum of both contrasts.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

LEVELS = 4  # halvings
SHORTEST = 8  # pixels; a side is not halved below this
ACTIVITY_SIGMA = 1.5  # pixels, neighbourhood in which the livelier source is judged
SUM_SHARE = 0.7  # of the sum of contrasts at the coarse end; the rest is the brighter source
# A scene whose brighter source has a mean of up to DARK keeps it and gets all contrast; from BRIGHT on, where a full
# sum would saturate, the mean is the average of both sources' and the contrast is multiplied by BRIGHT_CONTRAST.
DARK, BRIGHT = 40 / 255, 120 / 255
BRIGHT_CONTRAST = 0.75


def pyramid_loss(fused: Tensor, ir: Tensor, vi: Tensor) -> Tensor:
    """Mean absolute difference to `pyramid_target`.

    Args:
        fused, ir, vi: float B1HW in [0, 1].

    Returns:
        Scalar.
    """
    return F.l1_loss(fused, pyramid_target(ir, vi))


@torch.no_grad()
def pyramid_target(ir: Tensor, vi: Tensor) -> Tensor:
    """The target of one batch.

    Args:
        ir, vi: float B1HW in [0, 1].

    Returns:
        float B1HW in [0, 1], without gradient.
    """
    details = []
    for _ in range(LEVELS):
        if min(ir.shape[-2:]) < 2 * SHORTEST:
            break
        coarse_ir, coarse_vi = _halved(ir), _halved(vi)
        detail_ir, detail_vi = ir - _enlarged(coarse_ir, ir), vi - _enlarged(coarse_vi, vi)
        take_ir = _blurred(detail_ir.abs(), ACTIVITY_SIGMA) > _blurred(detail_vi.abs(), ACTIVITY_SIGMA)
        details.append(torch.where(take_ir, detail_ir, detail_vi))
        ir, vi = coarse_ir, coarse_vi
    target = _coarse_target(ir, vi)
    for detail in reversed(details):
        target = _enlarged(target, detail) + detail
    return target.clamp(0, 1)


def _coarse_target(ir: Tensor, vi: Tensor) -> Tensor:
    brighter = torch.maximum(ir, vi)
    mean_ir, mean_vi, mean_brighter = _mean(ir), _mean(vi), _mean(brighter)
    brightness = ((mean_brighter - DARK) / (BRIGHT - DARK)).clamp(0, 1)
    brightness = brightness**2 * (3 - 2 * brightness)
    mean = torch.lerp(mean_brighter, (mean_ir + mean_vi) / 2, brightness)
    contrast = 1 - (1 - BRIGHT_CONTRAST) * brightness
    total = mean + contrast * (ir - mean_ir + vi - mean_vi)
    return torch.lerp(brighter, total, SUM_SHARE)


def _mean(images: Tensor) -> Tensor:
    return images.mean((1, 2, 3), keepdim=True)


def _halved(images: Tensor) -> Tensor:
    return F.avg_pool2d(_blurred(images, 1.0), 2, ceil_mode=True)


def _enlarged(images: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(images, size=like.shape[-2:], mode="bilinear", align_corners=False)


def _blurred(images: Tensor, sigma: float) -> Tensor:
    radius = round(3 * sigma)
    offsets = torch.arange(-radius, radius + 1, dtype=images.dtype, device=images.device)
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    x = F.pad(images, (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(x, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
