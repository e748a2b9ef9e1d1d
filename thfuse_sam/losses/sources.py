"""Losses that compare the fused image with the stronger source at each pixel."""

import torch
from torch import Tensor
from torch.nn import functional as F


def intensity_loss(fused: Tensor, ir: Tensor, vi: Tensor) -> Tensor:
    """Mean absolute difference to the brighter source.

    Args:
        fused, ir, vi: float B1HW in [0, 1].

    Returns:
        Scalar, 0 where fused is max(ir, vi).
    """
    return F.l1_loss(fused, torch.maximum(ir, vi))


def gradient_loss(fused: Tensor, ir: Tensor, vi: Tensor) -> Tensor:
    """Mean absolute difference to the Sobel gradient of the source that is steeper there, direction included.

    Args:
        fused, ir, vi: float B1HW in [0, 1].

    Returns:
        Scalar, summed over the two directions and averaged over pixels.
    """
    fused_gradient, target = fused_and_target_gradients(fused, ir, vi)
    return 2 * F.l1_loss(fused_gradient, target)


def sobel(images: Tensor) -> Tensor:
    """Sobel gradients in intensity per pixel (kernels divided by 8), borders repeated.

    Args:
        images: float B1HW.

    Returns:
        float B2HW: to the right, downwards.
    """
    smooth, step = images.new_tensor([1.0, 2.0, 1.0]) / 4, images.new_tensor([-1.0, 0.0, 1.0]) / 2
    kernels = torch.stack([torch.outer(smooth, step), torch.outer(step, smooth)]).unsqueeze(1)
    return F.conv2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), kernels)


def fused_and_target_gradients(fused: Tensor, ir: Tensor, vi: Tensor) -> tuple[Tensor, Tensor]:
    """Sobel gradients of the fused image and, at each pixel, of the source with the larger |x| + |y|.

    A whole vector is taken from one source: its parts from two sources would be an edge that is in neither.

    Args:
        fused, ir, vi: float B1HW.

    Returns:
        Two float B2HW; the target has no gradient.
    """
    with torch.no_grad():
        ir_gradient, vi_gradient = sobel(torch.cat([ir, vi])).chunk(2)
        ir_is_steeper = ir_gradient.abs().sum(1, keepdim=True) > vi_gradient.abs().sum(1, keepdim=True)
        target = torch.where(ir_is_steeper, ir_gradient, vi_gradient)
    return sobel(fused), target
