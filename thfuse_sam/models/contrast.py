"""The last stage of a fusion network: what is warm stands out in the fused image as it does in the infrared one.

Gates on features are too weak a path from masks to the result. Here each infrared segment has a path of its own: its
pixels are lifted until they exceed the segment's surroundings as they do in the infrared image. Where a mask reaches
too far, the infrared image does not, so that no border shows. All conditions are smooth: a segment that changes a
little changes the result a little.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from thfuse_sam.losses.filters import SOFT_END, gaussian_blur, soft_ends
from thfuse_sam.masks.segments import Segments, find_segments, segment_levels

# Below the first value a segment is left as it is, from the second on the stage counts in full; smooth between.
CONTRAST = (2 / 255, 6 / 255)  # intensity; by how much the segment is warmer than its surroundings
DOMINANCE = (-8 / 255, 8 / 255)  # intensity; by how much that exceeds its contrast in the visible image
SMALLEST = (8, 24)  # pixels of the segment
LARGEST = (0.04, 0.12)  # share of the image that the segment covers; here the other way round
FEATHER = 1.0  # pixels, sigma of the Gaussian that softens borders


def keep_contrast(fused: Tensor, ir: Tensor, vi: Tensor, ir_labels: Tensor, gain: float) -> Tensor:
    """Give warm segments at least the contrast that they have in the infrared image, pixel by pixel.

    Args:
        fused, ir, vi: float B1HW in [0, 1].
        ir_labels: int64 BHW, the segments of the infrared images; 0 where there is none.
        gain: the contrast to reach, as a factor on that in the infrared image.

    Returns:
        float B1HW in [0, 1]; pixels far from all warm segments are as they were, bit for bit. Gradients lead back to
        `fused`.
    """
    segments = find_segments(ir_labels, largest=LARGEST[1])
    if not torch.compiler.is_exporting() and not segments.areas.any():  # no segment: no work
        return fused
    inside, around = segment_levels(segments, torch.stack([fused[:, 0], ir[:, 0], vi[:, 0]]))
    _, in_ir, in_vi = inside - around
    weights = _weights(segments, in_ir, in_vi, ir_labels[0].numel())
    # Above bright surroundings there is not room for all of it: what fits keeps its texture.
    gains = torch.minimum((1 - SOFT_END - around[0]) / in_ir.clamp(min=CONTRAST[0]), torch.full_like(in_ir, gain))
    least = (around[0] - gains * around[1])[segments.index] + gains[segments.index] * ir[:, 0]
    lift = (weights[segments.index] * F.relu(least - fused[:, 0])).unsqueeze(1)
    # One pixel wider, because a blurred border would take from thin segments.
    lift = gaussian_blur(F.max_pool2d(lift, 3, stride=1, padding=1), FEATHER)
    return (fused + (soft_ends(fused + lift) - soft_ends(fused))).clamp(0, 1)


def _weights(segments: Segments, in_ir: Tensor, in_vi: Tensor, pixels: int) -> Tensor:
    """How far the stage counts for each segment, from 0 to 1; `pixels` of the image, contrasts of each segment."""
    return (
        _smooth_step(in_ir, *CONTRAST)
        * _smooth_step(in_ir - in_vi.abs(), *DOMINANCE)
        * _smooth_step(segments.areas, *SMALLEST)
        * (1 - _smooth_step(segments.areas / pixels, *LARGEST))
    )


def _smooth_step(values: Tensor, low: float, high: float) -> Tensor:
    """0 up to `low`, 1 from `high` on, smooth between."""
    position = ((values - low) / (high - low)).clamp(0, 1)
    return position**2 * (3 - 2 * position)
