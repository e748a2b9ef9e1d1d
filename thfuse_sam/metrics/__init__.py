"""Quality metrics of image fusion on 8-bit grey images.

`fusion_metrics` computes all of them; `METRICS` says for each which direction is better. Values of different
implementations are comparable only where their conventions agree: each function's docstring states its own.
"""

from collections.abc import Callable, Iterable
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

__all__ = ["METRICS", "Metric", "fusion_metrics"]

_ALL_IMAGES = ("fused", "infrared", "visible")


@dataclass(frozen=True)
class Metric:
    """One metric: what it is called in full, which direction is better, how it is computed and from what."""

    title: str
    better: Literal["higher", "lower"]
    compute: Callable[..., float]
    needs: tuple[str, ...] = _ALL_IMAGES  # what `compute` takes, in its order; uint8 HxW each


METRICS: dict[str, Metric] = {
    "EN": Metric("entropy (bits)", "higher", entropy, needs=("fused",)),
    "SD": Metric("standard deviation", "higher", standard_deviation, needs=("fused",)),
    "SF": Metric("spatial frequency", "higher", spatial_frequency, needs=("fused",)),
    "AG": Metric("average gradient", "higher", average_gradient, needs=("fused",)),
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


def fusion_metrics(fused: Grey, ir: Grey, vi: Grey, names: Iterable[str] = METRICS) -> dict[str, float]:
    """Compute the metrics of one fused image.

    Args:
        fused: uint8 HxW, the fused image, clamped and rounded to 8 bit but never stretched.
        ir: uint8 HxW, the infrared image.
        vi: uint8 HxW, the visible image's BT.601 luma, rounded.
        names: keys of METRICS; by default all.

    Returns:
        the values by name, in the order of `names`. NaN where an image is too small for a metric (SSIM under 7 px, VIF
        under 41 px, MS_SSIM under 176 px a side); PSNR is infinite where all three images are equal.

    Raises:
        ValueError: types, dimensions or sizes differ from that.
    """
    grey_values(fused=fused, ir=ir, vi=vi)
    inputs = {"fused": fused, "infrared": ir, "visible": vi}
    return {name: METRICS[name].compute(*(inputs[need] for need in METRICS[name].needs)) for name in names}
