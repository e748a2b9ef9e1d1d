"""The last stage of a fusion network: what is warm stands out in the fused image as it does in the infrared one.

Gates on features are too weak a path from masks to the result. Here each infrared segment has a path of its own: its
pixels are lifted until they exceed the segment's surroundings as they do in the infrared image. Where a mask reaches
too far, the infrared image does not, so that no border shows. What the visible image shows much brighter than the
infrared one stays as it is. All conditions are smooth: a segment that changes a little changes the result a little.
"""

from torch import Tensor
from torch.nn import functional as F

from thfuse_sam.devices import is_exporting
from thfuse_sam.losses.contrast import LARGEST, missing_contrast
from thfuse_sam.losses.filters import gaussian_blur, soft_ends
from thfuse_sam.masks.segments import find_segments

FEATHER = 1.15  # pixels, sigma of the Gaussian that softens borders


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
    if not is_exporting() and not segments.areas.any():  # no segment: no work
        return fused
    lift, _, _ = missing_contrast(fused, ir, vi, segments, gain)
    # One pixel wider, because a blurred border would take from thin segments.
    lift = gaussian_blur(F.max_pool2d(lift, 3, stride=1, padding=1), FEATHER)
    return (fused + (soft_ends(fused + lift) - soft_ends(fused))).clamp(0, 1)
