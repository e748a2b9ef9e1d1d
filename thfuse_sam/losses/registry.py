"""The parts of the training loss of fusion networks by name, and what a part of a loss is."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from thfuse_sam.errors import UsageError
from thfuse_sam.losses.colour import colour_loss
from thfuse_sam.losses.contrast import contrast_loss
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
from thfuse_sam.options.train import LOSS_WEIGHTS

TOTAL = "total"  # key of the weighted sum beside the parts


@dataclass(frozen=True)
class LossPart:
    """A loss and the names of the inputs that `compute` takes, in its order.

    The comment above each dict of parts says which names there are.
    """

    compute: Callable[..., Tensor]
    needs: tuple[str, ...]

    def __call__(self, inputs: Mapping[str, Any]) -> Tensor:
        """The loss of these inputs; `inputs` may hold more than this part needs."""
        return self.compute(*(inputs[name] for name in self.needs))


def require_weights(weights: Mapping[str, float], parts: Mapping[str, LossPart]) -> None:
    """Raise UsageError for a name that is none of `parts`, and for a weight that is negative or not finite."""
    for part, weight in weights.items():
        if part not in parts:
            raise UsageError(f"loss part {part!r} is unknown; the parts are {', '.join(parts)}")
        if not (math.isfinite(weight) and weight >= 0):
            raise UsageError(f"loss weight {part}={weight}; use a number of 0 or more")


_IMAGES = ("fused", "ir", "vi")
_SEGMENTS = (*_IMAGES, "ir_labels", "vi_labels")

# Inputs are those of `FusionLoss.forward` by name, and "perceptual", its module. Gradients are in intensity per pixel
# and ten times smaller than intensities. The region parts are zero without masks. `options/train.py` holds the default
# weights.
LOSS_PARTS: dict[str, LossPart] = {
    "intensity": LossPart(intensity_loss, _IMAGES),
    "intensity_squared": LossPart(squared_intensity_loss, _IMAGES),
    "intensity_average": LossPart(average_intensity_loss, _IMAGES),
    "intensity_salient": LossPart(salient_intensity_loss, _IMAGES),
    "pyramid": LossPart(pyramid_loss, _IMAGES),
    "gradient": LossPart(gradient_loss, _IMAGES),
    "ssim": LossPart(ssim_loss, _IMAGES),
    "region": LossPart(region_loss, _SEGMENTS),
    "region_edges": LossPart(region_edges_loss, _SEGMENTS),
    "contrast": LossPart(contrast_loss, (*_IMAGES, "ir_labels")),
    "perceptual": LossPart(perceptual_loss, (*_IMAGES, "perceptual")),
    "colour": LossPart(colour_loss, ("fused", "vi_rgb")),
}
DEFAULT_WEIGHTS = {name: weight for name, weight in LOSS_WEIGHTS.items() if weight > 0}
