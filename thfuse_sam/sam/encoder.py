"""Image encoders run faster, by their own weights.

segment_anything's `ImageEncoderViT` (Li et al., "Exploring Plain Vision Transformer Backbones for Object Detection",
ECCV 2022) writes down the attention of every place to every other, twice. Here `scaled_dot_product_attention` does it
piece by piece, with the decomposed relative positions (Li et al., "MViTv2", CVPR 2022) as its bias; the result is equal
but for rounding. Encoders of other kinds run as they are.
"""

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

# Values of the bias that exist at once: few enough for a processor's cache, or for a GPU's memory.
_BIAS_VALUES_CPU = 2**22
_BIAS_VALUES_GPU = 2**28


def encode_images(encoder: nn.Module, images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Embeddings of images.

    Args:
        encoder: any image encoder of a `Sam`; neither its weights nor their type change.
        images: float32 Bx3xSxS, normalised and padded.
        dtype: of matrix products and convolutions.

    Returns:
        float32 BxCxhxw.
    """
    # Without the cache, which would keep a second copy of all weights.
    with torch.autocast(images.device.type, dtype=dtype, enabled=dtype != torch.float32, cache_enabled=False):
        if type(encoder) is ImageEncoderViT:
            embeddings = _encode_vit(encoder, images)
        else:
            # The others are convolutional, at least in part.
            embeddings = encoder(images.contiguous(memory_format=torch.channels_last))
    return embeddings.float().contiguous()


def _encode_vit(encoder: ImageEncoderViT, images: Tensor) -> Tensor:
    x = encoder.patch_embed(images)
    if encoder.pos_embed is not None:
        x = x + encoder.pos_embed
    for block in encoder.blocks:
        x = _run_block(block, x)
    features: Tensor = encoder.neck(x.permute(0, 3, 1, 2))
    return features


def _run_block(block: Block, x: Tensor) -> Tensor:
    """A transformer block, BxHxWxC -> BxHxWxC."""
    y = block.norm1(x)
    if block.window_size > 0:
        windows, padded = window_partition(y, block.window_size)
        y = window_unpartition(_attend(block.attn, windows), block.window_size, padded, (x.shape[1], x.shape[2]))
    else:
        y = _attend(block.attn, y)
    x = x + y
    return x + block.mlp(block.norm2(x))


def _attend(attention: Attention, x: Tensor) -> Tensor:
    """Multi-head self-attention of all places of each image or window: BxHxWxC -> BxHxWxC."""
    batch, height, width, _ = x.shape
    places = height * width
    qkv = attention.qkv(x).view(batch, places, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    # One sequence for each image and head: SxTxD.
    queries, keys, values = qkv.flatten(1, 2).unbind(0)
    if attention.use_rel_pos:
        found = _attend_with_positions(attention, queries, keys, values, (height, width))
    else:
        found = F.scaled_dot_product_attention(queries, keys, values, scale=attention.scale)
    found = found.view(batch, attention.num_heads, places, -1).transpose(1, 2)
    projected: Tensor = attention.proj(found.reshape(batch, height, width, -1))
    return projected


def _attend_with_positions(
    attention: Attention, queries: Tensor, keys: Tensor, values: Tensor, shape: tuple[int, int]
) -> Tensor:
    """Attention with relative positions, all SxTxD with T places of a grid of `shape`."""
    height, width = shape
    places = height * width
    grid = queries.unflatten(1, shape)
    # How much a query prefers each row and each column: SxHxWxH and SxHxWxW.
    by_row = torch.einsum("shwd,hkd->shwk", grid, get_rel_pos(height, height, attention.rel_pos_h))
    by_column = torch.einsum("shwd,wkd->shwk", grid, get_rel_pos(width, width, attention.rel_pos_w))
    at_once = _BIAS_VALUES_CPU if queries.device.type == "cpu" else _BIAS_VALUES_GPU
    sequences = max(1, at_once // places**2)
    rows = min(height, max(1, at_once // (sequences * width * places)))
    found = torch.empty_like(queries)
    for first in range(0, len(queries), sequences):
        some = slice(first, first + sequences)
        for top in range(0, height, rows):
            band = slice(top, top + rows)
            part = slice(top * width, (top + rows) * width)
            bias = by_row[some, band, :, :, None] + by_column[some, band, :, None, :]
            # With a leading dimension, which the fast kernels ask for.
            found[some, part] = F.scaled_dot_product_attention(
                queries[None, some, part],
                keys[None, some],
                values[None, some],
                attn_mask=bias.flatten(3).flatten(1, 2)[None],
                scale=attention.scale,
            )[0]
    return found
