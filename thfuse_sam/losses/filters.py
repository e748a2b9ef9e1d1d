"""Filters on batches of images, which losses, networks and the colour step are made of."""

import torch
from torch import Tensor
from torch.nn import functional as F

SOFT_END = 0.08  # intensity; values closer than this to 0 or 1, or beyond, are compressed into this width


def box_mean(images: Tensor, window: int) -> Tensor:
    """Mean of the pixels of BCHW images, in a square window 3, 5, ... pixels wide, that lie in the image.

    As sums of shifted images a tenth of the work of `avg_pool2d`.
    """
    for dim in (2, 3):
        size, border = images.shape[dim], window // 2
        padded = F.pad(images, (0, 0, border, border) if dim == 2 else (border, border))
        total = padded.narrow(dim, 0, size) + padded.narrow(dim, 1, size)
        for shift in range(2, window):
            total += padded.narrow(dim, shift, size)
        place = torch.arange(size, device=images.device)
        count = (place + border).clamp(max=size - 1) - (place - border).clamp(min=0) + 1
        images = total / count.view(-1, 1) if dim == 2 else total / count
    return images


def gaussian_kernel(sigma: float, radius: int, like: Tensor) -> Tensor:
    """Weights of a Gaussian of `sigma` pixels at offsets -radius to radius, normalised to the sum 1.

    Returns a vector of 2 * radius + 1 values with the type and device of `like`.
    """
    offsets = torch.arange(-radius, radius + 1, dtype=like.dtype, device=like.device)
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    return kernel / kernel.sum()


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """Gaussian means over three `sigma` (pixels) to each side, border pixels repeated; B1HW -> B1HW."""
    radius = round(3 * sigma)
    kernel = gaussian_kernel(sigma, radius, images)
    x = F.pad(images, (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(x, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))


def sobel(images: Tensor) -> Tensor:
    """Sobel gradients in intensity per pixel (kernels divided by 8), borders repeated.

    Args:
        images: float B1HW.

    Returns:
        float B2HW: the gradient to the right and the gradient downwards.
    """
    # Made where the images are: a GPU would have to be waited for to copy numbers to it.
    offsets = torch.arange(-1, 2, dtype=images.dtype, device=images.device)
    smooth, step = (2 - offsets.abs()) / 4, offsets / 2
    kernels = torch.stack([torch.outer(smooth, step), torch.outer(step, smooth)]).unsqueeze(1)
    return F.conv2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), kernels)


def soft_ends(values: Tensor) -> Tensor:
    """Limit to [0, 1] without clipping: differences near and beyond the ends become smaller but are kept."""
    low, high = SOFT_END, 1 - SOFT_END
    beyond = torch.tanh((values - values.clamp(low, high)) / SOFT_END)
    return values.clamp(low, high) + SOFT_END * beyond


def smooth_step(values: Tensor, low: float, high: float) -> Tensor:
    """0 up to `low`, 1 from `high` on, smooth between."""
    position = ((values - low) / (high - low)).clamp(0, 1)
    return position**2 * (3 - 2 * position)


def zero_loss(fused: Tensor) -> Tensor:
    """A scalar 0 from which a backward pass may start, for a loss that has nothing to compare `fused` with."""
    return (fused * 0).sum()
