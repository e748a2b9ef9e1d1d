"""What warm segments lack of their contrast in the infrared image: as a loss, and for the networks' last stage."""

import torch
from torch import Tensor
from torch.nn import functional as F

from thfuse_sam.losses.filters import SOFT_END, smooth_step, zero_loss
from thfuse_sam.masks.segments import Segments, falling_share, find_segments, inner_levels, mean_of_pairs, outer_levels

# Below the first value a segment does not count, from the second on it counts in full; smooth between.
CONTRAST = (12 / 255, 26 / 255)  # intensity; by how much the segment is warmer than its surroundings
DOMINANCE = (-8 / 255, 8 / 255)  # intensity; by how much that exceeds its contrast in the visible image
SMALLEST = (8, 24)  # pixels of the segment
LARGEST = (0.015, 0.04)  # share of the image that the segment covers; here the other way round
# People of a group are equally warm. So pixels of other small segments have this weight in the surroundings with which
# a segment is compared. Whether it is warm at all is decided with the weight 1; otherwise parts of one large thing,
# such as a roof, would count.
OTHERS = 0.3
# Width of a segment in heights. A flatter one must be warmer in proportion in order to count, so that strips of warm
# ground, which are hardly warmer than what is around them, do not.
FLAT = 2.0
# Share of the outline at which the infrared image falls by half of the segment's contrast. A person is warm against all
# that is around; a mask of a part of a roof or of a forest goes on in what is as warm beyond its outline.
OUTLINE = (0.45, 0.6)
# Intensity; in that decision surroundings that the visible image shows so much brighter than the segment count less
# from the first value on, and not at all from the second on: a roof is not warm because the sky behind it is cold.
BRIGHTER = (0.08, 0.16)
# Share of the surroundings that is not brighter. With hardly any, as for a person in the dark before a lit wall, all
# surroundings count.
NOT_BRIGHTER = (0.1, 0.3)
# Intensity; a pixel that the visible image shows so much brighter than the infrared one is lifted less from the first
# value on, and not at all from the second on. A cloud before a cold sky is bright as it is.
BRIGHT_AS_SEEN = (20 / 255, 60 / 255)


def missing_contrast(
    fused: Tensor, ir: Tensor, vi: Tensor, segments: Segments, gain: float
) -> tuple[Tensor, Tensor, Tensor]:
    """How far pixels of warm segments stay below what they exceed their surroundings by in the infrared image.

    Args:
        fused, ir, vi: float B1HW in [0, 1].
        segments: of the infrared images.
        gain: factor on the infrared contrast that is asked for.

    Returns:
        float B1HW of 0 or more, 0 outside of segments; the infrared contrast of each segment, and how far it counts,
        from 0 to 1: float, count. Gradients lead back to `fused` from the first.
    """
    images = torch.stack([fused[:, 0], ir[:, 0], vi[:, 0]])
    inside = inner_levels(segments, images)
    weights = _weights(segments, images[1:], inside[1:])
    around = outer_levels(segments, images[:2], inside[:2], OTHERS)
    in_ir = inside[1] - around[1]
    # Above bright surroundings there is not room for all of it: what fits keeps its texture.
    room = (1 - SOFT_END - around[0]).clamp(min=0)
    gains = torch.minimum(room / in_ir.clamp(min=CONTRAST[0]), torch.full_like(in_ir, gain))
    least = (around[0] - gains * around[1])[segments.index] + gains[segments.index] * ir[:, 0]
    asked = weights[segments.index] * (1 - smooth_step(vi - ir, *BRIGHT_AS_SEEN))[:, 0]
    return (asked * F.relu(least - fused[:, 0])).unsqueeze(1), in_ir, weights


def contrast_loss(fused: Tensor, ir: Tensor, vi: Tensor, ir_labels: Tensor | None) -> Tensor:
    """The share of their infrared contrast that warm segments lack. Small segments count like large ones.

    Args:
        fused, ir, vi: float B1HW in [0, 1].
        ir_labels: int64 BHW, the segments of the infrared images, 0 where there is none; None for no segments.

    Returns:
        Scalar: mean over the warm segments of each image, averaged over images; 0 without warm segments.
    """
    if ir_labels is None:
        return zero_loss(fused)
    segments = find_segments(ir_labels, largest=LARGEST[1])
    missing, in_ir, weights = missing_contrast(fused, ir, vi, segments, gain=1.0)
    lacking = segments.sums(missing) / (segments.areas.clamp(min=1) * in_ir.clamp(min=CONTRAST[0]))
    lacking, count = (values.reshape(len(fused), -1).sum(1) for values in (lacking, weights))
    return (lacking / count.clamp(min=1)).mean()


def _weights(segments: Segments, sources: Tensor, inside: Tensor) -> Tensor:
    """How far each segment counts, from 0 to 1: float, count.

    Args:
        segments: of N infrared images.
        sources: float 2 x N x H x W, the infrared and the visible images.
        inside: float 2 x count, their means in each segment.
    """
    seen, outline = sources[1].flatten(), segments.outline
    pairs = 1 - smooth_step(seen[outline.outer] - seen[outline.inner], *BRIGHTER)
    judged = smooth_step(mean_of_pairs(segments, pairs), *NOT_BRIGHTER)[outline.numbers]
    pairs = 1 - judged * (1 - pairs)
    in_ir, in_vi = inside - outer_levels(segments, sources, inside, weights=pairs)
    return (
        smooth_step(in_ir * (FLAT / _flatness(segments)).clamp(max=1), *CONTRAST)
        * smooth_step(in_ir - in_vi.abs(), *DOMINANCE)
        * smooth_step(falling_share(segments, sources[0], in_ir / 2, OTHERS, pairs), *OUTLINE)
        * smooth_step(segments.areas, *SMALLEST)
        * (1 - smooth_step(segments.areas / segments.index[0].numel(), *LARGEST))
    )


def _flatness(segments: Segments) -> Tensor:
    """The width of each segment in heights, both measured by the standard deviation of its pixels: float, count."""
    index, areas, deviations = segments.index, segments.areas.clamp(min=1), []
    for axis, shape in ((1, (-1, 1)), (2, (1, -1))):
        positions = torch.arange(index.shape[axis], dtype=areas.dtype, device=areas.device).view(shape).expand_as(index)
        from_middle = positions - (segments.sums(positions) / areas)[index]
        deviations.append((segments.sums(from_middle**2) / areas + 1 / 12).sqrt())  # 1 / 12: of a single pixel
    return deviations[1] / deviations[0]
