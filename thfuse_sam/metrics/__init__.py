"""Quality metrics of image fusion on 8-bit images.

`fusion_metrics` computes those of METRICS, on grey images: what the field reports. `natural_metrics` adds those of
NATURAL_METRICS, which need colour or are this project's own. Both tables say which direction is better. Values of
different implementations are comparable only where their conventions agree: each function's docstring states its own.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from thfuse_sam.arrays import ImageArray
from thfuse_sam.metrics.arrays import Grey, grey_values
from thfuse_sam.metrics.gradient import average_gradient, edge_preservation, fusion_artefacts, spatial_frequency
from thfuse_sam.metrics.information import entropy, mutual_information, visual_information_fidelity
from thfuse_sam.metrics.intensity import (
    correlation_coefficient,
    peak_signal_to_noise_ratio,
    standard_deviation,
    sum_of_correlations_of_differences,
)
from thfuse_sam.metrics.natural import chroma_kept, flat_noise, sky_gradient
from thfuse_sam.metrics.structure import multi_scale_structural_similarity, structural_similarity

__all__ = ["METRICS", "NATURAL_METRICS", "TEN_METRICS", "Metric", "fusion_metrics", "natural_metrics"]

_ALL_IMAGES = ("fused", "infrared", "visible")


@dataclass(frozen=True)
class Metric:
    """One metric: what it is called in full, which direction is better, how it is computed and from what."""

    title: str
    better: Literal["higher", "lower"]
    compute: Callable[..., float]
    needs: tuple[str, ...] = _ALL_IMAGES  # what `compute` takes, in its order; uint8 HxW each, "..._rgb" HxWx3
    note: str = ""  # what a table's heading says beside the key


METRICS: dict[str, Metric] = {
    "EN": Metric("entropy (bits)", "higher", entropy, needs=("fused",)),
    "SD": Metric("standard deviation", "higher", standard_deviation, needs=("fused",)),
    "SF": Metric("spatial frequency", "higher", spatial_frequency, needs=("fused",)),
    "AG": Metric("average gradient", "higher", average_gradient, needs=("fused",)),
    "MI": Metric("mutual information (nats)", "higher", mutual_information),
    "SCD": Metric("sum of correlations of differences", "higher", sum_of_correlations_of_differences),
    "VIF": Metric("visual information fidelity", "higher", visual_information_fidelity),
    "Qabf": Metric("edge preservation", "higher", edge_preservation),
    "SSIM": Metric("structural similarity", "higher", structural_similarity, note="sum over both"),
    "MS_SSIM": Metric(
        "multi-scale structural similarity", "higher", multi_scale_structural_similarity, note="from 176 px"
    ),
    "CC": Metric("correlation coefficient", "higher", correlation_coefficient),
    "PSNR": Metric("peak signal-to-noise ratio (dB)", "higher", peak_signal_to_noise_ratio),
    "Nabf": Metric("fusion artefacts", "lower", fusion_artefacts),
}

# The metrics that mean ranks are made of.
TEN_METRICS = ("EN", "SD", "SF", "AG", "MI", "SCD", "VIF", "Qabf", "SSIM", "Nabf")

NATURAL_METRICS: dict[str, Metric] = {
    "Chroma": Metric("chroma kept of colourful areas", "higher", chroma_kept, needs=("fused_rgb", "visible_rgb")),
    "Sky": Metric("gradient in flat bright skies, relative to infrared's", "lower", sky_gradient),
    "Noise": Metric("noise of flat areas, relative to the quieter source's", "lower", flat_noise),
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


def natural_metrics(fused: Grey, fused_rgb: ImageArray, ir: Grey, vi: Grey, vi_rgb: ImageArray) -> dict[str, float]:
    """Compute the metrics of NATURAL_METRICS of one fused image.

    Args:
        fused, ir, vi: as those of `fusion_metrics`.
        fused_rgb, vi_rgb: uint8 HxWx3, RGB; grey images repeated.

    Returns:
        the values by name; NaN where an image has too few pixels of the kind that a metric is about.
    """
    inputs = {"fused": fused, "fused_rgb": fused_rgb, "infrared": ir, "visible": vi, "visible_rgb": vi_rgb}
    return {name: metric.compute(*(inputs[need] for need in metric.needs)) for name, metric in NATURAL_METRICS.items()}
