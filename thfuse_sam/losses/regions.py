"""Losses that know the segments: a region keeps the level of the source that shows it best, and its outline.

All segments of a batch are handled at once: each has one index, and sums over segments are scatter operations.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from thfuse_sam.losses.sources import fused_and_target_gradients

REACH = 6  # pixels; what lies this far beyond a segment's outline counts as its surroundings
_DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))  # (rows, columns); each is used forwards and backwards

Slices = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Segments:
    """The segments of both label maps of a batch.

    Attributes:
        index: int64, 2B x H x W (infrared label maps, then visible ones); 0 where there is no segment, otherwise the
            segment's place in the per-segment vectors.
        count: number of places, the empty 0 included.
        areas: float, count; pixels of each segment, 0 at place 0.
    """

    index: Tensor
    count: int
    areas: Tensor

    def sums(self, values: Tensor) -> Tensor:
        """Sum 2B x H x W values over each segment: float, count."""
        return values.new_zeros(self.count).index_add(0, self.index.flatten(), values.flatten())


def find_segments(ir_labels: Tensor, vi_labels: Tensor) -> Segments:
    """Number the segments of both modalities and of all images of the batch.

    Args:
        ir_labels, vi_labels: int64 BHW, 0 where there is no segment.
    """
    labels = torch.cat([ir_labels, vi_labels])
    stride = int(labels.max()) + 1
    offsets = torch.arange(len(labels), device=labels.device).reshape(-1, 1, 1) * stride
    index = torch.where(labels > 0, labels + offsets, 0)
    count = len(labels) * stride
    areas = torch.bincount(index.flatten(), minlength=count).to(torch.float32)
    areas[0] = 0
    return Segments(index, count, areas)


def contrasts(segments: Segments, sources: Tensor) -> Tensor:
    """How much each segment's mean differs from the mean of its surroundings, in several sources.

    Surroundings are the pixels of other segments, or of none, at REACH pixels from a pixel of the segment in eight
    directions.

    Args:
        segments: segments of 2B label maps.
        sources: float K x 2B x H x W, the images to measure them in.

    Returns:
        float, K x count; 0 for a segment that has no surroundings (it fills its image).
    """
    outside_sum = sources.new_zeros(len(sources), segments.count)
    outside_count = sources.new_zeros(segments.count)
    for here, there in _shifted_pairs(*sources.shape[-2:]):
        differ = segments.index[here] != segments.index[there]
        # Each pair counts twice: either pixel lies in the surroundings of the other's segment.
        for inner, outer in ((here, there), (there, here)):
            # Place 0 takes what does not count: that is much faster than leaving it out.
            index = torch.where(differ, segments.index[inner], 0).flatten()
            outside_count += torch.bincount(index, minlength=segments.count)
            for total, source in zip(outside_sum, sources, strict=True):
                total.index_add_(0, index, source[outer].flatten())
    inside = torch.stack([segments.sums(source) for source in sources]) / segments.areas.clamp(min=1)
    outside = outside_sum / outside_count.clamp(min=1)
    return torch.where((outside_count > 0) & (segments.areas > 0), (inside - outside).abs(), 0)


def region_loss(fused: Tensor, ir: Tensor, vi: Tensor, ir_labels: Tensor | None, vi_labels: Tensor | None) -> Tensor:
    """Difference of each segment's mean level to its level in the source where it stands out more.

    Only the mean of a segment is held, so the texture inside stays free to come from both sources.

    Args:
        fused, ir, vi: float B1HW in [0, 1].
        ir_labels, vi_labels: int64 BHW, 0 where there is no segment; None for no segments.

    Returns:
        Scalar: absolute differences, weighted by area in each image, averaged over images; 0 without segments. Each
        image counts by itself, so that a batch in parts, in turns or in several processes, has the loss of the whole.
    """
    if ir_labels is None and vi_labels is None:
        return _nothing(fused)
    ir_labels, vi_labels = _both(ir_labels, vi_labels)
    with torch.no_grad():
        segments = find_segments(ir_labels, vi_labels)
        sources = torch.stack([_twice(ir), _twice(vi)])
        contrast_ir, contrast_vi = contrasts(segments, sources)
        target_sums = torch.where(contrast_ir > contrast_vi, segments.sums(sources[0]), segments.sums(sources[1]))
    differences = (segments.sums(_twice(fused)) - target_sums).abs()
    differences = torch.where(segments.areas > 0, differences, 0)
    # Places are numbered label map by label map, the infrared ones of all images first.
    of_image = differences.reshape(2, len(fused), -1).sum((0, 2))
    areas = segments.areas.reshape(2, len(fused), -1).sum((0, 2))
    return (of_image / areas.clamp(min=1)).mean()


def region_edges_loss(
    fused: Tensor, ir: Tensor, vi: Tensor, ir_labels: Tensor | None, vi_labels: Tensor | None
) -> Tensor:
    """How much of the steeper source's gradient is missing along the segments' outlines; steeper is free.

    Args:
        fused, ir, vi: float B1HW in [0, 1].
        ir_labels, vi_labels: int64 BHW, 0 where there is no segment; None for no segments.

    Returns:
        Scalar, averaged over each image's outline pixels, then over images; 0 without segments.
    """
    if ir_labels is None and vi_labels is None:
        return _nothing(fused)
    ir_labels, vi_labels = _both(ir_labels, vi_labels)
    outline = (outlines(ir_labels) | outlines(vi_labels)).unsqueeze(1)
    gradient, target = fused_and_target_gradients(fused, ir, vi)
    missing = F.relu(target.abs() - target.sign() * gradient)
    return ((missing * outline).sum((1, 2, 3)) / outline.sum((1, 2, 3)).clamp(min=1)).mean()


def outlines(labels: Tensor) -> Tensor:
    """Pixels beside a pixel of another label, on both sides of the border.

    Args:
        labels: int64 BHW.

    Returns:
        bool BHW.
    """
    result = torch.zeros_like(labels, dtype=torch.bool)
    down = labels[:, 1:] != labels[:, :-1]
    right = labels[:, :, 1:] != labels[:, :, :-1]
    result[:, 1:] |= down
    result[:, :-1] |= down
    result[:, :, 1:] |= right
    result[:, :, :-1] |= right
    return result


def _shifted_pairs(height: int, width: int) -> list[tuple[Slices, Slices]]:
    """Slices of N x H x W such that the second is the first moved by REACH pixels, one for each direction."""
    pairs = []
    for rows, columns in _DIRECTIONS:
        row_here, row_there = _shifted(rows * REACH, height)
        column_here, column_there = _shifted(columns * REACH, width)
        pairs.append(((slice(None), row_here, column_here), (slice(None), row_there, column_there)))
    return pairs


def _shifted(shift: int, size: int) -> tuple[slice, slice]:
    overlap = max(size - abs(shift), 0)
    first, second = slice(0, overlap), slice(size - overlap, size)
    return (first, second) if shift >= 0 else (second, first)


def _twice(images: Tensor) -> Tensor:
    """B1HW -> 2B x H x W: once for the infrared label maps and once for the visible ones."""
    return images[:, 0].repeat(2, 1, 1)


def _both(ir_labels: Tensor | None, vi_labels: Tensor | None) -> tuple[Tensor, Tensor]:
    if ir_labels is None:
        assert vi_labels is not None
        return torch.zeros_like(vi_labels), vi_labels
    return ir_labels, torch.zeros_like(ir_labels) if vi_labels is None else vi_labels


def _nothing(fused: Tensor) -> Tensor:
    """A zero that a backward pass may start from."""
    return (fused * 0).sum()
