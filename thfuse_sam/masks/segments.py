"""Measuring images inside segments and around them, for losses and metrics.

All segments of a batch are handled at once: each has one number, and sums over segments are scatter operations.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

REACH = 6  # pixels; what lies this far beyond a segment's outline counts as its surroundings
_DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))  # (rows, columns); each is used forwards and backwards

Slices = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Segments:
    """The segments of both label maps of a batch.

    Attributes:
        index: int64, 2B x H x W (infrared label maps, then visible ones); the number of the segment that a pixel
            belongs to, 0 where there is none. Vectors with one value for each segment are indexed by it.
        count: length of such vectors, the unused number 0 included.
        areas: float, count; pixels of each segment, 0 for number 0.
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


def segment_contrasts(segments: Segments, sources: Tensor) -> Tensor:
    """How much each segment's mean differs from the mean of its surroundings, in several sources.

    Surroundings are the pixels of other segments, or of none, at REACH pixels from a pixel of the segment in eight
    directions.

    Args:
        segments: segments of 2B label maps.
        sources: float K x 2B x H x W, the images whose values are averaged.

    Returns:
        float, K x count; 0 for a segment that has no surroundings (it fills its image).
    """
    outside_sum = sources.new_zeros(len(sources), segments.count)
    outside_count = sources.new_zeros(segments.count)
    for first, second in _shifted_pairs(*sources.shape[-2:]):
        differ = segments.index[first] != segments.index[second]
        # Each pair counts twice: either pixel lies in the surroundings of the other's segment.
        for inner, outer in ((first, second), (second, first)):
            # Number 0 takes what does not count: that is much faster than leaving it out.
            index = torch.where(differ, segments.index[inner], 0).flatten()
            outside_count += torch.bincount(index, minlength=segments.count)
            for total, source in zip(outside_sum, sources, strict=True):
                total.index_add_(0, index, source[outer].flatten())
    inside = torch.stack([segments.sums(source) for source in sources]) / segments.areas.clamp(min=1)
    outside = outside_sum / outside_count.clamp(min=1)
    return torch.where((outside_count > 0) & (segments.areas > 0), (inside - outside).abs(), 0)


def _shifted_pairs(height: int, width: int) -> list[tuple[Slices, Slices]]:
    """Slices of N x H x W such that the second is the first moved by REACH pixels, one pair for each direction."""
    pairs = []
    for rows, columns in _DIRECTIONS:
        first_rows, second_rows = _shifted(rows * REACH, height)
        first_columns, second_columns = _shifted(columns * REACH, width)
        pairs.append(((slice(None), first_rows, first_columns), (slice(None), second_rows, second_columns)))
    return pairs


def _shifted(shift: int, size: int) -> tuple[slice, slice]:
    """Slices of an axis of `size` pixels such that the second is the first moved by `shift` pixels."""
    overlap = max(size - abs(shift), 0)
    first, second = slice(0, overlap), slice(size - overlap, size)
    return (first, second) if shift >= 0 else (second, first)
