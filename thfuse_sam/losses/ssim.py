"""Structural similarity with the source that varies more.

SSIM: Wang et al., "Image quality assessment: from error visibility to structural similarity", 2004. The choice of the
source per pixel by its local variance is TH-Fuse's (Chen et al., Neurocomputing 2023).
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from thfuse_sam.losses.filters import gaussian_kernel

WINDOW = 11  # pixels, side of the Gaussian window
SIGMA = 1.5  # pixels
C1, C2 = 0.01**2, 0.03**2  # stabilisers of SSIM for images in [0, 1]


def ssim_loss(fused: Tensor, ir: Tensor, vi: Tensor) -> Tensor:
    """One minus the SSIM with the source that varies more around each pixel.

    Departures from TH-Fuse's source: one window for both the SSIM and the variance (there 11 and 9 pixels), mirrored
    borders instead of black ones, constants for [0, 1].

    Args:
        fused, ir, vi: float B1HW in [0, 1], sides of 6 pixels or more.

    Returns:
        Scalar in [0, 2].
    """
    mean_fused, mean_fused_squared, mean_fused_ir, mean_fused_vi = local_means(
        torch.cat([fused, fused * fused, fused * ir, fused * vi], dim=1)
    )
    with torch.no_grad():
        mean_ir, mean_vi, mean_ir_squared, mean_vi_squared = local_means(torch.cat([ir, vi, ir * ir, vi * vi], dim=1))
        variance_ir, variance_vi = mean_ir_squared - mean_ir**2, mean_vi_squared - mean_vi**2
        take_ir = variance_ir > variance_vi
        mean_source = torch.where(take_ir, mean_ir, mean_vi)
        variance_source = torch.where(take_ir, variance_ir, variance_vi)
    covariance = torch.where(take_ir, mean_fused_ir, mean_fused_vi) - mean_fused * mean_source
    variance_fused = mean_fused_squared - mean_fused**2
    luminance = (2 * mean_fused * mean_source + C1) / (mean_fused**2 + mean_source**2 + C1)
    structure = (2 * covariance + C2) / (variance_fused + variance_source + C2)
    return 1 - (luminance * structure).mean()


def local_means(images: Tensor) -> tuple[Tensor, ...]:
    """Gaussian means around each pixel, borders mirrored: one BHW for each channel of BCHW."""
    batch, channels, height, width = images.shape
    border = WINDOW // 2
    x = F.pad(images.reshape(1, batch * channels, height, width), (border,) * 4, mode="reflect")
    # One group per channel: several times faster on a CPU than a batch of single channels.
    kernel = gaussian_kernel(SIGMA, border, images)
    rows = kernel.reshape(1, 1, 1, -1).repeat(batch * channels, 1, 1, 1)
    x = F.conv2d(F.conv2d(x, rows, groups=len(rows)), rows.transpose(2, 3), groups=len(rows))
    return x.reshape(batch, channels, height, width).unbind(dim=1)
