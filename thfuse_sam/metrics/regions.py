"""Metrics of segments: whether what stands out in a source still stands out in the fused image.

Not part of `METRICS`, because they need label maps.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thfuse_sam.losses.filters import sobel
from thfuse_sam.masks.outlines import outlines
from thfuse_sam.masks.segments import Segments, find_segments, segment_contrasts
from thfuse_sam.metrics.arrays import Grey, grey_values

SMALLEST_CONTRAST = 4 / 255  # of the better source, in [0, 1]; segments below it stand out nowhere and are left out
SMALLEST_GRADIENT = 1 / 255  # per pixel, likewise


@torch.no_grad()
def region_metrics(
    fused: Grey, ir: Grey, vi: Grey, ir_labels: NDArray[np.int64] | None, vi_labels: NDArray[np.int64] | None
) -> dict[str, float]:
    """How much of the better source's contrast, and of its boundary strength, segments keep.

    The contrast of a segment is the difference of its mean level to that of its surroundings (`segment_contrasts`), its
    boundary strength the mean length of the Sobel gradient on the pixels inside its outline. Of both sources the larger
    value counts; a segment keeps at most all of it. The mean is over segments, whatever their size.

    Args:
        fused, ir, vi: uint8 HxW.
        ir_labels, vi_labels: int64 HxW, 0 where there is no segment; None for none.

    Returns:
        "contrast_kept" and "boundary_kept" in [0, 1], NaN where no segment stands out; "segments" that were counted.
    """
    grey_values(fused=fused, ir=ir, vi=vi)
    images = torch.stack([torch.from_numpy(image.astype(np.float32) / 255)[None, None] for image in (fused, ir, vi)])
    maps = [torch.from_numpy(np.zeros(ir.shape, np.int64) if x is None else x)[None] for x in (ir_labels, vi_labels)]
    segments = find_segments(maps[0], maps[1])
    twice = images[:, :, 0].repeat(1, 2, 1, 1)
    strength = torch.stack([_boundary_strength(segments, torch.cat(maps), image) for image in images])
    contrast, counted = _kept(segment_contrasts(segments, twice), SMALLEST_CONTRAST)
    boundary, _ = _kept(strength, SMALLEST_GRADIENT)
    return {"contrast_kept": contrast, "boundary_kept": boundary, "segments": float(counted)}


def _boundary_strength(segments: Segments, labels: Tensor, image: Tensor) -> Tensor:
    """Mean gradient of 1x1xHxW on each segment's own outline pixels: float, segments.count."""
    length = torch.linalg.vector_norm(sobel(image)[0], dim=0).repeat(2, 1, 1)
    border = outlines(labels).float()
    return segments.sums(length * border) / segments.sums(border).clamp(min=1)


def _kept(values: Tensor, smallest: float) -> tuple[float, int]:
    """How much of the better source's value is kept, as a mean over segments, and over how many of them.

    `values` is float 3 x segments.count, of (fused, ir, vi). Number 0, which is no segment, is left out.
    """
    fused, best = values[0, 1:], values[1:, 1:].amax(0)
    counts = best >= smallest
    number = int(counts.sum())
    return (float((fused[counts] / best[counts]).clamp(max=1).mean()) if number else float("nan")), number
