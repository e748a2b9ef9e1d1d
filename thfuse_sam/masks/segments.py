"""Measuring images inside segments and around them, for losses and metrics.

All segments of a batch are handled at once: each has one number, and sums over segments are scatter operations.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from thfuse_sam.devices import is_exporting, upload
from thfuse_sam.masks.format import MAX_SEGMENTS

REACH = 6  # pixels; a segment's surroundings are up to this far beyond its outline
_DIRECTIONS = ((0, 1), (1, 0), (1, 1), (1, -1))  # (rows, columns); each is used forwards and backwards

Slices = tuple[slice, slice, slice]


class Outline(NamedTuple):
    """Pairs of pixels, REACH pixels apart in eight directions: one of a segment, and one that is not of it.

    The first lies at the outline of its segment, the second in the segment's surroundings.

    Attributes:
        inner, outer: int64, pairs; the pixels' numbers in the flattened `Segments.index`.
        numbers: int64, pairs; the segment of the inner pixel.
        among_segments: bool, pairs; the outer pixel belongs to a segment, too.
    """

    inner: Tensor
    outer: Tensor
    numbers: Tensor
    among_segments: Tensor

    def counts(self, others: float, weights: Tensor | None) -> Tensor:
        """How much each pair counts: `others` where the outer pixel belongs to a segment, else 1, times `weights`."""
        counts = torch.where(self.among_segments, others, 1.0)
        return counts if weights is None else weights * counts.to(weights)


@dataclass(frozen=True)
class Segments:
    """The segments of N label maps: those of a batch, the infrared ones first where there are both.

    Attributes:
        index: int64, N x H x W; the number of the segment that a pixel belongs to, 0 where there is none. Vectors with
            one value for each segment are indexed by it.
        count: length of such vectors, the unused number 0 included.
        areas: float, count; pixels of each segment, 0 for number 0.
    """

    index: Tensor
    count: int
    areas: Tensor

    def sums(self, values: Tensor) -> Tensor:
        """Sum N x H x W values over each segment: float, count."""
        return _add_at(values.new_zeros(self.count), self.index.flatten(), values.flatten())

    @cached_property
    def outline(self) -> Outline:
        """The pairs of pixels that lead out of segments."""
        leads_out = self.index.new_zeros((2 * len(_DIRECTIONS), *self.index.shape), dtype=torch.bool)
        steps: list[int] = []
        for first, second, step in _shifted_pairs(*self.index.shape[1:]):
            differ = self.index[first] != self.index[second]
            for own, to_other in ((first, step), (second, -step)):
                leads_out[len(steps)][own] = differ & (self.index[own] > 0)
                steps.append(to_other)
        # Few pixels: only these are gathered, those of all directions at once, because a GPU is waited for.
        directions, inside = leads_out.flatten(1).nonzero().unbind(1)
        pixels, outside = self.index.flatten(), inside + upload(torch.tensor(steps), inside.device)[directions]
        return Outline(inside, outside, pixels[inside], pixels[outside] > 0)


def find_segments(*label_maps: Tensor, largest: float = 1.0) -> Segments:
    """Number the segments of all images of a batch, for one or both modalities.

    Args:
        label_maps: int64 BHW each, 0 where there is no segment.
        largest: segments that cover a larger share of their image are left out.
    """
    labels = torch.cat(label_maps)
    # An exported program cannot have shapes that depend on values.
    stride = 1 + (MAX_SEGMENTS if is_exporting() else int(labels.max()))
    offsets = torch.arange(labels.shape[0], device=labels.device).reshape(-1, 1, 1) * stride
    index = torch.where(labels > 0, labels + offsets, 0)
    count = labels.shape[0] * stride
    areas = _sizes(index.flatten(), count)
    areas[0] = 0
    if largest < 1:
        areas = areas.masked_fill(areas > largest * labels[0].numel(), 0)
        index = torch.where((areas > 0)[index], index, 0)
    return Segments(index, count, areas)


def inner_levels(segments: Segments, images: Tensor) -> Tensor:
    """The mean of several images, float K x N x H x W, inside each segment: float K x count, 0 for number 0."""
    sums = _add_at(images.new_zeros(len(images), segments.count), segments.index.flatten(), images.flatten(1))
    return torch.where(segments.areas > 0, sums / segments.areas.clamp(min=1), 0)


def outer_levels(
    segments: Segments, images: Tensor, inside: Tensor, others: float = 1.0, weights: Tensor | None = None
) -> Tensor:
    """The mean of several images in the surroundings of each segment.

    Surroundings are the pixels of other segments, or of none, at REACH pixels from any pixel of the segment in eight
    directions: a band up to REACH pixels wide. A pixel counts once for each pixel of the segment that leads to it.

    Args:
        segments: segments of N label maps.
        images: float K x N x H x W, the images whose values are averaged.
        inside: float K x count, the values of segments that have no surroundings, such as those that fill their image.
        others: how much a pixel of another segment counts, where one of no segment counts 1.
        weights: float from 0 to 1, how much each pair of `segments.outline` counts (default: 1).

    Returns:
        Float K x count, 0 for number 0.
    """
    outline = segments.outline
    counts = outline.counts(others, weights).to(images)
    means, total = _means_over_pairs(segments, images.flatten(1)[:, outline.outer], counts)
    return torch.where(total > 0, means, inside)


def segment_contrasts(segments: Segments, images: Tensor) -> Tensor:
    """By how much each segment is brighter than its surroundings, see `outer_levels`: float K x count."""
    inside = inner_levels(segments, images)
    return inside - outer_levels(segments, images, inside)


def mean_of_pairs(segments: Segments, values: Tensor) -> Tensor:
    """The mean over the outline of each segment of one value for each pair of pixels: float, count; 0 without pairs."""
    return _means_over_pairs(segments, values[None], torch.ones_like(values))[0][0]


def falling_share(segments: Segments, image: Tensor, fall: Tensor, others: float, weights: Tensor) -> Tensor:
    """The share of each segment's outline at which the image falls outwards.

    Args:
        segments: segments of N label maps.
        image: float N x H x W.
        fall: float, count; by how much it has to fall from a pixel inside to the one REACH pixels from it outside. From
            0.8 to 1.2 of that a pair of pixels begins to count.
        others: how much a pair counts whose outer pixel belongs to another segment, where one of no segment counts 1.
        weights: float from 0 to 1, how much each pair of `segments.outline` counts.

    Returns:
        Float, count: from 0 to 1; 0 for a segment without surroundings and for number 0.
    """
    outline, values, fall = segments.outline, image.flatten(), fall.clamp(min=1e-3)
    falls = ((values[outline.inner] - values[outline.outer]) / fall[outline.numbers] - 0.8) / 0.4
    counts = outline.counts(others, weights).to(falls)
    return _means_over_pairs(segments, falls.clamp(0, 1)[None], counts)[0][0]


def _means_over_pairs(segments: Segments, values: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Means of K x pairs values over the outline of each segment, weighted by `counts`, 0 without pairs; and the sums
    of `counts`: float K x count, and count.
    """
    weighted = torch.cat([values * counts, counts[None]])
    sums = _add_at(weighted.new_zeros(len(weighted), segments.count), segments.outline.numbers, weighted)
    return sums[:-1] / sums[-1].clamp(min=1e-6), sums[-1]


def _sizes(numbers: Tensor, count: int) -> Tensor:
    """How often each number below `count` occurs: float, count. (`bincount` cannot be exported.)"""
    ones = torch.ones((), device=numbers.device).expand(numbers.shape)
    return _add_at(torch.zeros(count, device=numbers.device), numbers, ones)


def _add_at(sums: Tensor, index: Tensor, values: Tensor) -> Tensor:
    """Add `values` (...xN) to `sums` (...xM) at the N places `index` of the last axis."""
    if is_exporting():  # `index_add` becomes an operation of ONNX in which onnxruntime's threads race
        return sums.scatter_add(-1, index.expand(values.shape), values)
    return sums.index_add(-1, index, values)


def _shifted_pairs(height: int, width: int) -> list[tuple[Slices, Slices, int]]:
    """Slices of N x H x W such that the second is the first moved by REACH pixels, one pair for each direction.

    The number beside them is how far apart both are in the flattened array.
    """
    pairs = []
    for rows, columns in _DIRECTIONS:
        first_rows, second_rows = _shifted(rows * REACH, height)
        first_columns, second_columns = _shifted(columns * REACH, width)
        first, second = (slice(None), first_rows, first_columns), (slice(None), second_rows, second_columns)
        pairs.append((first, second, REACH * (rows * width + columns)))
    return pairs


def _shifted(shift: int, size: int) -> tuple[slice, slice]:
    """Slices of an axis of `size` pixels such that the second is the first moved by `shift` pixels."""
    overlap = max(size - abs(shift), 0)
    first, second = slice(0, overlap), slice(size - overlap, size)
    return (first, second) if shift >= 0 else (second, first)
