"""`thfuse_lite`: the idea of TH-Fuse in a size that trains on a CPU.

    [vi, ir] -> stem -+-> dense branch (full resolution) ---+-> features at 1, 1/2, 1/4, 1/8
                      +-> strided branch (1/8, upsampled) --+            |
             channel attention -> spatial attention at 1/8 = attention maps
             maps upsampled to every scale weigh that scale's features, SAM gates them, sums run from coarse to fine
             -> at 1/8 a residual on the brighter source, at each finer scale weights of both sources' details
             -> fused image, put together as a Laplacian pyramid

What differs from `thfuse` and why: the network does not paint details but decides how much of each source's details
to take, so that they stay sharp and even an untrained network fuses. Attention has a bounded number of keys, so that
its cost grows linearly with the image. Maps are limited to (0, 2), and there is no batch norm, so that the result for
an image depends on no other image.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thfuse_sam.losses.filters import box_mean
from thfuse_sam.models.base import FusionNetwork, require_at_least, require_multiple
from thfuse_sam.models.blocks import (
    ChannelAttention,
    PooledSpatialAttention,
    TransformerBlock,
    channels_to_space,
    draw_normal,
    halved,
    pointwise,
    space_to_channels,
    upsample,
)
from thfuse_sam.models.guidance import GuidanceBranch, gated
from thfuse_sam.products import apply_linear

COARSEST = 8  # the attention maps are this many times smaller than the image
SLOPE = 0.1  # slope of the leaky ReLU below zero
KEY_GRID = 16  # longest side of the grid of keys in spatial attention, so at most 256 keys
ACTIVITY_WINDOW = 7  # pixels, side of the window in which a source's activity, its mean |detail|, is measured
ACTIVITY_EPS = 0.004  # intensity; two sources whose details are well below it count as equally active
ACTIVE_SOURCE_LOGIT = 4.5  # how decidedly the more active source is taken before training


class LiteConv(nn.Module):
    """3x3 convolution and leaky ReLU."""

    conv: nn.Conv2d

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """BCHW -> BC'H'W'."""
        return F.leaky_relu_(self.conv(x), SLOPE)


class LiteDenseBranch(nn.Module):
    """Convolutions at full resolution, each of which sees all results before it."""

    def __init__(self, channels: int, growth: int, layers: int = 3):
        super().__init__()
        self.layers = nn.ModuleList(LiteConv(channels + growth * i, growth) for i in range(layers))
        self.growth, self.out_channels = growth, channels + growth * layers

    def forward(self, x: Tensor) -> list[Tensor]:
        """BCHW -> itself and the result of each layer, together `out_channels` of the same size."""
        convs = [layer.conv for layer in self.layers if isinstance(layer, LiteConv)]
        bias = torch.cat([conv.get_parameter("bias") for conv in convs])
        results, seen = [x], 0
        sums: Tensor | None = None  # of those layers that are still to come
        for index in range(len(convs)):
            # What the newest result adds to all later layers, in one: a CPU computes 16 channels as fast as 8.
            newest = slice(seen, seen := seen + results[-1].shape[1])
            kernels = torch.cat([conv.weight[:, newest] for conv in convs[index:]])
            added = F.conv2d(results[-1], kernels, bias if sums is None else None, padding=1)
            sums = added if sums is None else sums[:, self.growth :] + added
            own = sums[:, : self.growth].contiguous(memory_format=torch.channels_last)
            results.append(F.leaky_relu_(own, SLOPE))
        return results


class DetailMix(nn.Module):
    """Mixes the details of both sources at one scale.

    How much of the mixture is infrared, and how strong it is, depends on the features and on which source is more
    active around a pixel. Before training the more active source is taken, as in Burt and Adelson, "The Laplacian
    Pyramid as a Compact Image Code", 1983.

    Args:
        channels: channels of the features.
        factor: by which the features are smaller than the details.
    """

    def __init__(self, channels: int, factor: int = 1):
        super().__init__()
        self.factor = factor
        places = factor**2  # pixels for which one pixel of the features decides
        self.weigh = nn.Conv2d(channels + places, 2 * places, kernel_size=3, padding=1)
        draw_normal(self.weigh.weight, std=1e-3)
        nn.init.zeros_(self.weigh.get_parameter("bias"))
        with torch.no_grad():
            for place in range(places):
                self.weigh.weight[place, channels + place, 1, 1] = ACTIVE_SOURCE_LOGIT

    def forward(self, features: Tensor, details: Tensor) -> Tensor:
        """Features BCH'W' and details B2HW (infrared, visible) -> mixed details B1HW; H = factor * H'."""
        return self.mixed(weights_of_features([self], features)[0], details)

    def mixed(self, weights: Tensor, details: Tensor) -> Tensor:
        """As `forward`, with what the features add to the weights, see `weights_of_features`."""
        activity = box_mean(details.abs(), ACTIVITY_WINDOW)
        balance = (activity[:, :1] - activity[:, 1:]) / (activity.sum(1, keepdim=True) + ACTIVITY_EPS)
        # Only layers may run in half precision; what is computed from the sources' own values is in single precision.
        places = space_to_channels(balance, self.factor)
        weights = weights + F.conv2d(places, self.weigh.weight[:, -places.shape[1] :], padding=1)
        weights = channels_to_space(weights, self.factor)
        ir_weight, strength = weights.to(details.dtype).chunk(2, dim=1)
        mixed = torch.lerp(details[:, 1:], details[:, :1], torch.sigmoid(ir_weight))
        return mixed * (2 * torch.sigmoid(strength))


def weights_of_features(mixes: Sequence[DetailMix], features: Tensor) -> tuple[Tensor, ...]:
    """What features BCHW add to the weights of each of `mixes`, computed in one."""
    kernels = torch.cat([mix.weigh.weight[:, : features.shape[1]] for mix in mixes])
    biases = torch.cat([mix.weigh.get_parameter("bias") for mix in mixes])
    return F.conv2d(features, kernels, biases, padding=1).split([mix.weigh.out_channels for mix in mixes], dim=1)


class THFuseLite(FusionNetwork):
    """Compact TH-Fuse with gates for SAM masks.

    Args:
        fine_width: channels of the joined features at full resolution, where each of them costs most.
        width: channels of the features at the coarser scales.
        growth: channels that the stem and each layer of the dense branch make.
        dim: channels of the attention blocks, a multiple of `heads`.
        depth: pairs of channel and spatial attention blocks.
        heads: attention heads.
        stages: `contrast_gain`, `sky` and `selection`, see `FusionNetwork`.
    """

    name = "thfuse_lite"
    size_multiple = COARSEST
    tile_margin = 64
    image_channels = 2  # of what `_features` gets

    def __init__(
        self,
        *,
        fine_width: int = 12,
        width: int = 24,
        growth: int = 8,
        dim: int = 64,
        depth: int = 1,
        heads: int = 4,
        **stages: float,
    ):
        super().__init__(**stages)
        require_at_least(1, fine_width=fine_width, width=width, growth=growth, depth=depth, heads=heads)
        require_multiple(heads, "heads", dim=dim)
        self.stem = LiteConv(self.image_channels, growth)
        self.dense_branch = LiteDenseBranch(growth, growth)
        strided = (growth, width, width, 2 * width)
        self.strided_branch = nn.Sequential(*(LiteConv(low, high, stride=2) for low, high in pairwise(strided)))
        # One 1x1 convolution of the joined branches, in two parts: the strided one is applied before upsampling.
        self.join_dense = nn.Conv2d(self.dense_branch.out_channels, fine_width, kernel_size=1)
        self.join_strided = nn.Conv2d(strided[-1], fine_width, kernel_size=1, bias=False)
        self.encoders = nn.ModuleList(LiteConv(low, width) for low in (fine_width, width, width))
        self.embed = nn.Linear(width + strided[-1], dim)
        self.attention = nn.Sequential(
            *(
                TransformerBlock(dim, attention)
                for _ in range(depth)
                for attention in (ChannelAttention(dim, heads), PooledSpatialAttention(dim, heads, KEY_GRID))
            )
        )
        self.norm = nn.LayerNorm(dim)
        # At full resolution one map and one gate serve all channels, as the published map does at every scale.
        self.map_channels = [1, width, width, width]
        self.maps = nn.Linear(dim, sum(self.map_channels))
        self.guidance = GuidanceBranch(self.map_channels, hidden=growth)
        self.to_fine = nn.Conv2d(width, fine_width, kernel_size=1)
        self.merge = LiteConv(fine_width, fine_width)
        self.base = nn.Conv2d(width, 1, kernel_size=3, padding=1)
        # Near zero, so that the first result stands on the brighter source.
        for parameter in self.base.parameters():
            draw_normal(parameter, std=1e-3)
        self.details = nn.ModuleList(DetailMix(channels) for channels in (fine_width, width, width))

    def fuse(self, ir: Tensor, vi: Tensor, guidance: Tensor | None) -> Tensor:
        """See `FusionNetwork.fuse`."""
        features, coarse = self._features(self._images(ir, vi))
        return self._reconstruct(ir, vi, guidance, features, self.attention_maps(coarse))

    def coarse_features(self, ir: Tensor, vi: Tensor) -> Tensor:
        """See `TiledNetwork.coarse_features`."""
        return self._features(self._images(ir, vi))[1]

    def attention_maps(self, coarse: Tensor) -> Tensor:
        """See `TiledNetwork.attention_maps`."""
        attended = self.norm(self.attention(apply_linear(self.embed, coarse)))
        maps: Tensor = 2 * torch.sigmoid(apply_linear(self.maps, attended))
        return maps

    def fuse_with_maps(self, ir: Tensor, vi: Tensor, guidance: Tensor | None, maps: Tensor) -> Tensor:
        """See `TiledNetwork.fuse_with_maps`."""
        return self._reconstruct(ir, vi, guidance, self._features(self._images(ir, vi))[0], maps)

    def _images(self, ir: Tensor, vi: Tensor) -> Tensor:
        """What the features are made of, BCHW with `image_channels`."""
        return torch.cat([vi, ir], dim=1)

    def _features(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        """Features at 1, 1/2, 1/4, 1/8 of the size (BCHW each), and the input of the attention (BHWC at 1/8)."""
        # Thin layers on large images are a third faster on a CPU with the channels innermost.
        x = self.stem(images.contiguous(memory_format=torch.channels_last))
        strided = self.strided_branch(x)
        dense = pointwise(self.join_dense, torch.cat(self.dense_branch(x), dim=1))
        joined = dense + upsample(pointwise(self.join_strided, strided), COARSEST)
        features = [F.leaky_relu_(joined, SLOPE)]
        for encoder in self.encoders:
            features.append(encoder(F.avg_pool2d(features[-1], 2)))
        return features, torch.cat([features[-1], strided], dim=1).permute(0, 2, 3, 1)

    def _reconstruct(
        self, ir: Tensor, vi: Tensor, guidance: Tensor | None, features: list[Tensor], maps: Tensor
    ) -> Tensor:
        """The fused image B1HW from the features of `_features` and the attention maps (BHWC at 1/8 of the size)."""
        return self._rebuilt(ir, vi, guidance, features, maps)[0]

    def _rebuilt(
        self,
        ir: Tensor,
        vi: Tensor,
        guidance: Tensor | None,
        features: list[Tensor],
        maps: Tensor,
        finer: Sequence[DetailMix] = (),
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The fused image, and what the features that decided about its finest details make of `finer`, too."""
        weights = list(maps.permute(0, 3, 1, 2).split(self.map_channels, dim=1))
        for scale in (0, 1, 2):
            weights[scale] = upsample(weights[scale], COARSEST // 2**scale)
        if guidance is not None:
            weights = [gated(weight, gate) for weight, gate in zip(weights, self.guidance(guidance), strict=True)]

        details, base = _laplacian_pyramid(torch.cat([ir, vi], dim=1))
        total = features[3] * weights[3]
        fused = base.amax(1, keepdim=True) + self.base(total)
        for scale in (2, 1):
            total = features[scale] * weights[scale] + upsample(total, 2)
            fused = upsample(fused, 2) + self.details[scale](total, details[scale])
        fine = self.merge(features[0] * weights[0] + upsample(pointwise(self.to_fine, total), 2))
        finest = self.details[0]
        assert isinstance(finest, DetailMix)
        weights_of_finest, *others = weights_of_features([finest, *finer], fine)
        return upsample(fused, 2) + finest.mixed(weights_of_finest, details[0]), tuple(others)


def _laplacian_pyramid(images: Tensor) -> tuple[list[Tensor], Tensor]:
    """Laplacian pyramid of BCHW images: the details at 1, 1/2 and 1/4 of their size, and the images at 1/8."""
    details: list[Tensor] = []
    while len(details) < 3:
        smaller = halved(images)
        details.append(images - upsample(smaller, 2))
        images = smaller
    return details, images
