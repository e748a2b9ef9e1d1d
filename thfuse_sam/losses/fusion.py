"""The training loss of the fusion networks: named parts and their weighted sum."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from thfuse_sam.errors import UsageError
from thfuse_sam.losses.colour import colour_loss
from thfuse_sam.losses.part import TOTAL, LossPart, default_weights
from thfuse_sam.losses.perceptual import perceptual_loss
from thfuse_sam.losses.pyramid import pyramid_loss
from thfuse_sam.losses.regions import region_edges_loss, region_loss
from thfuse_sam.losses.sources import (
    average_intensity_loss,
    gradient_loss,
    intensity_loss,
    salient_intensity_loss,
    squared_intensity_loss,
)
from thfuse_sam.losses.ssim import ssim_loss

_IMAGES = ("fused", "ir", "vi")
_SEGMENTS = (*_IMAGES, "ir_labels", "vi_labels")

# Inputs are those of `FusionLoss.forward` by name, and "perceptual", its module. Gradients are in intensity per pixel
# and ten times smaller than intensities; their weight decides how sharp the result is. The region parts are zero
# without masks, and their weights keep them below the parts that hold at every pixel.
LOSS_PARTS: dict[str, LossPart] = {
    "intensity": LossPart(intensity_loss, 0.0, _IMAGES),
    "intensity_squared": LossPart(squared_intensity_loss, 0.0, _IMAGES),
    "intensity_average": LossPart(average_intensity_loss, 0.0, _IMAGES),
    "intensity_salient": LossPart(salient_intensity_loss, 0.0, _IMAGES),
    "pyramid": LossPart(pyramid_loss, 3.0, _IMAGES),
    "gradient": LossPart(gradient_loss, 16.0, _IMAGES),
    "ssim": LossPart(ssim_loss, 0.75, _IMAGES),
    "region": LossPart(region_loss, 0.5, _SEGMENTS),
    "region_edges": LossPart(region_edges_loss, 2.0, _SEGMENTS),
    "perceptual": LossPart(perceptual_loss, 0.0, (*_IMAGES, "perceptual")),
    "colour": LossPart(colour_loss, 0.0, ("fused", "vi_rgb")),
}
DEFAULT_WEIGHTS = default_weights(LOSS_PARTS)


class FusionLoss(nn.Module):
    """Weighted sum of parts of LOSS_PARTS.

    Args:
        weights: weight of each part, 0 or more. Parts that are not named are not computed.
        perceptual: fixed network of the perceptual part, see `PerceptualLoss`; None where `weights` has no such part.

    Raises:
        UsageError: unknown part, or a weight that is negative or not finite, or none above 0, or no VGG for the
            perceptual part.
    """

    def __init__(self, weights: Mapping[str, float] = DEFAULT_WEIGHTS, perceptual: nn.Module | None = None):
        super().__init__()
        for part, weight in weights.items():
            if part not in LOSS_PARTS:
                raise UsageError(f"loss part {part!r} is unknown; use some of {', '.join(LOSS_PARTS)}")
            if not (math.isfinite(weight) and weight >= 0):
                raise UsageError(f"loss weight {part}={weight}; use a number of 0 or more")
            if weight > 0 and "perceptual" in LOSS_PARTS[part].needs and perceptual is None:
                raise UsageError(f"loss weight {part}={weight} needs a VGG; give `vgg_weights` FILE")
        if not any(weight > 0 for weight in weights.values()):
            raise UsageError(f"loss weights {dict(weights)} leave nothing to train on; set one above 0")
        self.weights = dict(weights)
        self.perceptual = perceptual

    def forward(
        self,
        fused: Tensor,
        ir: Tensor,
        vi: Tensor,
        ir_labels: Tensor | None = None,
        vi_labels: Tensor | None = None,
        vi_rgb: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Compute the parts, in single precision whatever the network ran in.

        Args:
            fused, ir, vi: float B1HW in [0, 1].
            ir_labels, vi_labels: int64 BHW, 0 where there is no segment; None for no segments.
            vi_rgb: float B3HW in [0, 1], for the colour part; None for no colour.

        Returns:
            Scalars: "total", the weighted sum, and each part by name, without its weight.
        """
        inputs = {
            "fused": fused.float(),
            "ir": ir.float(),
            "vi": vi.float(),
            "ir_labels": ir_labels,
            "vi_labels": vi_labels,
            "vi_rgb": None if vi_rgb is None else vi_rgb.float(),
            "perceptual": self.perceptual,
        }
        with torch.autocast(device_type=fused.device.type, enabled=False):
            parts = {name: LOSS_PARTS[name](inputs) for name in self.weights}
            total = torch.stack([self.weights[name] * part for name, part in parts.items()]).sum()
        return {TOTAL: total, **parts}
