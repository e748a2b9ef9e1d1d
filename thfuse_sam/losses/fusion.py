"""The training loss of the fusion networks: named parts and their weighted sum."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from thfuse_sam.errors import UsageError
from thfuse_sam.losses.regions import region_edges_loss, region_loss
from thfuse_sam.losses.sources import gradient_loss, intensity_loss
from thfuse_sam.losses.ssim import ssim_loss

# Sources only: (fused, ir, vi) -> scalar.
SOURCE_PARTS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "intensity": intensity_loss,
    "gradient": gradient_loss,
    "ssim": ssim_loss,
}
# Sources and segments: (fused, ir, vi, ir_labels, vi_labels) -> scalar.
REGION_PARTS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor | None, Tensor | None], Tensor]] = {
    "region": region_loss,
    "region_edges": region_edges_loss,
}
TOTAL = "total"

# Gradients are in intensity per pixel and ten times smaller than intensities; their weight decides how sharp the result
# is (10 equals 2.5 on the mean of Sobel kernels not divided by 8). The region terms are zero without masks, and
# their weights keep them below the terms that hold at every pixel.
DEFAULT_WEIGHTS: dict[str, float] = {
    "intensity": 1.0,
    "gradient": 10.0,
    "ssim": 1.0,
    "region": 0.5,
    "region_edges": 2.0,
}


class FusionLoss(nn.Module):
    """Weighted sum of the parts above.

    Args:
        weights: weight of each part, 0 or more. Parts that are not named are not computed.

    Raises:
        UsageError: unknown part, or a weight that is negative or not finite, or none above 0.
    """

    def __init__(self, weights: Mapping[str, float] = DEFAULT_WEIGHTS):
        super().__init__()
        known = [*SOURCE_PARTS, *REGION_PARTS]
        for part, weight in weights.items():
            if part not in known:
                raise UsageError(f"loss part {part!r} is unknown; use some of {', '.join(known)}")
            if not (math.isfinite(weight) and weight >= 0):
                raise UsageError(f"loss weight {part}={weight}; use a number of 0 or more")
        if not any(weight > 0 for weight in weights.values()):
            raise UsageError(f"loss weights {dict(weights)} leave nothing to train on; set one above 0")
        self.weights = dict(weights)

    def forward(
        self, fused: Tensor, ir: Tensor, vi: Tensor, ir_labels: Tensor | None = None, vi_labels: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Compute the parts, in single precision whatever the network ran in.

        Args:
            fused, ir, vi: float B1HW in [0, 1].
            ir_labels, vi_labels: int64 BHW, 0 where there is no segment; None for no segments.

        Returns:
            Scalars: "total", the weighted sum, and each part by name, without its weight.
        """
        with torch.autocast(device_type=fused.device.type, enabled=False):
            fused, ir, vi = fused.float(), ir.float(), vi.float()
            parts = {}
            for name in self.weights:
                if name in SOURCE_PARTS:
                    parts[name] = SOURCE_PARTS[name](fused, ir, vi)
                else:
                    parts[name] = REGION_PARTS[name](fused, ir, vi, ir_labels, vi_labels)
            total = torch.stack([self.weights[name] * part for name, part in parts.items()]).sum()
        return {TOTAL: total, **parts}
