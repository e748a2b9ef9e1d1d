"""A Segment Anything model around an image encoder of our own."""

from segment_anything.modeling import MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn

from thfuse_sam.sam.geometry import PATCH_SIZE


def assemble_sam(image_encoder: nn.Module, image_size: int, embed_dim: int, mlp_dim: int) -> Sam:
    """`image_encoder` with segment_anything's prompt encoder and mask decoder, untrained.

    Kirillov et al., "Segment Anything", ICCV 2023.

    Args:
        image_encoder: maps Bx3xSxS to BxCx(S/16)x(S/16); its attribute `img_size` is S.
        image_size: S, the longest side in pixels that the encoder sees.
        embed_dim: C, channels of the image embedding and of the decoder.
        mlp_dim: hidden channels of the decoder's transformer.
    """
    grid = image_size // PATCH_SIZE
    return Sam(
        image_encoder,
        PromptEncoder(
            embed_dim=embed_dim,
            image_embedding_size=(grid, grid),
            input_image_size=(image_size, image_size),
            mask_in_chans=16,
        ),
        MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=embed_dim, num_heads=8, mlp_dim=mlp_dim),
            transformer_dim=embed_dim,
            iou_head_depth=3,
            iou_head_hidden_dim=embed_dim,
        ),
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375],
    )
