"""`vit_nano`: a small Segment Anything model that ships with the project.

It is made of segment_anything's own modules at a smaller size, so every tool that drives a `Sam` drives it too.
Kirillov et al., "Segment Anything", ICCV 2023.
"""

from functools import partial

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

IMAGE_SIZE = 256  # pixels, the longest side that the encoder sees
PATCH_SIZE = 16  # pixels
EMBED_DIM = 128  # channels of the image embedding and of the mask decoder


def build_vit_nano(image_size: int = IMAGE_SIZE) -> Sam:
    """An untrained `vit_nano`.

    Args:
        image_size: longest side in pixels that the encoder sees, a multiple of 16.
    """
    grid = image_size // PATCH_SIZE
    encoder = ImageEncoderViT(
        img_size=image_size,
        patch_size=PATCH_SIZE,
        embed_dim=192,
        depth=6,
        num_heads=3,
        mlp_ratio=4,
        out_chans=EMBED_DIM,
        qkv_bias=True,
        norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=0,
        global_attn_indexes=tuple(range(6)),
    )
    prompt_encoder = PromptEncoder(
        embed_dim=EMBED_DIM,
        image_embedding_size=(grid, grid),
        input_image_size=(image_size, image_size),
        mask_in_chans=16,
    )
    mask_decoder = MaskDecoder(
        num_multimask_outputs=3,
        transformer=TwoWayTransformer(depth=2, embedding_dim=EMBED_DIM, num_heads=8, mlp_dim=512),
        transformer_dim=EMBED_DIM,
        iou_head_depth=3,
        iou_head_hidden_dim=128,
    )
    return Sam(
        encoder, prompt_encoder, mask_decoder, pixel_mean=[123.675, 116.28, 103.53], pixel_std=[58.395, 57.12, 57.375]
    )
