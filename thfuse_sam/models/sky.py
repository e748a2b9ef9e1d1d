"""A stage of a fusion network after its layers: bright skies look as they are seen.

The layers take the details of the more active source. In a bright sky that is what the infrared camera sees of clouds
and of its own noise, on the mean of a white and a black sky. The visible image takes their place, with weights that are
smooth in the images, so that no border shows and nothing flickers. Where infrared alone sees something warm (a white
house, someone behind smoke), and where a sky is dark over a wide area, everything stays.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from thfuse_sam.devices import is_exporting
from thfuse_sam.losses.filters import smooth_step
from thfuse_sam.models.blocks import extend, halved, local_mean, upsample

REACH = 224  # pixels, a multiple of REGION; what lies farther away has no influence
COARSE = 4  # pixels, side of the squares on which means around a pixel are computed
REGION = 32  # pixels, side of those on which means over a region are
# Below the first value a condition does not hold, from the second on it does; smooth between.
BRIGHT = (155 / 255, 205 / 255)  # mean intensity of a region's visible sky
FLAT = (2.2 / 255, 1.3 / 255)  # intensity per pixel; gradient, once smoothed
CLEAR = (100 / 255, 180 / 255)  # intensity from which on visible pixels may be sky
COLDER = (40 / 255, 80 / 255)  # intensity by which a sky is darker in infrared than in the visible image
SKY_AROUND = (0.02, 0.2)  # share of sky around a pixel that belongs to it
LIKE_SKY = (-100 / 255, -30 / 255)  # by how much such a pixel may be brighter than the sky around it
WARM = (100 / 255, 160 / 255)  # intensity by which something is brighter in infrared than the sky around it
HIDDEN = (0.02, 0.002)  # share of a region in which infrared alone sees something warm; such a region stays as it is


def keep_sky(fused: Tensor, ir: Tensor, vi: Tensor, amount: float) -> Tensor:
    """Take away what infrared adds to bright flat visible skies.

    Args:
        fused, ir, vi: float B1HW in [0, 1].
        amount: 0: nothing changes, 1: skies are those of the visible image.

    Returns:
        float B1HW in [0, 1]. Gradients lead back to `fused`.
    """
    height, width = fused.shape[-2:]
    fused, ir, vi = (extend(image, REGION) for image in (fused, ir, vi))
    ir_halved, vi_halved = halved(ir), halved(vi)
    flat = smooth_step(_gradient(local_mean(vi_halved, 3, passes=2)) / 2, *FLAT) * smooth_step(vi_halved, *CLEAR)
    sky = flat * smooth_step(vi_halved - ir_halved, *COLDER)
    # Without a sky there is no work; a GPU does it in any case, because to ask it takes longer, and ends a CUDA graph.
    if is_exporting() or sky.device.type == "cuda" or sky.any():
        fused = torch.lerp(fused, vi, amount * _sky_weight(ir, vi, flat, sky))
    return fused[..., :height, :width].clamp(0, 1)


def _sky_weight(ir: Tensor, vi: Tensor, flat: Tensor, sky: Tensor) -> Tensor:
    """How far each pixel belongs to a sky, from 0 to 1; `sky` says at half the size where one surely is, and `flat`
    where the visible image alone would say so.
    """
    flat, sky, ir_coarse, vi_coarse = halved(torch.cat([flat, sky, halved(ir), halved(vi)], dim=1)).split(1, dim=1)
    # The mean over the sky alone reaches up to the roofs before it, so that no fringe is left there.
    cold = sky * (vi_coarse - ir_coarse) ** 4  # nearly that of the coldest, else what is warm would hide itself
    sums = torch.cat([sky, sky * vi_coarse, cold, cold * ir_coarse], dim=1)
    around, vi_mean, share, ir_mean = local_mean(sums, 5, passes=2).split(1, dim=1)
    vi_mean, ir_mean = vi_mean / around.clamp(min=1e-4), ir_mean / share.clamp(min=1e-4)
    near = smooth_step(around, *SKY_AROUND)
    hidden = near * flat * smooth_step(vi_coarse - vi_mean, *LIKE_SKY) * smooth_step(ir_coarse - ir_mean, *WARM)
    region = torch.cat([sky, sky * vi_coarse, hidden], dim=1)
    region = halved(halved(halved(region)))  # from COARSE to REGION
    share, brightness, hidden = local_mean(region, 5, passes=2).split(1, dim=1)
    wanted = smooth_step(brightness / share.clamp(min=1e-4), *BRIGHT) * smooth_step(hidden, *HIDDEN)
    coarse = torch.cat([near * upsample(wanted, REGION // COARSE), vi_mean], dim=1)
    weight, vi_mean = upsample(coarse, COARSE).split(1, dim=1)
    return weight * smooth_step(vi - vi_mean, *LIKE_SKY) * smooth_step(vi - ir, *COLDER)


def _gradient(images: Tensor) -> Tensor:
    """Mean length of the gradient around a pixel, per pixel; a crest is no flat area."""
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    across = padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]
    down = padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]
    return local_mean((across**2 + down**2 + 1e-9).sqrt() / 2, 3)
