"""`thfuse_tiny`: `thfuse_lite` at half the resolution, for video: a quarter of the work.

    [vi, ir], each 2 x 2 pixels as channels -> thfuse_lite for the images at half the size -> their fused image
    the features of that, and which source is more active -> weights of both sources' details at full size, 2 x 2 pixels
    from the channels of one -> fused image

No pixel is lost: the network sees and weighs all of them. But its layers run on a quarter of the places.
"""

from typing import Any

import torch
from torch import Tensor

from thfuse_sam.models.blocks import halved, space_to_channels, upsample
from thfuse_sam.models.thfuse_lite import COARSEST, DetailMix, THFuseLite

STEP = 2  # pixels a side that share one place of the features


class THFuseTiny(THFuseLite):
    """TH-Fuse for video. Options are those of `THFuseLite`, at half the resolution."""

    name = "thfuse_tiny"
    size_multiple = STEP * COARSEST
    tile_margin = 128
    image_channels = 2 * STEP**2

    def __init__(self, *, fine_width: int = 12, **options: Any):
        super().__init__(fine_width=fine_width, **options)
        self.finest = DetailMix(fine_width, STEP)

    def _images(self, ir: Tensor, vi: Tensor) -> Tensor:
        return space_to_channels(super()._images(ir, vi), STEP)

    def _reconstruct(
        self, ir: Tensor, vi: Tensor, guidance: Tensor | None, features: list[Tensor], maps: Tensor
    ) -> Tensor:
        images = torch.cat([ir, vi], dim=1)
        smaller = halved(images)
        if guidance is not None:
            guidance = halved(guidance)
        fused, (weights,) = self._rebuilt(smaller[:, :1], smaller[:, 1:], guidance, features, maps, [self.finest])
        return upsample(fused, STEP) + self.finest.mixed(weights, images - upsample(smaller, STEP))
