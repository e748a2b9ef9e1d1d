"""The training loss of the fusion networks: named parts and their weighted sum."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from thfuse_sam.errors import UsageError
from thfuse_sam.losses.registry import DEFAULT_WEIGHTS, LOSS_PARTS, TOTAL, require_weights


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
        require_weights(weights, LOSS_PARTS)
        for part, weight in weights.items():
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
