"""A target made of both sources: the stronger contrast at the coarse end, the more active source's detail above it.

The detail rule is that of Laplacian-pyramid fusion (Burt and Adelson, "The Laplacian Pyramid as a Compact Image Code",
1983). Its coarse end usually is an average, which is flat, or a maximum, which swallows whatever one source shows
inside the other's bright areas (clouds, trees before a bright sky). Here most of it is the contrast of the source
that is farther from its own mean; a little is the sum of both. The constants were chosen on validation pairs of
RoadScene and MSRS, by metrics of the rule itself and of networks trained on it.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from thfuse_sam.losses.filters import gaussian_blur, smooth_step, soft_ends

LEVELS = 4  # how often images are halved
SMALLEST_SIDE = 8  # pixels; a side is not halved below this
ACTIVITY_SIGMA = 4.0  # pixels; activity is the Gaussian mean of |detail| around a pixel
EPS = 1e-6  # added to activities, so that two flat sources count alike
DECISION = 4  # details are weighted by activity to this power; a larger one favours the more active source more
DETAIL_GAINS = (1.02, 1.02, 1.05, 1.05)  # factors on the details, finest first
CONTRAST_WEIGHT = 0.8  # weight of the contrasts in the coarse target; the brighter source has the rest
STRONGER_WEIGHT = 0.95  # weight of the stronger contrast among the contrasts; the sum of both has the rest
STRONGER_GAIN = 1.2  # factor that makes the stronger contrast alone nearly as strong as the sum
STRONGER_EDGE = 40.0  # 1 / intensity: how sharply the stronger contrast takes over
# A scene whose brighter source has a mean of up to DARK keeps it; from BRIGHT on, where the contrasts would saturate on
# top of it, the mean is the average of both sources'.
DARK, BRIGHT = 40 / 255, 120 / 255


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
        if min(ir.shape[-2:]) < 2 * SMALLEST_SIDE:
            break
        coarse_ir, coarse_vi = _downsample(ir), _downsample(vi)
        detail_ir, detail_vi = ir - _upsample(coarse_ir, ir), vi - _upsample(coarse_vi, vi)
        activity_ir, activity_vi = (gaussian_blur(x.abs(), ACTIVITY_SIGMA) + EPS for x in (detail_ir, detail_vi))
        weight_ir = 1 / (1 + (activity_vi / activity_ir) ** DECISION)
        details.append(torch.lerp(detail_vi, detail_ir, weight_ir))
        ir, vi = coarse_ir, coarse_vi
    target = _coarse_target(ir, vi)
    for detail, gain in reversed(list(zip(details, DETAIL_GAINS, strict=False))):
        target = _upsample(target, detail) + gain * detail
    return soft_ends(target)


def _coarse_target(ir: Tensor, vi: Tensor) -> Tensor:
    """The target at the coarsest scale: float B1HW, not yet limited to [0, 1]."""
    brighter = torch.maximum(ir, vi)
    mean_ir, mean_vi, mean_brighter = _mean(ir), _mean(vi), _mean(brighter)
    brightness = smooth_step(mean_brighter, DARK, BRIGHT)
    mean = torch.lerp(mean_brighter, (mean_ir + mean_vi) / 2, brightness)
    ir, vi = ir - mean_ir, vi - mean_vi
    stronger = STRONGER_GAIN * torch.lerp(vi, ir, torch.sigmoid(STRONGER_EDGE * (ir.abs() - vi.abs())))
    both = torch.lerp(ir + vi, stronger, STRONGER_WEIGHT)
    return torch.lerp(brighter, mean + both, CONTRAST_WEIGHT)


def _mean(images: Tensor) -> Tensor:
    """Mean of each image: B1HW -> B111."""
    return images.mean((1, 2, 3), keepdim=True)


def _downsample(images: Tensor) -> Tensor:
    """B1HW at half the size, an odd side rounded up."""
    return F.avg_pool2d(gaussian_blur(images, 1.0), 2, ceil_mode=True)


def _upsample(images: Tensor, like: Tensor) -> Tensor:
    """B1HW at the height and width of `like`, bilinear."""
    return F.interpolate(images, size=like.shape[-2:], mode="bilinear", align_corners=False)
