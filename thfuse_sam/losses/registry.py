"""The parts of the training loss of fusion networks by name, and what a part of a loss is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

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

TOTAL = "total"  # key of the weighted sum beside the parts


@dataclass(frozen=True)
class LossPart:
    """A loss with its default weight and the names of what it is computed from.

    `needs` names the inputs that `compute` takes, in its order. The comment above each dict of parts says which names
    there are.
    """

    compute: Callable[..., Tensor]
    weight: float  # default weight; a part with 0 is computed only if it is asked for
    needs: tuple[str, ...]

    def __call__(self, inputs: Mapping[str, Any]) -> Tensor:
        """The loss of these inputs; `inputs` may hold more than this part needs."""
        return self.compute(*(inputs[name] for name in self.needs))


def default_weights(parts: Mapping[str, LossPart]) -> dict[str, float]:
    """The weight of every part that is computed without being asked for."""
    return {name: part.weight for name, part in parts.items() if part.weight > 0}


_IMAGES = ("fused", "ir", "vi")
_SEGMENTS = (*_IMAGES, "ir_labels", "vi_labels")

# Inputs are those of `FusionLoss.forward` by name, and "perceptual", its module. Gradients are in intensity per pixel
# and ten times smaller than intensities; their weight decides how sharp the result is. The region parts are zero
# without masks, and their weights keep them below the parts that hold at every pixel. Names and default weights
# also stand in `options/train.py`, which has to load without torch.
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
    "contrast": LossPart(contrast_loss, 1.0, (*_IMAGES, "ir_labels")),
    "perceptual": LossPart(perceptual_loss, 0.0, (*_IMAGES, "perceptual")),
    "colour": LossPart(colour_loss, 0.0, ("fused", "vi_rgb")),
}
DEFAULT_WEIGHTS = default_weights(LOSS_PARTS)
