"""Running image encoders faster, with unchanged weights.

segment_anything's `ImageEncoderViT` (Li et al., "Exploring Plain Vision Transformer Backbones for Object Detection",
ECCV 2022) writes the attention of every token to every other to memory, twice. Here `scaled_dot_product_attention`
computes it piece by piece, with the decomposed relative positions (Li et al., "MViTv2", CVPR 2022) as its bias. The
result is equal but for rounding. Encoders of other kinds run as they are.

Autocast converts all weights for every image, and relative positions are looked up by indices that lie on the CPU. For
a GPU both are done once (`convert_encoder`). A CPU converts each time: that is a small share of its time, and spares it
the memory.
"""

import copy
from collections.abc import Callable

import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.image_encoder import (
    Attention,
    Block,
    get_rel_pos,
    window_partition,
    window_unpartition,
)
from torch import Tensor, nn
from torch.nn import functional as F

from thfuse_sam.products import apply_linear, apply_mlp

# Values of the bias that exist at once: few enough for the cache of a CPU, or for the memory of a GPU.
_BIAS_VALUES_CPU = 2**22
_BIAS_VALUES_GPU = 2**26


def encode_images(
    encoder: nn.Module,
    images: Tensor,
    dtype: torch.dtype = torch.float32,
    *,
    compiled_block: Callable[[Block, Tensor], Tensor] | None = None,
) -> Tensor:
    """Embeddings of images.

    Args:
        encoder: any image encoder of a `Sam`; neither its weights nor their type change.
        images: float32 Bx3xSxS, normalised and padded.
        dtype: number format of matrix products and convolutions.
        compiled_block: `run_block`, compiled; None: as it is. Encoders that have no such blocks do without.

    Returns:
        float32 BxCxhxw.
    """
    # Autocast's cache would keep a second copy of all weights.
    with torch.autocast(images.device.type, dtype=dtype, enabled=dtype != torch.float32, cache_enabled=False):
        if type(encoder) is ImageEncoderViT:
            embeddings = _encode_vit(encoder, images, compiled_block or run_block)
        else:
            # The others are convolutional, at least in part, and convolutions are faster with channels last.
            images = images.contiguous(memory_format=torch.channels_last)
            embeddings = encoder(images)
    return embeddings.float().contiguous()


def convert_encoder(encoder: ImageEncoderViT, dtype: torch.dtype, *, in_place: bool = False) -> ImageEncoderViT:
    """An encoder whose embeddings by `encode_images` are the same bit for bit, with nothing left to convert.

    Weights of products and convolutions are of type `dtype`; the others are shared with `encoder`, which keeps its own
    unless it is converted `in_place`.
    """
    if not in_place:
        shared = {id(tensor): tensor for tensor in (*encoder.parameters(), *encoder.buffers())}
        encoder = copy.deepcopy(encoder, shared)
    for module in encoder.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            module.weight = _constant(module.weight.to(dtype))
            module.bias = _constant(module.bias.to(dtype)) if module.bias is not None else None
    side = encoder.patch_embed.proj.kernel_size[0]
    for block in encoder.blocks:
        if block.attn.use_rel_pos:
            tokens = block.window_size or encoder.img_size // side
            for name in ("rel_pos_h", "rel_pos_w"):
                setattr(block.attn, name, _constant(_rel_pos(getattr(block.attn, name), tokens).to(dtype)))
    return encoder


def _constant(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach(), requires_grad=False)


def _rel_pos(positions: Tensor, tokens: int) -> Tensor:
    """Embeddings of the distance of each of `tokens` tokens to each other along one side: TxTxD."""
    looked_up = positions.dim() == 3  # by `convert_encoder`
    return positions if looked_up else get_rel_pos(tokens, tokens, positions)


def _encode_vit(encoder: ImageEncoderViT, images: Tensor, run: Callable[[Block, Tensor], Tensor]) -> Tensor:
    """Embeddings BxCxhxw of images Bx3xSxS, as `ImageEncoderViT.forward` makes them."""
    x = encoder.patch_embed(images)
    if encoder.pos_embed is not None:
        x = x + encoder.pos_embed
    for block in encoder.blocks:
        x = run(block, x)
    features: Tensor = encoder.neck(x.permute(0, 3, 1, 2))
    return features


def run_block(block: Block, x: Tensor) -> Tensor:
    """A transformer block, BxHxWxC -> BxHxWxC."""
    y = block.norm1(x)
    if block.window_size > 0:
        windows, padded = window_partition(y, block.window_size)
        y = window_unpartition(_attend(block.attn, windows), block.window_size, padded, (x.shape[1], x.shape[2]))
    else:
        y = _attend(block.attn, y)
    x = x + y
    return x + apply_mlp(block.mlp, block.norm2(x))


def _attend(attention: Attention, x: Tensor) -> Tensor:
    """Multi-head self-attention of all tokens of each image or window: BxHxWxC -> BxHxWxC."""
    batch, height, width, _ = x.shape
    tokens = height * width
    qkv = apply_linear(attention.qkv, x).view(batch, tokens, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    # One sequence for each image and head: SxTxD.
    q, k, v = qkv.flatten(1, 2).unbind(0)
    if attention.use_rel_pos:
        attended = _attend_with_rel_pos(attention, q, k, v, (height, width))
    else:
        attended = F.scaled_dot_product_attention(q, k, v, scale=attention.scale)
    attended = attended.view(batch, attention.num_heads, tokens, -1).transpose(1, 2)
    return apply_linear(attention.proj, attended.reshape(batch, height, width, -1))


def _attend_with_rel_pos(attention: Attention, q: Tensor, k: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
    """Attention with relative positions: queries, keys and values SxTxD -> SxTxD, for the T tokens of a `grid`."""
    height, width = grid
    q_grid = q.unflatten(1, grid)
    # How much a query prefers each row and each column: SxHxWxH and SxHxWxW.
    rel_h = torch.einsum("shwd,hkd->shwk", q_grid, _rel_pos(attention.rel_pos_h, height))
    rel_w = torch.einsum("shwd,wkd->shwk", q_grid, _rel_pos(attention.rel_pos_w, width))
    at_once = _BIAS_VALUES_CPU if q.device.type == "cpu" else _BIAS_VALUES_GPU
    sequences = max(1, at_once // (height * width) ** 2)
    rows = min(height, max(1, at_once // (sequences * width * height * width)))
    attended = torch.empty_like(q)
    for first in range(0, len(q), sequences):
        batch = slice(first, first + sequences)
        for top in range(0, height, rows):
            band = slice(top, top + rows)
            tokens = slice(top * width, (top + rows) * width)
            bias = rel_h[batch, band, :, :, None] + rel_w[batch, band, :, None, :]
            # The fast kernels require a leading batch dimension.
            attended[batch, tokens] = F.scaled_dot_product_attention(
                q[None, batch, tokens],
                k[None, batch],
                v[None, batch],
                attn_mask=bias.flatten(3).flatten(1, 2)[None],
                scale=attention.scale,
            )[0]
    return attended
