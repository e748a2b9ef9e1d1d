"""Loss that keeps room for the visible image's colour.

The networks fuse luma, and the visible image's chroma (Cb, Cr of BT.601) is put on it. A luma that is too bright or too
dark leaves no room for that chroma in RGB, which is then reduced: colours wash out.
"""

from torch import Tensor
from torch.nn import functional as F

from thfuse_sam.images import LUMA_WEIGHTS
from thfuse_sam.losses.filters import zero_loss


def colour_loss(fused: Tensor, vi_rgb: Tensor | None) -> Tensor:
    """How far RGB values leave [0, 1] when the visible image's chroma is put on the fused luma.

    Args:
        fused: float B1HW in [0, 1], luma.
        vi_rgb: float B3HW in [0, 1]; None for no colour.

    Returns:
        Scalar, summed over the channels and averaged over pixels; 0 where all colour fits, or where there is none.
    """
    if vi_rgb is None:
        return zero_loss(fused)
    weights = vi_rgb.new_tensor(LUMA_WEIGHTS).reshape(1, 3, 1, 1)
    # RGB minus its luma stands for Cb and Cr here, which are linear functions of these differences.
    offsets = vi_rgb - (vi_rgb * weights).sum(1, keepdim=True)
    rgb = fused + offsets
    return (F.relu(rgb - 1) + F.relu(-rgb)).sum(1).mean()
