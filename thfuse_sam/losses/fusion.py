"""The training loss of the fusion networks: named parts and their weighted sum."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from thfuse_sam.errors import UsageError
from thfuse_sam.losses.colour import colour_loss
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

# Sources only: (fused, ir, vi) -> scalar.
SOURCE_PARTS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "intensity": intensity_loss,
    "intensity_squared": squared_intensity_loss,
    "intensity_average": average_intensity_loss,
    "intensity_salient": salient_intensity_loss,
    "pyramid": pyramid_loss,
    "gradient": gradient_loss,
    "ssim": ssim_loss,
}
# Sources and segments: (fused, ir, vi, ir_labels, vi_labels) -> scalar.
REGION_PARTS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor | None, Tensor | None], Tensor]] = {
    "region": region_loss,
    "region_edges": region_edges_loss,
}
PERCEPTUAL = "perceptual"  # needs a VGG, see losses.perceptual
COLOUR = "colour"  # needs the visible image in RGB
LOSS_PARTS = (*SOURCE_PARTS, *REGION_PARTS, PERCEPTUAL, COLOUR)
TOTAL = "total"

# Gradients are in intensity per pixel and ten times smaller than intensities; their weight decides how sharp the result
# is. The region terms are zero without masks, and their weights keep them below the terms that hold at every pixel.
DEFAULT_WEIGHTS: dict[str, float] = {
    "pyramid": 3.0,
    "gradient": 16.0,
    "ssim": 0.75,
    "region": 0.5,
    "region_edges": 2.0,
}


class FusionLoss(nn.Module):
    """Weighted sum of the parts above.

    Args:
        weights: weight of each part, 0 or more. Parts that are not named are not computed.
        perceptual: (fused, ir, vi) -> scalar, as `PerceptualLoss`; None where `weights` has no perceptual part.

    Raises:
        UsageError: unknown part, or a weight that is negative or not finite, or none above 0, or no VGG for the
            perceptual part.
    """

    def __init__(self, weights: Mapping[str, float] = DEFAULT_WEIGHTS, perceptual: nn.Module | None = None):
        super().__init__()
        known = LOSS_PARTS
        for part, weight in weights.items():
            if part not in known:
                raise UsageError(f"loss part {part!r} is unknown; use some of {', '.join(known)}")
            if not (math.isfinite(weight) and weight >= 0):
                raise UsageError(f"loss weight {part}={weight}; use a number of 0 or more")
        if not any(weight > 0 for weight in weights.values()):
            raise UsageError(f"loss weights {dict(weights)} leave nothing to train on; set one above 0")
        if weights.get(PERCEPTUAL, 0) > 0 and perceptual is None:
            raise UsageError(f"loss weight {PERCEPTUAL}={weights[PERCEPTUAL]} needs a VGG; give `vgg_weights` FILE")
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
        with torch.autocast(device_type=fused.device.type, enabled=False):
            fused, ir, vi = fused.float(), ir.float(), vi.float()
            parts = {}
            for name in self.weights:
                if name in SOURCE_PARTS:
                    parts[name] = SOURCE_PARTS[name](fused, ir, vi)
                elif name in REGION_PARTS:
                    parts[name] = REGION_PARTS[name](fused, ir, vi, ir_labels, vi_labels)
                elif name == COLOUR:
                    parts[name] = colour_loss(fused, None if vi_rgb is None else vi_rgb.float())
                elif self.perceptual is not None:
                    parts[name] = self.perceptual(fused, ir, vi)
            total = torch.stack([self.weights[name] * part for name, part in parts.items()]).sum()
        return {TOTAL: total, **parts}
