"""Losses that compare the fused image with the stronger source at each pixel."""

import torch
from torch import Tensor
from torch.nn import functional as F

SURROUNDINGS = 31  # pixels, side of the window that a pixel is compared with
_EQUAL = 0.01  # intensity; differences well below it do not decide between the sources


def intensity_loss(fused: Tensor, ir: Tensor, vi: Tensor) -> Tensor:
    """Mean absolute difference to the brighter source.

    Args:
        fused, ir, vi: float B1HW in [0, 1].

    Returns:
        Scalar, 0 where fused is max(ir, vi).
    """
    return F.l1_loss(fused, torch.maximum(ir, vi))


def squared_intensity_loss(fused: Tensor, ir: Tensor, vi: Tensor) -> Tensor:
    """Mean squared difference to the brighter source; arguments as for `intensity_loss`. Forgives small errors."""
    return F.mse_loss(fused, torch.maximum(ir, vi))


def average_intensity_loss(fused: Tensor, ir: Tensor, vi: Tensor) -> Tensor:
    """Mean absolute difference to the mean of both sources; arguments as for `intensity_loss`. Favours similarity."""
    return F.l1_loss(fused, (ir + vi) / 2)


def salient_intensity_loss(fused: Tensor, ir: Tensor, vi: Tensor) -> Tensor:
    """Mean absolute difference to the sources' mean weighed by how much each stands out from its surroundings.

    A source stands out by |pixel - mean of the SURROUNDINGS x SURROUNDINGS window|; where neither does, both count
    alike. Unlike max(ir, vi), dark objects before a bright background are kept as well.

    Args:
        fused, ir, vi: float B1HW in [0, 1].

    Returns:
        Scalar.
    """
    with torch.no_grad():
        standing_out = [(image - box_mean(image, SURROUNDINGS)).abs() + _EQUAL for image in (ir, vi)]
        weight_ir = standing_out[0] / (standing_out[0] + standing_out[1])
        target = weight_ir * ir + (1 - weight_ir) * vi
    return F.l1_loss(fused, target)


def box_mean(images: Tensor, size: int) -> Tensor:
    """Mean over the `size` x `size` window (odd) around each pixel, as far as it lies inside; BCHW -> BCHW."""
    return F.avg_pool2d(images, size, stride=1, padding=size // 2, count_include_pad=False)


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
