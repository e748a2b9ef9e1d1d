"""`vit_nano`: a small Segment Anything model that ships with the project.

Prompt encoder and mask decoder are segment_anything's own modules at a smaller size (Kirillov et al., "Segment
Anything", ICCV 2023), so every tool that drives a `Sam` drives it too. The image encoder is a small convolutional
network: from the few thousand images that it was trained on, a plain vision transformer of that size learned little.
"""

import torch
from segment_anything.modeling import Sam
from torch import Tensor, nn
from torch.nn import functional as F

from thfuse_sam.products import linear
from thfuse_sam.sam.assembly import assemble_sam
from thfuse_sam.sam.geometry import LOGITS_PER_TOKEN

IMAGE_SIZE = 640  # pixels, the longest side that the encoder sees
EMBED_DIM = 128  # channels of the image embedding and of the mask decoder
WIDTHS = (24, 48, 96, 192)  # channels at 1/2, 1/4, 1/8 and 1/16 of the input's size
# Dilations of the residual blocks at 1/4, 1/8 and 1/16 of the input's size.
QUARTER_DILATIONS = (1,)
EIGHTH_DILATIONS = (1, 2, 1)
COARSE_DILATIONS = (1, 2, 4, 1, 2, 4, 8, 1, 2, 1)
FINE_WIDTH = 32  # channels at 1/4 of the input's size that go into the embedding


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of BxCxHxW."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class PointConvolution(nn.Conv2d):
    """A 1x1 convolution as one product of matrices, whose sums do not depend on the number of threads."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, padding=1), ChannelNorm(outputs, eps=1e-6), nn.GELU())


class ResidualBlock(nn.Module):
    """A dilated 3x3 and a 1x1 convolution whose output is added to the input. A new block is the identity."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels, eps=1e-6)
        self.spread = nn.Conv2d(channels, channels, 3, padding=dilation, dilation=dilation)
        self.mix = nn.Conv2d(channels, channels, 1)
        nn.init.zeros_(self.mix.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(F.gelu(self.spread(self.norm(x))))


def _blocks(channels: int, dilations: tuple[int, ...]) -> list[ResidualBlock]:
    return [ResidualBlock(channels, dilation) for dilation in dilations]


class NanoEncoder(nn.Module):
    """A U-shaped convolutional image encoder.

    It goes down to 1/16 of the input's size and up again to 1/4. Each 4x4 block of the fine features then becomes one
    image token, so that the mask decoder, whose logits have 1/4 of the input's size, finds in it what each of its 4x4
    logits needs.
    """

    def __init__(self, image_size: int) -> None:
        super().__init__()
        self.register_buffer("image_size", torch.tensor(image_size))  # lets a file of weights tell its input size
        self.img_size = image_size  # read by segment_anything
        half, quarter, eighth, coarse = WIDTHS
        self.to_half = nn.Sequential(nn.Conv2d(3, half, 3, 2, padding=1), nn.GELU())
        self.to_quarter = nn.Sequential(_convolution(half, quarter, stride=2), *_blocks(quarter, QUARTER_DILATIONS))
        self.to_eighth = nn.Sequential(_convolution(quarter, eighth, stride=2), *_blocks(eighth, EIGHTH_DILATIONS))
        self.to_coarse = nn.Sequential(_convolution(eighth, coarse, stride=2), *_blocks(coarse, COARSE_DILATIONS))
        self.coarse_to_eighth = nn.Conv2d(coarse, eighth, 1)
        self.fuse_eighth = _convolution(eighth, quarter)
        self.eighth_to_quarter = nn.Conv2d(quarter, quarter, 1)
        self.fuse_quarter = _convolution(quarter, FINE_WIDTH)
        self.embed_fine = PointConvolution(FINE_WIDTH * LOGITS_PER_TOKEN**2, EMBED_DIM, 1)
        self.embed_coarse = nn.Conv2d(coarse, EMBED_DIM, 1)
        self.norm = ChannelNorm(EMBED_DIM, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images Bx3xHxW (multiples of 16) to embeddings BxCxH/16xW/16."""
        quarter = self.to_quarter(self.to_half(x.contiguous(memory_format=torch.channels_last)))
        eighth = self.to_eighth(quarter)
        coarse = self.to_coarse(eighth)
        eighth = self.fuse_eighth(eighth + F.interpolate(self.coarse_to_eighth(coarse), scale_factor=2.0))
        fine = self.fuse_quarter(quarter + F.interpolate(self.eighth_to_quarter(eighth), scale_factor=2.0))
        return self.norm(self.embed_fine(F.pixel_unshuffle(fine, LOGITS_PER_TOKEN)) + self.embed_coarse(coarse))


def build_vit_nano(image_size: int = IMAGE_SIZE) -> Sam:
    """An untrained `vit_nano`.

    Args:
        image_size: longest side in pixels that the encoder sees, a multiple of 16.
    """
    return assemble_sam(NanoEncoder(image_size), image_size, EMBED_DIM, mlp_dim=512)
