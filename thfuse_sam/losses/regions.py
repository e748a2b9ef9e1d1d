"""Losses on segments: each keeps its mean intensity in the source where it stands out more, and its outline."""

import torch
from torch import Tensor
from torch.nn import functional as F

from thfuse_sam.losses.filters import zero_loss
from thfuse_sam.losses.sources import fused_and_target_gradients
from thfuse_sam.masks.outlines import outlines
from thfuse_sam.masks.segments import find_segments, segment_contrasts


def region_loss(fused: Tensor, ir: Tensor, vi: Tensor, ir_labels: Tensor | None, vi_labels: Tensor | None) -> Tensor:
    """Difference of each segment's mean intensity to that in the source where it stands out more.

    Only the mean of a segment is held, so the texture inside stays free to come from both sources.

    Args:
        fused, ir, vi: float B1HW in [0, 1].
        ir_labels, vi_labels: int64 BHW, 0 where there is no segment; None for no segments.

    Returns:
        Scalar: absolute differences, weighted by area in each image, averaged over images; 0 without segments. Each
        image counts by itself, so that a batch that is split over steps or processes has the loss of the whole batch.
    """
    labels = _label_maps(ir_labels, vi_labels)
    if labels is None:
        return zero_loss(fused)
    with torch.no_grad():
        segments = find_segments(*labels)
        sources = torch.stack([_twice(ir), _twice(vi)])
        contrast_ir, contrast_vi = segment_contrasts(segments, sources).abs()
        target_sums = torch.where(contrast_ir > contrast_vi, segments.sums(sources[0]), segments.sums(sources[1]))
    differences = (segments.sums(_twice(fused)) - target_sums).abs()
    differences = torch.where(segments.areas > 0, differences, 0)
    # Segments are numbered label map by label map, the infrared ones of all images first.
    per_image = differences.reshape(2, len(fused), -1).sum((0, 2))
    areas = segments.areas.reshape(2, len(fused), -1).sum((0, 2))
    return (per_image / areas.clamp(min=1)).mean()


def region_edges_loss(
    fused: Tensor, ir: Tensor, vi: Tensor, ir_labels: Tensor | None, vi_labels: Tensor | None
) -> Tensor:
    """How much of the steeper source's gradient is missing along the segments' outlines.

    A fused image that is steeper than both sources costs nothing.

    Args:
        fused, ir, vi: float B1HW in [0, 1].
        ir_labels, vi_labels: int64 BHW, 0 where there is no segment; None for no segments.

    Returns:
        Scalar, averaged over each image's outline pixels, then over images; 0 without segments.
    """
    labels = _label_maps(ir_labels, vi_labels)
    if labels is None:
        return zero_loss(fused)
    outline = (outlines(labels[0]) | outlines(labels[1])).unsqueeze(1)
    gradient, target = fused_and_target_gradients(fused, ir, vi)
    missing = F.relu(target.abs() - target.sign() * gradient)
    return ((missing * outline).sum((1, 2, 3)) / outline.sum((1, 2, 3)).clamp(min=1)).mean()


def _twice(images: Tensor) -> Tensor:
    """B1HW -> 2B x H x W: once for the infrared label maps and once for the visible ones."""
    return images[:, 0].repeat(2, 1, 1)


def _label_maps(ir_labels: Tensor | None, vi_labels: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """Both label maps, an absent one as a map without segments; None where both are absent."""
    present = ir_labels if ir_labels is not None else vi_labels
    if present is None:
        return None
    empty = torch.zeros_like(present)
    return (empty if ir_labels is None else ir_labels), (empty if vi_labels is None else vi_labels)
