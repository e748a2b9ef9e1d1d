"""Structural similarity of the fused image to its sources, at one scale and at five.

All functions take uint8 HxW grey images (visible: BT.601 luma) and return a float.
"""

import numpy as np

from thfuse_sam.metrics.arrays import Grey, Moments, Values, box_window, gaussian_window, grey_values, local_moments

# Stabilisers for a data range of 255. A range of 2 on such images, seen in published code, brings all values near 1.
_C1 = (0.01 * 255) ** 2
_C2 = (0.03 * 255) ** 2

_SSIM_WINDOW = 7  # px

_MS_SSIM_WINDOW = 11  # px
_MS_SSIM_SIGMA = 1.5  # px
_MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # exponents, finest scale first
MS_SSIM_SMALLEST_SIDE = _MS_SSIM_WINDOW * 2 ** (len(_MS_SSIM_WEIGHTS) - 1)  # 176 px: one window at the coarsest scale


def structural_similarity(fused: Grey, infrared: Grey, visible: Grey) -> float:
    """SSIM: structural similarity to each source, summed; 2 where all three are equal.

    Data range 255, 7x7 uniform window lying inside the image, unbiased (co)variances. NaN where a side is under 7 px.

    Source: Z. Wang, A. C. Bovik, H. R. Sheikh, E. P. Simoncelli, "Image quality assessment: from error visibility to
    structural similarity", IEEE Transactions on Image Processing 13, 2004.
    """
    values, infrared_values, visible_values = grey_values(fused=fused, infrared=infrared, visible=visible)
    if min(fused.shape) < _SSIM_WINDOW:
        return float("nan")
    return _ssim(values, infrared_values) + _ssim(values, visible_values)


def multi_scale_structural_similarity(fused: Grey, infrared: Grey, visible: Grey) -> float:
    """MS_SSIM: structural similarity over five scales, mean over the sources, 0 to 1.

    Data range 255, 11x11 Gaussian window with sigma 1.5 lying inside the image; each scale is the mean of 2x2 pixels of
    the one before, an odd last row or column left out. A negative factor counts 0. NaN where a side is under 176 px.

    Source: Z. Wang, E. P. Simoncelli, A. C. Bovik, "Multiscale structural similarity for image quality assessment",
    Asilomar Conference on Signals, Systems and Computers, 2003.
    """
    values, infrared_values, visible_values = grey_values(fused=fused, infrared=infrared, visible=visible)
    if min(fused.shape) < MS_SSIM_SMALLEST_SIDE:
        return float("nan")
    return (_ms_ssim(values, infrared_values) + _ms_ssim(values, visible_values)) / 2


def _luminance(moments: Moments) -> Values:
    first, second = moments.mean_first, moments.mean_second
    return (2 * first * second + _C1) / (first * first + second * second + _C1)


def _contrast_structure(moments: Moments, unbias: float = 1.0) -> Values:
    variances = moments.variance_first + moments.variance_second
    return (2 * unbias * moments.covariance + _C2) / (unbias * variances + _C2)


def _ssim(first: Values, second: Values) -> float:
    moments = local_moments(first, second, box_window(_SSIM_WINDOW))
    pixels = _SSIM_WINDOW**2
    return float(np.mean(_luminance(moments) * _contrast_structure(moments, pixels / (pixels - 1))))


def _ms_ssim(first: Values, second: Values) -> float:
    smooth = gaussian_window(_MS_SSIM_WINDOW, _MS_SSIM_SIGMA)
    coarsest = len(_MS_SSIM_WEIGHTS) - 1
    product = 1.0
    for scale, weight in enumerate(_MS_SSIM_WEIGHTS):
        moments = local_moments(first, second, smooth)
        similarity = _contrast_structure(moments)
        if scale == coarsest:
            similarity = similarity * _luminance(moments)
        else:
            first, second = _halve(first), _halve(second)
        product *= max(float(np.mean(similarity)), 0.0) ** weight
    return product


def _halve(image: Values) -> Values:
    """Means of 2x2 pixels; an odd last row or column is left out."""
    height, width = image.shape[0] // 2, image.shape[1] // 2
    even = image[: 2 * height, : 2 * width]
    return (even[::2, ::2] + even[::2, 1::2] + even[1::2, ::2] + even[1::2, 1::2]) / 4
