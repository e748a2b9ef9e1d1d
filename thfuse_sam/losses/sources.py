"""Losses that compare the fused image with the stronger source at each pixel.

All of them take fused, ir and vi, float B1HW in [0, 1], and return a scalar of 0 or more.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from thfuse_sam.losses.filters import box_mean, sobel

SURROUNDINGS = 31  # pixels, side of the window that a pixel is compared with
_CONTRAST_EPS = 0.01  # intensity, added to contrasts: where both are well below it, both sources count alike


def intensity_loss(fused: Tensor, ir: Tensor, vi: Tensor) -> Tensor:
    """Mean absolute difference to the brighter source, max(ir, vi)."""
    return F.l1_loss(fused, torch.maximum(ir, vi))


def squared_intensity_loss(fused: Tensor, ir: Tensor, vi: Tensor) -> Tensor:
    """Mean squared difference to the brighter source. Small errors count for little."""
    return F.mse_loss(fused, torch.maximum(ir, vi))


def average_intensity_loss(fused: Tensor, ir: Tensor, vi: Tensor) -> Tensor:
    """Mean absolute difference to the mean of both sources. Favours metrics that measure similarity to both."""
    return F.l1_loss(fused, (ir + vi) / 2)


def salient_intensity_loss(fused: Tensor, ir: Tensor, vi: Tensor) -> Tensor:
    """Mean absolute difference to the sources' mean, weighted by how much each source stands out from its surroundings.

    A source stands out by |pixel - mean of the SURROUNDINGS x SURROUNDINGS window|. Where neither does, both count
    alike. Unlike max(ir, vi), this keeps dark objects before a bright background as well.
    """
    with torch.no_grad():
        contrast_ir, contrast_vi = ((image - box_mean(image, SURROUNDINGS)).abs() + _CONTRAST_EPS for image in (ir, vi))
        weight_ir = contrast_ir / (contrast_ir + contrast_vi)
        target = weight_ir * ir + (1 - weight_ir) * vi
    return F.l1_loss(fused, target)


def gradient_loss(fused: Tensor, ir: Tensor, vi: Tensor) -> Tensor:
    """Mean absolute difference to the Sobel gradient of the source that is steeper at that pixel.

    Gradients are compared as vectors; the differences along x and along y are summed.
    """
    fused_gradient, target = fused_and_target_gradients(fused, ir, vi)
    return 2 * F.l1_loss(fused_gradient, target)


def fused_and_target_gradients(fused: Tensor, ir: Tensor, vi: Tensor) -> tuple[Tensor, Tensor]:
    """Sobel gradients of the fused image and, at each pixel, of the source with the larger |x| + |y|.

    Both components come from one source, because components from two sources would make an edge that is in neither.

    Returns:
        Two float B2HW; the target has no gradient.
    """
    with torch.no_grad():
        ir_gradient, vi_gradient = sobel(torch.cat([ir, vi])).chunk(2)
        ir_is_steeper = ir_gradient.abs().sum(1, keepdim=True) > vi_gradient.abs().sum(1, keepdim=True)
        target = torch.where(ir_is_steeper, ir_gradient, vi_gradient)
    return sobel(fused), target
