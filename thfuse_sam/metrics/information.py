"""Metrics from information theory: entropy, mutual information, visual information fidelity.

All functions take uint8 HxW grey images (visible: BT.601 luma) and return a float.
"""

import numpy as np

from thfuse_sam.metrics.arrays import Grey, Values, gaussian_window, grey_values, local_moments

_LEVELS = 256

_VIF_WINDOWS = (17, 9, 5, 3)  # px, one per scale; the Gaussian's sigma is a fifth of it
_VIF_NOISE_VARIANCE = 2.0  # variance of the visual system's internal noise, for values in [0, 255]
_VIF_FLAT = 1e-10  # variance below which a window counts as flat
VIF_SMALLEST_SIDE = 41  # px; below that the fourth scale has no window left


def entropy(fused: Grey) -> float:
    """EN: Shannon entropy of the 256-bin histogram, in bits, 0 to 8.

    Source: C. E. Shannon, "A mathematical theory of communication", Bell System Technical Journal 27, 1948; for
    fusion: J. W. Roberts, J. A. van Aardt, F. B. Ahmed, "Assessment of image fusion procedures using entropy, image
    quality, and multispectral classification", Journal of Applied Remote Sensing 2, 2008.
    """
    grey_values(fused=fused)
    probabilities = np.bincount(fused.ravel(), minlength=_LEVELS) / fused.size
    probabilities = probabilities[probabilities > 0]
    # Adding 0.0 turns the -0.0 of a constant image into 0.0.
    return float(-np.sum(probabilities * np.log2(probabilities)) + 0.0)


def mutual_information(fused: Grey, infrared: Grey, visible: Grey) -> float:
    """MI: mutual information of the fused image with each source, summed, in nats.

    From the 256x256 joint histogram. MATLAB implementations give bits: 1.4427 times as much.

    Source: G. Qu, D. Zhang, P. Yan, "Information measure for performance of image fusion", Electronics Letters 38,
    2002.
    """
    grey_values(fused=fused, infrared=infrared, visible=visible)
    return _mutual_information(fused, infrared) + _mutual_information(fused, visible)


def _mutual_information(first: Grey, second: Grey) -> float:
    """Mutual information of two images, in nats."""
    cells = first.ravel().astype(np.intp) * _LEVELS + second.ravel()
    joint = np.bincount(cells, minlength=_LEVELS * _LEVELS).reshape(_LEVELS, _LEVELS) / first.size
    independent = np.outer(joint.sum(axis=1), joint.sum(axis=0))
    occupied = joint > 0
    return float(np.sum(joint[occupied] * np.log(joint[occupied] / independent[occupied])))


def visual_information_fidelity(fused: Grey, infrared: Grey, visible: Grey) -> float:
    """VIF: pixel-domain visual information fidelity of the fused image to each source, summed; 2 for equal images.

    This is "vifp" with four scales and noise variance 2, not the fusion measure VIFF of Han et al. A source without
    any structure has no information to lose and counts 1. NaN where a side is under 41 px.

    Source: H. R. Sheikh, A. C. Bovik, "Image information and visual quality", IEEE Transactions on Image Processing
    15, 2006.
    """
    values, infrared_values, visible_values = grey_values(fused=fused, infrared=infrared, visible=visible)
    if min(fused.shape) < VIF_SMALLEST_SIDE:
        return float("nan")
    return _pixel_vif(infrared_values, values) + _pixel_vif(visible_values, values)


def _pixel_vif(reference: Values, distorted: Values) -> float:
    """Pixel-domain visual information fidelity of `distorted` to `reference`, 1 for equal images."""
    # Only variances enter. Without the mean they lose fewer digits, and those of a constant image are exactly zero.
    reference = reference - reference.mean()
    distorted = distorted - distorted.mean()
    kept = available = 0.0
    for scale, size in enumerate(_VIF_WINDOWS):
        smooth = gaussian_window(size, size / 5)
        if scale > 0:
            reference = np.ascontiguousarray(smooth(reference)[::2, ::2])
            distorted = np.ascontiguousarray(smooth(distorted)[::2, ::2])
        moments = local_moments(reference, distorted, smooth)
        source_variance = np.where(moments.variance_first < _VIF_FLAT, 0.0, moments.variance_first)
        flat = (source_variance == 0) | (moments.variance_second < _VIF_FLAT)
        # A negative gain (inverted contrast) counts as no information.
        gain = np.where(flat, 0.0, np.maximum(moments.covariance, 0.0) / (source_variance + _VIF_FLAT))
        residual = np.maximum(moments.variance_second - gain * moments.covariance, 0.0)
        kept += float(np.sum(np.log1p(gain * gain * source_variance / (residual + _VIF_NOISE_VARIANCE))))
        available += float(np.sum(np.log1p(source_variance / _VIF_NOISE_VARIANCE)))
    return kept / available if available > 0 else 1.0
