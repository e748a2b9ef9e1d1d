"""Quality metrics of image fusion on 8-bit grey images.

`fusion_metrics` computes all of them; `METRICS` says for each which direction is better. Values of different
implementations are comparable only where their conventions agree: each function's docstring states its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from thfuse_sam.metrics.arrays import Grey, grey_values
from thfuse_sam.metrics.gradient import average_gradient, edge_preservation, fusion_artefacts, spatial_frequency
from thfuse_sam.metrics.information import entropy, mutual_information, visual_information_fidelity
from thfuse_sam.metrics.intensity import (
    correlation_coefficient,
    peak_signal_to_noise_ratio,
    standard_deviation,
    sum_of_correlations_of_differences,
)
from thfuse_sam.metrics.structure import multi_scale_structural_similarity, structural_similarity

__all__ = [
    "METRICS",
    "Metric",
    "average_gradient",
    "correlation_coefficient",
    "edge_preservation",
    "entropy",
    "fusion_artefacts",
    "fusion_metrics",
    "multi_scale_structural_similarity",
    "mutual_information",
    "peak_signal_to_noise_ratio",
    "spatial_frequency",
    "standard_deviation",
    "structural_similarity",
    "sum_of_correlations_of_differences",
    "visual_information_fidelity",
]


@dataclass(frozen=True)
class Metric:
    """One metric: what it is called in full, which direction is better, how it is computed.

    `compute` takes (fused, infrared, visible), uint8 HxW each.
    """

    title: str
    better: Literal["higher", "lower"]
    compute: Callable[[Grey, Grey, Grey], float]


def _of_fused(metric: Callable[[Grey], float]) -> Callable[[Grey, Grey, Grey], float]:
    """Give a metric of the fused image alone the signature of the others."""
    return lambda fused, infrared, visible: metric(fused)


METRICS: dict[str, Metric] = {
    "EN": Metric("entropy (bits)", "higher", _of_fused(entropy)),
    "SD": Metric("standard deviation", "higher", _of_fused(standard_deviation)),
    "SF": Metric("spatial frequency", "higher", _of_fused(spatial_frequency)),
    "AG": Metric("average gradient", "higher", _of_fused(average_gradient)),
    "MI": Metric("mutual information (nats)", "higher", mutual_information),
    "SCD": Metric("sum of correlations of differences", "higher", sum_of_correlations_of_differences),
    "VIF": Metric("visual information fidelity", "higher", visual_information_fidelity),
    "Qabf": Metric("edge preservation", "higher", edge_preservation),
    "SSIM": Metric("structural similarity", "higher", structural_similarity),
    "MS_SSIM": Metric("multi-scale structural similarity", "higher", multi_scale_structural_similarity),
    "CC": Metric("correlation coefficient", "higher", correlation_coefficient),
    "PSNR": Metric("peak signal-to-noise ratio (dB)", "higher", peak_signal_to_noise_ratio),
    "Nabf": Metric("fusion artefacts", "lower", fusion_artefacts),
}


def fusion_metrics(fused: Grey, ir: Grey, vi: Grey) -> dict[str, float]:
    """Compute every metric of one fused image.

    Args:
        fused: uint8 HxW, the fused image, clamped and rounded to 8 bit but never stretched.
        ir: uint8 HxW, the infrared image.
        vi: uint8 HxW, the visible image's BT.601 luma, rounded.

    Returns:
        the values by the names and in the order of `METRICS`. NaN where an image is too small for a metric (SSIM under
        7 px, VIF under 41 px, MS_SSIM under 176 px a side); PSNR is infinite where all three images are equal.

    Raises:
        ValueError: types, dimensions or sizes differ from that.
    """
    grey_values(fused=fused, ir=ir, vi=vi)
    return {name: metric.compute(fused, ir, vi) for name, metric in METRICS.items()}
