"""Parts that the fusion networks are made of."""

import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thfuse_sam.devices import is_exporting
from thfuse_sam.products import apply_linear, linear

_MANY_CHANNELS = 4  # from which on PyTorch enlarges in good time on a CPU; for fewer it takes up to ten times as long


def pad_to_multiple(image: Tensor, multiple: int) -> tuple[Tensor, tuple[int, int]]:
    """Pad both sides, split evenly, up to the next multiple.

    The padding mirrors the image, or repeats its border pixels if the image is too small to be mirrored so far.

    Args:
        image: BCHW.
        multiple: pixels, 1 or more.

    Returns:
        The padded image and (rows above, columns left of) the original.
    """
    height, width = image.shape[-2:]
    # Not -height % multiple, which the exporter cannot bound.
    rows, columns = ((multiple - size % multiple) % multiple for size in (height, width))
    exporting = is_exporting()  # a program for all sizes: nothing may depend on this one
    if not exporting and not rows and not columns:
        return image, (0, 0)
    top, left = rows // 2, columns // 2
    bottom, right = rows - top, columns - left
    fits = exporting or (bottom < height and right < width)
    return F.pad(image, (left, right, top, bottom), mode="reflect" if fits else "replicate"), (top, left)


class _ClampKeepingGradients(torch.autograd.Function):
    """See `clamp_keeping_gradients`."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        ctx.save_for_backward(values)
        return values.clamp(0, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (values,) = ctx.saved_tensors
        (gradient,) = gradients
        # A step goes against the gradient: a negative one lifts the value, a positive one lowers it.
        leads_away = ((values < 0) & (gradient > 0)) | ((values > 1) & (gradient < 0))
        return gradient.masked_fill(leads_away, 0)


def clamp_keeping_gradients(values: Tensor) -> Tensor:
    """Limit to [0, 1]; in the backward pass drop only the gradients that would push further out of the range.

    A plain clamp has no gradient beyond the range, so a pixel that once left it would never learn to come back.
    """
    if not (torch.is_grad_enabled() and values.requires_grad):
        return values.clamp(0, 1)
    result: Tensor = _ClampKeepingGradients.apply(values)
    return result


class ConvLayer(nn.Module):
    """Convolution with mirrored borders, then leaky ReLU (slope 0.01).

    Args:
        in_channels, out_channels: channels.
        kernel_size: pixels, odd.
        stride: pixels.
        activate: False for the last layer of a network.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, activate: bool = True):
        super().__init__()
        self.border = kernel_size // 2
        self.conv2d = nn.Conv2d(in_channels, out_channels, kernel_size, stride)
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        """BCHW -> BC'H'W'."""
        if self.border:
            x = F.pad(x, (self.border,) * 4, mode="reflect")
        x = self.conv2d(x)
        return F.leaky_relu(x) if self.activate else x


class Mlp(nn.Module):
    """Two linear layers with GELU between, on the last dimension."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """... x dim -> ... x dim."""
        return apply_linear(self.fc2, apply_linear(self.fc1, x, gelu=True))


class Attention(nn.Module):
    """Multi-head self-attention over all tokens. Vaswani et al., "Attention is all you need", 2017."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """B x tokens x dim -> B x tokens x dim."""
        query, key, value = (split_heads(part, self.heads) for part in apply_linear(self.qkv, x).chunk(3, dim=-1))
        return apply_linear(self.proj, join_heads(F.scaled_dot_product_attention(query, key, value)))


class TransformerBlock(nn.Module):
    """The given attention, then an MLP of twice the width, each after a layer norm and with a skip (pre-norm)."""

    def __init__(self, dim: int, attention: nn.Module):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = attention
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        """... x dim -> ... x dim, in the dimensions that the attention takes."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class TransformerEncoder(nn.Module):
    """`depth` transformer blocks and a last layer norm.

    There is no position encoding: positions enter only as far as the convolutions before it encode them.
    """

    def __init__(self, dim: int, depth: int, heads: int):
        super().__init__()
        self.blocks = nn.ModuleList(TransformerBlock(dim, Attention(dim, heads)) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """B x tokens x dim -> B x tokens x dim."""
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


class PooledSpatialAttention(nn.Module):
    """Every pixel attends to a pooled grid of the same features, so that the cost grows linearly with the image.

    The spatial reduction of Wang et al., "Pyramid Vision Transformer", 2021, but to a grid of limited size and not by a
    fixed ratio.

    Args:
        dim: channels, a multiple of `heads`.
        heads: attention heads.
        grid: the longest side of the pooled grid; an image has at most grid x grid keys.
    """

    def __init__(self, dim: int, heads: int, grid: int):
        super().__init__()
        self.heads = heads
        self.grid = grid
        self.query = nn.Linear(dim, dim, bias=False)
        self.key_value = nn.Linear(dim, 2 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """BHWC -> BHWC."""
        batch, height, width, dim = x.shape
        tokens = self._pooled(x).flatten(1, 2)
        query = split_heads(apply_linear(self.query, x).reshape(batch, height * width, dim), self.heads)
        key, value = (split_heads(part, self.heads) for part in apply_linear(self.key_value, tokens).chunk(2, dim=-1))
        attended = join_heads(F.scaled_dot_product_attention(query, key, value))
        return apply_linear(self.proj, attended).reshape(batch, height, width, dim)

    def _pooled(self, x: Tensor) -> Tensor:
        """Means over the cells of the grid: BHWC -> B x rows x columns x C."""
        _, height, width, _ = x.shape
        if is_exporting():  # ONNX has no pooling to a grid of a size that depends on the image's
            rows, columns = (_cell_weights(size, torch.sym_min(size, self.grid), x) for size in (height, width))
            return torch.einsum("rh,bhwc,kw->brkc", rows, x, columns)
        if max(height, width) <= self.grid:
            return x
        grid = (min(height, self.grid), min(width, self.grid))
        return F.adaptive_avg_pool2d(x.permute(0, 3, 1, 2), grid).permute(0, 2, 3, 1)


def _cell_weights(size: int, cells: Any, like: Tensor) -> Tensor:
    """What each of `size` positions has of the mean of each cell of `F.adaptive_avg_pool1d`: cells x size."""
    cell, position = torch.arange(cells, device=like.device)[:, None], torch.arange(size, device=like.device)
    start, end = cell * size // cells, -(-(cell + 1) * size // cells)
    return ((position >= start) & (position < end)).to(like.dtype) / (end - start)


class ChannelAttention(nn.Module):
    """Attention among channels: the more similar two channels are over the whole image, the more they are mixed.

    The transposed attention of Zamir et al., "Restormer", 2022. Its matrix is channels x channels whatever the image's
    size, and queries and keys have unit length, so that small training crops and large images are on one scale.
    """

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """BHWC -> BHWC."""
        batch, height, width, dim = x.shape
        qkv = apply_linear(self.qkv, x).reshape(batch, height * width, 3 * dim)
        query, key, value = (split_heads(part, self.heads).transpose(-2, -1) for part in qkv.chunk(3, dim=-1))
        # Sums over all pixels of a large image do not fit into half precision.
        query, key = F.normalize(query.float(), dim=-1), F.normalize(key.float(), dim=-1)
        weights = (query @ key.transpose(-2, -1) * self.temperature).softmax(dim=-1)
        mixed = weights.to(value.dtype) @ value
        return apply_linear(self.proj, join_heads(mixed.transpose(-2, -1))).reshape(batch, height, width, dim)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """B x tokens x (heads * dim) -> B x heads x tokens x dim."""
    batch, tokens, dim = x.shape
    return x.reshape(batch, tokens, heads, dim // heads).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """B x heads x tokens x dim -> B x tokens x (heads * dim)."""
    return x.transpose(1, 2).flatten(2)


def halved(images: Tensor) -> Tensor:
    """Means of 2 x 2 pixels of BCHW images; both sides even. An eighth of the time of `avg_pool2d` for few channels."""
    rows = images[..., ::2, :] + images[..., 1::2, :]
    return (rows[..., ::2] + rows[..., 1::2]) / 4


def _is_plain_cpu(x: Tensor) -> bool:
    """Whether `x` is only to be computed with, on a CPU. What is faster there may be slower elsewhere."""
    return x.device.type == "cpu" and not torch.is_grad_enabled() and not is_exporting()


def draw_normal(parameter: Tensor, std: float) -> None:
    """Draw a parameter's first values from a normal distribution around 0.

    Not on the meta device, which holds no values: there PyTorch would load its compiler for it, for some seconds.
    """
    if not parameter.is_meta:
        nn.init.normal_(parameter, std=std)


def pointwise(conv: Any, x: Tensor) -> Tensor:
    """`conv(x)` of a 1x1 convolution: BCHW -> BC'HW, on a CPU with the channels innermost.

    As a matrix product: for few channels PyTorch's convolution takes several times as long on a CPU, and leaves the
    channels outermost, which slows down what follows.
    """
    if not _is_plain_cpu(x):
        plain: Tensor = conv(x)
        return plain
    return linear(x.permute(0, 2, 3, 1), conv.weight.flatten(1), conv.bias).permute(0, 3, 1, 2)


def space_to_channels(x: Tensor, factor: int) -> Tensor:
    """`F.pixel_unshuffle`, with the channels innermost: BCHW -> B x C * factor**2 x H/factor x W/factor."""
    if not _is_plain_cpu(x):
        return F.pixel_unshuffle(x, factor).contiguous(memory_format=torch.channels_last)
    cells = x.unflatten(3, (-1, factor)).unflatten(2, (-1, factor)).permute(0, 2, 4, 1, 3, 5)
    result = torch.empty_like(cells, memory_format=torch.contiguous_format)
    for row, column in itertools.product(range(factor), repeat=2):  # a third of the time of PyTorch's way
        result[..., row, column] = cells[..., row, column]
    return result.flatten(3).permute(0, 3, 1, 2)


def channels_to_space(x: Tensor, factor: int) -> Tensor:
    """`F.pixel_shuffle`, contiguous: B x C * factor**2 x H x W -> BC x H * factor x W * factor."""
    if not _is_plain_cpu(x):
        return F.pixel_shuffle(x.contiguous(), factor)
    cells = x.unflatten(1, (-1, factor, factor)).permute(0, 1, 4, 2, 5, 3)
    result = torch.empty_like(cells, memory_format=torch.contiguous_format)
    for row, column in itertools.product(range(factor), repeat=2):
        result[:, :, :, row, :, column] = cells[:, :, :, row, :, column]
    return result.flatten(4).flatten(2, 3)


def cell_means(images: Tensor, side: int) -> Tensor:
    """Means of the squares of `side` pixels of BCHW images, whose sides are multiples of it."""
    rows = images.unflatten(2, (-1, side)).sum(3)
    return rows.unflatten(3, (-1, side)).sum(4) / side**2


def upsample(x: Tensor, factor: int, align_corners: bool = False) -> Tensor:
    """BCHW enlarged by a whole factor, bilinear."""
    if align_corners or x.shape[1] >= _MANY_CHANNELS or not _is_plain_cpu(x):
        return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=align_corners)
    return _upsample_few(x.contiguous(), factor)


def _upsample_few(x: Tensor, factor: int) -> Tensor:
    """As `upsample`, axis by axis and without gradients."""
    height, width = x.shape[2:]
    skipped = factor // 2  # outputs before the first input
    places = [(index + 0.5 - skipped) / factor + 0.5 for index in range(factor)]  # of outputs between two inputs
    x = F.pad(x, (1, 1, 1, 1), mode="replicate")
    before, after = x[..., :-1], x[..., 1:]
    wide = x.new_empty((*before.shape, factor))
    for index, place in enumerate(places):
        torch.lerp(before, after, place, out=wide[..., index])
    wide = wide.flatten(3).narrow(3, skipped, factor * width).unsqueeze(3)
    tall = torch.lerp(wide[:, :, :-1], wide[:, :, 1:], x.new_tensor(places)[:, None])
    return tall.flatten(2, 3).narrow(2, skipped, factor * height)


def extend(images: Tensor, multiple: int) -> Tensor:
    """BCHW with border pixels repeated below and to the right, up to the next multiple of a side."""
    rows, columns = ((multiple - size % multiple) % multiple for size in images.shape[-2:])
    if not is_exporting() and not rows and not columns:
        return images
    return F.pad(images, (0, columns, 0, rows), mode="replicate")


def local_mean(images: Tensor, window: int, passes: int = 1) -> Tensor:
    """Mean over a square window, an odd number of pixels wide, border pixels repeated; several times if asked for."""
    images = F.pad(images, (window // 2 * passes,) * 4, mode="replicate")
    for dim in passes * (2, 3):
        size = images.shape[dim] - window + 1
        shifted = [images.narrow(dim, shift, size) for shift in range(window)]
        images = sum(shifted[1:], start=shifted[0])
    return images / window ** (2 * passes)
