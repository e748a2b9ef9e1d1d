"""`vit_t`: Segment Anything with a TinyViT image encoder, as published by MobileSAM.

TinyViT: Wu et al., "TinyViT: Fast Pretraining Distillation for Small Vision Transformers", ECCV 2022.
MobileSAM: Zhang et al., "Faster Segment Anything: Towards Lightweight SAM for Mobile Applications", 2023.

The module names are those of the published `mobile_sam.pt`, so that its weights load as they are. They include a
classification head that the encoder never uses.
"""

from collections.abc import Callable

import torch
from segment_anything.modeling import Sam
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.image_encoder import window_partition, window_unpartition
from torch import Tensor, nn
from torch.nn import functional as F

from thfuse_sam.products import apply_linear, gelu_
from thfuse_sam.sam.assembly import assemble_sam

IMAGE_SIZE = 1024  # pixels, the longest side that the encoder sees
EMBED_DIM = 256  # channels of the image embedding and of the mask decoder

# One value for each of the four stages.
WIDTHS = (64, 128, 160, 320)  # channels
DEPTHS = (2, 2, 6, 2)  # blocks
HEADS = (0, 4, 5, 10)  # attention heads; the first stage is convolutional
WINDOWS = (0, 7, 14, 7)  # tokens along one side of an attention window
EXPANSION = 4  # hidden channels for one channel, in the convolutional blocks and in the MLPs
HIDDEN_AT_ONCE = 64  # hidden channels of a convolutional block that exist at the same time
ROWS_AT_ONCE = 512  # pixels of an image whose hidden channels before the first stage do, a multiple of 4
TOKENS_AT_ONCE = 1024  # tokens that go together through attention or an MLP: few enough for the cache of a CPU
CLASSES = 1000  # outputs of the unused classification head


class ConvNorm(nn.Sequential):
    """A convolution without bias, padded to keep the size at stride 1, and its batch norm."""

    c: nn.Conv2d
    bn: nn.BatchNorm2d

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.add_module("c", nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False))
        self.add_module("bn", nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return super().forward(x)
        weight, bias = self.folded()
        return F.conv2d(x, weight, bias, self.c.stride, self.c.padding, groups=self.c.groups)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the one convolution that does both in eval mode: the norm is linear then."""
        mean, variance = self.bn.running_mean, self.bn.running_var
        assert mean is not None and variance is not None
        factor = self.bn.weight * torch.rsqrt(variance + self.bn.eps)
        return self.c.weight * factor.view(-1, 1, 1, 1), self.bn.bias - mean * factor


class PatchEmbedding(nn.Module):
    """Image Bx3xHxW -> Bx64x(H/4)x(W/4)."""

    def __init__(self) -> None:
        super().__init__()
        width = WIDTHS[0]
        self.seq = nn.Sequential(ConvNorm(3, width // 2, 3, 2), nn.GELU(), ConvNorm(width // 2, width, 3, 2))

    def forward(self, image: Tensor) -> Tensor:
        if self.training or torch.is_grad_enabled():
            return self._run(image)
        # Some rows at a time, with those above that their first row of output depends on.
        strips = ((max(0, top - 4), top + ROWS_AT_ONCE) for top in range(0, image.shape[2], ROWS_AT_ONCE))
        return torch.cat([self._run(image[:, :, first:last])[:, :, first and 1 :] for first, last in strips], dim=2)

    def _run(self, image: Tensor) -> Tensor:
        first, _, second = self.seq
        return second(gelu_(first(image)))


class ConvBlock(nn.Module):
    """Inverted bottleneck with a residual connection (MBConv): BxCxHxW -> BxCxHxW."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = width * EXPANSION
        self.conv1 = ConvNorm(width, hidden)
        self.conv2 = ConvNorm(hidden, hidden, 3, groups=hidden)
        self.conv3 = ConvNorm(hidden, width)
        # A new block starts as the identity.
        nn.init.zeros_(self.conv3.bn.weight)

    def forward(self, x: Tensor) -> Tensor:
        if self.training or torch.is_grad_enabled():
            y = F.gelu(self.conv2(F.gelu(self.conv1(x))))
            return F.gelu(x + self.conv3(y))
        # No hidden channel depends on another one before the last convolution, so only some are computed at a time. All
        # of them together would be the largest tensors of the whole encoder by far.
        (expand, expand_bias), (depthwise, depthwise_bias), (project, bias) = (
            convolution.folded() for convolution in (self.conv1, self.conv2, self.conv3)
        )
        total = x + bias.to(x.dtype).view(-1, 1, 1)
        for first in range(0, len(expand), HIDDEN_AT_ONCE):
            hidden = slice(first, first + HIDDEN_AT_ONCE)
            y = gelu_(F.conv2d(x, expand[hidden], expand_bias[hidden]))
            y = gelu_(F.conv2d(y, depthwise[hidden], depthwise_bias[hidden], padding=1, groups=y.shape[1]))
            total += F.conv2d(y, project[:, hidden])
        return gelu_(total)


class Downsample(nn.Module):
    """Changes the number of channels and, at stride 2, halves the resolution: BxCxHxW -> BxC'x(H/2)x(W/2)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(inputs, outputs)
        self.conv2 = ConvNorm(outputs, outputs, 3, stride, groups=outputs)
        self.conv3 = ConvNorm(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        if self.training or torch.is_grad_enabled():
            return self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))
        (expand, expand_bias), (depthwise, depthwise_bias) = self.conv1.folded(), self.conv2.folded()
        parts = []
        for first in range(0, len(expand), HIDDEN_AT_ONCE):
            hidden = slice(first, first + HIDDEN_AT_ONCE)
            y = gelu_(F.conv2d(x, expand[hidden], expand_bias[hidden]))
            stride, groups = self.conv2.c.stride, y.shape[1]
            parts.append(F.conv2d(y, depthwise[hidden], depthwise_bias[hidden], stride, padding=1, groups=groups))
        return self.conv3(gelu_(torch.cat(parts, dim=1)))


class WindowAttention(nn.Module):
    """Multi-head attention inside windows, with one learned bias for each head and each distance |dy|, |dx|."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.window = window
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens Nx(window*window)xC of N windows -> the same shape."""
        count, tokens, width = x.shape
        qkv = apply_linear(self.qkv, self.norm(x)).view(count, tokens, self.heads, 3, width // self.heads)
        query, key, value = qkv.permute(3, 0, 2, 1, 4)
        x = F.scaled_dot_product_attention(query, key, value, attn_mask=self._bias().to(query.dtype))
        return apply_linear(self.proj, x.transpose(1, 2).reshape(count, tokens, width))

    def _bias(self) -> Tensor:
        """Biases for every pair of tokens: heads x tokens x tokens."""
        positions = torch.arange(self.window, device=self.attention_biases.device)
        distance = (positions[:, None] - positions[None]).abs()
        index = distance[:, None, :, None] * self.window + distance[None, :, None, :]
        tokens = self.window * self.window
        return self.attention_biases[:, index.reshape(tokens, tokens)]


class Mlp(nn.Module):
    """Layer norm and two linear layers, on the last dimension."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, width * EXPANSION)
        self.fc2 = nn.Linear(width * EXPANSION, width)

    def forward(self, x: Tensor) -> Tensor:
        return _in_parts(self._run, x.flatten(0, -2), 1).view_as(x)

    def _run(self, x: Tensor) -> Tensor:
        return apply_linear(self.fc2, apply_linear(self.fc1, self.norm(x), gelu=True))


class AttentionBlock(nn.Module):
    """Window attention, a depthwise convolution across the windows' borders, MLP: BxCxHxW -> BxCxHxW."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.attn = WindowAttention(width, heads, window)
        self.local_conv = ConvNorm(width, width, 3, groups=width)
        self.mlp = Mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._attend(x)
        x = self.local_conv(x).permute(0, 2, 3, 1)
        return (x + self.mlp(x)).permute(0, 3, 1, 2)

    def _attend(self, x: Tensor) -> Tensor:
        """Attention inside windows: BxCxHxW -> BxCxHxW."""
        height, width = x.shape[2:]
        side = self.attn.window
        # The published weights were trained with attention to the padding of incomplete windows.
        windows, padded = window_partition(x.permute(0, 2, 3, 1), side)
        windows = _in_parts(self.attn, windows.flatten(1, 2), side * side).unflatten(1, (side, side))
        return window_unpartition(windows, side, padded, (height, width)).permute(0, 3, 1, 2)


class Stage(nn.Module):
    """The blocks of one resolution, then the change to the next stage's channels and resolution."""

    def __init__(self, index: int) -> None:
        super().__init__()
        width, heads, window = WIDTHS[index], HEADS[index], WINDOWS[index]
        self.blocks = nn.ModuleList(
            AttentionBlock(width, heads, window) if heads else ConvBlock(width) for _ in range(DEPTHS[index])
        )
        self.downsample: Downsample | None = None
        if index + 1 < len(WIDTHS):
            # MobileSAM keeps the resolution before the last stage, so that the embedding has SAM's 64x64 tokens.
            stride = 1 if index + 2 == len(WIDTHS) else 2
            self.downsample = Downsample(width, WIDTHS[index + 1], stride)

    def parts(self) -> list[nn.Module]:
        """What runs one after the other, BxCxHxW -> BxC'xH'xW' each."""
        return [*self.blocks, *([] if self.downsample is None else [self.downsample])]


class TinyViT(nn.Module):
    """MobileSAM's image encoder: Bx3xSxS, normalised -> Bx256x(S/16)x(S/16), S = `img_size`."""

    def __init__(self, image_size: int = IMAGE_SIZE) -> None:
        super().__init__()
        self.img_size = image_size  # the name that segment_anything reads
        self.patch_embed = PatchEmbedding()
        self.layers = nn.ModuleList(Stage(index) for index in range(len(WIDTHS)))
        self.norm_head = nn.LayerNorm(WIDTHS[-1])
        self.head = nn.Linear(WIDTHS[-1], CLASSES)
        self.apply(_initialise)
        self.neck = nn.Sequential(
            nn.Conv2d(WIDTHS[-1], EMBED_DIM, 1, bias=False),
            LayerNorm2d(EMBED_DIM),
            nn.Conv2d(EMBED_DIM, EMBED_DIM, 3, padding=1, bias=False),
            LayerNorm2d(EMBED_DIM),
        )

    def forward(self, image: Tensor) -> Tensor:
        x = self.patch_embed(image)
        # In one loop: a stage's caller would hold its input until the stage ends.
        for part in [part for stage in self.layers if isinstance(stage, Stage) for part in stage.parts()]:
            x = part(x)
        return self.neck(x)


def build_vit_t(image_size: int = IMAGE_SIZE) -> Sam:
    """An untrained `vit_t`.

    Args:
        image_size: longest side in pixels that the encoder sees, a multiple of 16; the published weights expect 1024.
    """
    return assemble_sam(TinyViT(image_size), image_size, EMBED_DIM, mlp_dim=2048)


def _in_parts(function: Callable[[Tensor], Tensor], x: Tensor, tokens: int) -> Tensor:
    """`function` of x, each of whose rows stands for so many `tokens`. Without gradients a CPU takes few at a time."""
    if torch.is_grad_enabled() or x.device.type != "cpu":
        return function(x)
    return torch.cat([function(part) for part in x.split(TOKENS_AT_ONCE // tokens)])


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
