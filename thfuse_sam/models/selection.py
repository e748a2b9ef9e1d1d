"""A stage of a fusion network after its layers: each place follows one of the sources more decidedly.

A mixture of both is like neither, and its details may be stronger than those of either. Burt and Kolczynski, "Enhanced
image capture through fusion", ICCV 1993, select the more salient source where the two differ. Here the result moves
some way from the mixture of the layers to such a selection, with weights that are smooth in the images, and no detail
stays stronger than in the source that shows it best.
"""

import torch
from torch import Tensor

from thfuse_sam.losses.filters import smooth_step
from thfuse_sam.models.blocks import cell_means, extend, local_mean, upsample

CELL = 32  # pixels, side of the squares on which means around a pixel are computed
WINDOW = 5  # cells; two passes are about a Gaussian of 65 pixels: with a smaller one smudges show in trees
DETAIL_CELL, DETAIL_WINDOW = 8, 3  # pixels, cells; a detail is what differs from the mean over such a window
# Mean intensity around a pixel, of the brighter source: below, what is brighter is salient; above, what varies more.
DARK = (0.35, 0.65)
TOWARDS_BRIGHTER, TOWARDS_VARIED = 0.2, 0.3  # how far the result moves to the salient source in either case
DECISION = 8  # power of the variances; a larger one favours the source that varies more
BRIGHTER = 0.03  # intensity by which a pixel has to be brighter
EPS = 1e-5  # squared intensity; two sources that vary less count alike


def select_source(fused: Tensor, ir: Tensor, vi: Tensor, amount: float) -> Tensor:
    """Move each place towards the source that is more salient there, and towards the one that it already follows.

    Args:
        fused, ir, vi: float B1HW in [0, 1].
        amount: 0: nothing changes, 1: all of it.

    Returns:
        float B1HW in [0, 1]. Gradients lead back to `fused`.
    """
    height, width = fused.shape[-2:]
    fused, ir, vi = (extend(image, CELL) for image in (fused, ir, vi))
    selected = _without_overshoots(_selected(fused, ir, vi), ir, vi)
    return torch.lerp(fused, selected, amount)[..., :height, :width].clamp(0, 1)


def _selected(fused: Tensor, ir: Tensor, vi: Tensor) -> Tensor:
    """`fused`, B1HW, nearer to one source."""
    difference = ir - vi
    images = (ir, vi, ir**2, vi**2, difference * (fused - vi), difference**2)
    means = torch.cat([cell_means(image, CELL) for image in images], dim=1)
    ir_mean, vi_mean, ir_square, vi_square, common, squares = local_mean(means, WINDOW, passes=2).split(1, dim=1)
    ir_variance, vi_variance = ir_square - ir_mean**2 + EPS, vi_square - vi_mean**2 + EPS
    varied = torch.sigmoid(DECISION * (ir_variance / vi_variance).log())
    share = (common / (squares + EPS)).clamp(0, 1)  # of infrared in the layers' mixture, by least squares
    bright = smooth_step(torch.maximum(ir_mean, vi_mean), *DARK)
    more = TOWARDS_VARIED * bright * varied + smooth_step(share, 0, 1) - share  # so that the mixture is more decided
    towards_brighter = TOWARDS_BRIGHTER * (1 - bright)
    coarse = torch.cat([more, towards_brighter, TOWARDS_VARIED * bright + towards_brighter], dim=1)
    more, towards_brighter, towards = upsample(coarse, CELL).split(1, dim=1)
    ir_weight = torch.addcmul(more, towards_brighter, torch.sigmoid(difference / BRIGHTER))
    return torch.addcmul(torch.addcmul(fused, towards, vi - fused), ir_weight, difference)


def _without_overshoots(fused: Tensor, ir: Tensor, vi: Tensor) -> Tensor:
    """`fused`, B1HW, with details that are nowhere stronger than in both sources."""
    means = torch.cat([cell_means(image, DETAIL_CELL) for image in (fused, ir, vi)], dim=1)
    mean, ir_mean, vi_mean = upsample(local_mean(means, DETAIL_WINDOW), DETAIL_CELL).split(1, dim=1)
    strongest = torch.maximum((ir - ir_mean).abs(), (vi - vi_mean).abs())
    return mean + (fused - mean).clamp(-strongest, strongest)
