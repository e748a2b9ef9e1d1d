"""`thfuse`: TH-Fuse as published, with the SAM guidance branch.

Chen, Ding, Yu, Gong, "THFuse: An infrared and visible image fusion network using transformer and hybrid feature
extractor", Neurocomputing 527, 2023. The topology and the sizes follow the authors' public source:

    [vi, ir] -> mix -> stem -+-> dense branch (full resolution) ------+-> encoders at 1, 1/2, 1/4, 1/8
                             +-> strided branch (1/8, upsampled) -----+        |
                  channel transformer -> spatial transformer at 1/8 = attention map
                  map upsampled to every scale, times that scale's features, summed -> fused image

Departures: any input size of 16 pixels or more (the source takes multiples of 128 and always pads, with grey),
attention through `scaled_dot_product_attention`, the gates of the guidance branch (no effect without masks), the result
limited to [0, 1].
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thfuse_sam.models.base import FusionNetwork, require_at_least, require_multiple
from thfuse_sam.models.blocks import ConvLayer, TransformerEncoder, upsample
from thfuse_sam.models.guidance import GuidanceBranch, gated

CHANNELS = 64  # channels of the joined features, at every scale
COARSEST = 8  # the attention map is this many times smaller than the image
CHANNEL_PATCH = 16  # side of the channel transformer's patches at the coarsest scale
SPATIAL_PATCH = 4  # side of the spatial transformer's patches at the coarsest scale


class DenseBranch(nn.Module):
    """Three 3x3 convolutions, each of which sees all results before it: 16 -> 32 channels at full resolution."""

    def __init__(self) -> None:
        super().__init__()
        self.reduce = ConvLayer(16, 8, 3)
        self.layers = nn.ModuleList(ConvLayer(8 * (i + 1), 8, 3) for i in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """B x 16 x H x W -> B x 32 x H x W."""
        x = self.reduce(x)
        for layer in self.layers:
            x = torch.cat([x, layer(x)], dim=1)
        return x


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm around a skip."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = ConvLayer(channels, channels, 3)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = ConvLayer(channels, channels, 3)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        """BCHW -> BCHW."""
        inner = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(inner)) + x)


class Encoder(nn.Module):
    """Encoder of one scale: a residual block between two 1x1 convolutions."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = ConvLayer(channels, channels, 1)
        self.res = ResidualBlock(channels)
        self.conv2 = ConvLayer(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """BCHW -> BCHW."""
        return self.conv2(self.res(self.conv1(x)))


class ChannelTransformer(nn.Module):
    """Within each patch the channels are the tokens: attention decides which channels go together there."""

    def __init__(self, dim: int, depth: int, heads: int):
        super().__init__()
        self.embed = nn.Linear(CHANNEL_PATCH**2, dim)
        self.encoder = TransformerEncoder(dim, depth, heads)
        self.unembed = nn.Linear(dim, CHANNEL_PATCH**2)

    def forward(self, x: Tensor) -> Tensor:
        """BCHW -> BCHW, sides are multiples of CHANNEL_PATCH."""
        patches = _split_patches(x, CHANNEL_PATCH)
        tokens = patches.reshape(-1, x.shape[1], CHANNEL_PATCH**2)
        return _join_patches(self.unembed(self.encoder(self.embed(tokens))).reshape(patches.shape))


class SpatialTransformer(nn.Module):
    """Patches over all channels are the tokens: attention decides which parts of the image go together."""

    def __init__(self, channels: int, dim: int, depth: int, heads: int):
        super().__init__()
        self.embed = nn.Linear(SPATIAL_PATCH**2 * channels, dim)
        self.encoder = TransformerEncoder(dim, depth, heads)
        self.unembed = nn.Linear(dim, SPATIAL_PATCH**2)

    def forward(self, x: Tensor) -> Tensor:
        """BCHW -> B1HW, one map for all channels; sides are multiples of SPATIAL_PATCH."""
        patches = _split_patches(x, SPATIAL_PATCH).permute(0, 1, 2, 4, 5, 3)  # channels last
        batch, rows, columns = patches.shape[:3]
        maps = self.unembed(self.encoder(self.embed(patches.reshape(batch, rows * columns, -1))))
        return _join_patches(maps.reshape(batch, rows, columns, 1, SPATIAL_PATCH, SPATIAL_PATCH))


class THFuse(FusionNetwork):
    """TH-Fuse with gates for SAM masks.

    Args:
        spatial_dim, spatial_depth: width and blocks of the spatial transformer. At the published 2048 and 4 it holds
            136 of the network's 137 million parameters.
        channel_dim, channel_depth: width and blocks of the channel transformer.
        heads: attention heads in both.
        pixel_range: images in [0, 1] are multiplied by it on the way in and divided on the way out; 255 is what the
            authors' weights expect, 1 is easier to train.
        stages: `contrast_gain`, `sky` and `selection`, see `FusionNetwork`.
    """

    name = "thfuse"
    size_multiple = COARSEST * math.lcm(CHANNEL_PATCH, SPATIAL_PATCH)

    def __init__(
        self,
        *,
        spatial_dim: int = 2048,
        spatial_depth: int = 4,
        channel_dim: int = 128,
        channel_depth: int = 4,
        heads: int = 4,
        pixel_range: float = 1.0,
        **stages: float,
    ):
        super().__init__(**stages)
        require_at_least(1, spatial_depth=spatial_depth, channel_depth=channel_depth, heads=heads)
        require_multiple(heads, "heads", spatial_dim=spatial_dim, channel_dim=channel_dim)
        require_at_least(1, pixel_range=pixel_range)
        self.pixel_range = pixel_range
        self.mix = ConvLayer(2, 2, 1)
        self.stem = ConvLayer(2, 16, 3)
        self.dense_branch = DenseBranch()
        self.strided_branch = nn.Sequential(
            ConvLayer(16, 32, 3, stride=2), ConvLayer(32, 64, 3, stride=2), ConvLayer(64, 32, 3, stride=2)
        )
        self.encoders = nn.ModuleList(Encoder(CHANNELS) for _ in range(4))
        self.channel_transformer = ChannelTransformer(channel_dim, channel_depth, heads)
        self.spatial_transformer = SpatialTransformer(CHANNELS, spatial_dim, spatial_depth, heads)
        self.reconstruction = ConvLayer(CHANNELS, 1, 1, activate=False)
        self.guidance = GuidanceBranch([CHANNELS] * 4)

    def fuse(self, ir: Tensor, vi: Tensor, guidance: Tensor | None) -> Tensor:
        """See `FusionNetwork.fuse`."""
        x = self.stem(self.mix(torch.cat([vi, ir], dim=1) * self.pixel_range))
        strided = upsample(self.strided_branch(x), COARSEST, align_corners=True)
        x0 = self.encoders[0](torch.cat([self.dense_branch(x), strided], dim=1))
        x1 = self.encoders[1](F.avg_pool2d(x0, 2))
        x2 = self.encoders[2](F.avg_pool2d(x1, 2))
        x3 = self.encoders[3](F.avg_pool2d(x2, 2))
        gates = [None] * 4 if guidance is None else self.guidance(guidance)

        map3 = self.spatial_transformer(self.channel_transformer(x3))
        map2 = _upsample(map3, 2)
        map1 = _upsample(map2, 2) + _upsample(map3, 4)
        map0 = _upsample(map1, 2) + _upsample(map2, 4) + _upsample(map3, 8)
        weighted = (
            _upsample(gated(x3 * map3, gates[3]), 8)
            + _upsample(gated(x2 * map2, gates[2]), 4)
            + _upsample(gated(x1 * map1, gates[1]), 2)
            + gated(x0 * map0, gates[0])
        )
        fused: Tensor = self.reconstruction(weighted)
        return fused / self.pixel_range


def _upsample(x: Tensor, factor: int) -> Tensor:
    """BCHW enlarged by a whole factor, bilinear with aligned corners as in the authors' source."""
    return upsample(x, factor, align_corners=True)


def _split_patches(x: Tensor, size: int) -> Tensor:
    """BCHW, sides multiples of `size` -> B x rows x columns x C x size x size."""
    batch, channels, height, width = x.shape
    return x.reshape(batch, channels, height // size, size, width // size, size).permute(0, 2, 4, 1, 3, 5)


def _join_patches(patches: Tensor) -> Tensor:
    """The inverse of `_split_patches`."""
    batch, rows, columns, channels, size, _ = patches.shape
    return patches.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels, rows * size, columns * size)
