"""Metrics of segments: whether what stands out in a source still stands out in the fused image.

They need label maps.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thfuse_sam.losses.filters import sobel
from thfuse_sam.masks.outlines import outlines
from thfuse_sam.masks.segments import Segments, find_segments, segment_contrasts
from thfuse_sam.metrics.arrays import Grey, grey_values

# A segment is left out where neither source reaches these values: it stands out in neither. Intensities are in [0, 1].
SMALLEST_CONTRAST = 4 / 255  # intensity
SMALLEST_GRADIENT = 1 / 255  # intensity per pixel


@torch.no_grad()
def region_metrics(
    fused: Grey, ir: Grey, vi: Grey, ir_labels: NDArray[np.int64] | None, vi_labels: NDArray[np.int64] | None
) -> dict[str, float]:
    """How much of the better source's contrast, and of its boundary strength, segments keep.

    The contrast of a segment is the difference of its mean intensity to that of its surroundings (`segment_contrasts`).
    Its boundary strength is the mean length of the Sobel gradient on the pixels inside its outline. The larger value of
    the two sources is the one to keep; keeping more counts as 1. The mean is over segments, whatever their size.

    Args:
        fused, ir, vi: uint8 HxW.
        ir_labels, vi_labels: int64 HxW, 0 where there is no segment; None for no segments.

    Returns:
        "contrast_kept" and "boundary_kept" in [0, 1], NaN if no segment stands out; "segments": how many were counted.
    """
    grey_values(fused=fused, ir=ir, vi=vi)
    images = torch.stack([torch.from_numpy(image.astype(np.float32) / 255)[None, None] for image in (fused, ir, vi)])
    maps = [torch.from_numpy(np.zeros(ir.shape, np.int64) if x is None else x)[None] for x in (ir_labels, vi_labels)]
    segments = find_segments(maps[0], maps[1])
    twice = images[:, :, 0].repeat(1, 2, 1, 1)
    strength = torch.stack([_boundary_strength(segments, torch.cat(maps), image) for image in images])
    contrast, count = _kept(segment_contrasts(segments, twice).abs(), SMALLEST_CONTRAST)
    boundary, _ = _kept(strength, SMALLEST_GRADIENT)
    return {"contrast_kept": contrast, "boundary_kept": boundary, "segments": float(count)}


def _boundary_strength(segments: Segments, labels: Tensor, image: Tensor) -> Tensor:
    """Mean gradient of `image`, 1x1xHxW, on each segment's own outline pixels: float, one value per segment.

    `labels`: both label maps, 2xHxW.
    """
    length = torch.linalg.vector_norm(sobel(image)[0], dim=0).repeat(2, 1, 1)
    border = outlines(labels).float()
    return segments.sums(length * border) / segments.sums(border).clamp(min=1)


def _kept(values: Tensor, smallest: float) -> tuple[float, int]:
    """How much of the better source's value is kept, as a mean over segments, and over how many of them.

    Args:
        values: float 3 x segments.count, for fused, ir and vi. Number 0, which is no segment, is left out.
        smallest: segments that stay below it in both sources are left out.
    """
    fused, best = values[0, 1:], values[1:, 1:].amax(0)
    stands_out = best >= smallest
    count = int(stands_out.sum())
    return (float((fused[stands_out] / best[stands_out]).clamp(max=1).mean()) if count else float("nan")), count
