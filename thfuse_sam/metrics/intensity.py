"""Metrics of grey values: contrast, correlation with the sources, error against the sources.

All functions take uint8 HxW grey images (visible: BT.601 luma) and return a float.
"""

import numpy as np

from thfuse_sam.metrics.arrays import Grey, Values, grey_values

_PEAK = 255.0


def standard_deviation(fused: Grey) -> float:
    """SD: population standard deviation of the grey values, 0 to 127.5.

    Source: as surveyed by J. Ma, Y. Ma, C. Li, "Infrared and visible image fusion methods and applications: a survey",
    Information Fusion 45, 2019.
    """
    (values,) = grey_values(fused=fused)
    return float(values.std())


def correlation_coefficient(fused: Grey, infrared: Grey, visible: Grey) -> float:
    """CC: mean of the correlation with infrared and with visible, -1 to 1. A constant image correlates 0.

    Source: as surveyed by J. Ma, Y. Ma, C. Li, "Infrared and visible image fusion methods and applications: a survey",
    Information Fusion 45, 2019.
    """
    values, infrared_values, visible_values = grey_values(fused=fused, infrared=infrared, visible=visible)
    return (_correlation(values, infrared_values) + _correlation(values, visible_values)) / 2


def sum_of_correlations_of_differences(fused: Grey, infrared: Grey, visible: Grey) -> float:
    """SCD: corr(infrared, fused - visible) + corr(visible, fused - infrared), -2 to 2.

    A constant source, or a constant difference, contributes 0.

    Source: V. Aslantas, E. Bendes, "A new image quality metric for image fusion: the sum of the correlations of
    differences", AEU - International Journal of Electronics and Communications 69, 2015.
    """
    values, infrared_values, visible_values = grey_values(fused=fused, infrared=infrared, visible=visible)
    from_infrared = _correlation(infrared_values, values - visible_values)
    from_visible = _correlation(visible_values, values - infrared_values)
    return from_infrared + from_visible


def peak_signal_to_noise_ratio(fused: Grey, infrared: Grey, visible: Grey) -> float:
    """PSNR: 10 log10(255^2 / mean of the two mean squared errors), in dB. Infinite where all three images are equal.

    Source: P. Jagalingam, A. V. Hegde, "A review of quality metrics for fused image", Aquatic Procedia 4, 2015.
    """
    values, infrared_values, visible_values = grey_values(fused=fused, infrared=infrared, visible=visible)
    error = (np.mean((values - infrared_values) ** 2) + np.mean((values - visible_values) ** 2)) / 2
    return float(10 * np.log10(_PEAK**2 / error)) if error > 0 else float("inf")


def _correlation(first: Values, second: Values) -> float:
    """Pearson's correlation; 0 where an image is constant and the quotient would be 0/0."""
    first = first - first.mean()
    second = second - second.mean()
    scale = float(np.sqrt(np.vdot(first, first) * np.vdot(second, second)))
    return float(np.vdot(first, second)) / scale if scale > 0 else 0.0
