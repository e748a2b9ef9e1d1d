"""What one step of training `vit_nano` minimises: the loss of a batch of crops, and its named parts.

The model learns on crops of its input square, at the scale of use: a crop takes the rows and columns of the positional
encodings that belong to its place in the whole. The mask loss is taken on the best of three outputs, as in Kirillov et
al., "Segment Anything", ICCV 2023.
"""

import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam
from torch import Tensor

from thfuse_sam.losses.segmentation import mask_iou
from thfuse_sam.sam.decoder import PointDecoder
from thfuse_sam.sam.geometry import LOGIT_STRIDE, LOGITS_PER_TOKEN, PATCH_SIZE
from tools.vit_nano.images import PADDING
from tools.vit_nano.losses import mask_loss
from tools.vit_nano.options import NanoTrainingConfig
from tools.vit_nano.region_head import RegionHead, affinity_loss, identity_loss
from tools.vit_nano.targets import target_masks


def batch_loss(
    sam: Sam,
    head: RegionHead,
    config: NanoTrainingConfig,
    images: Tensor,
    labels: Tensor,
    ids: Tensor,
    points: Tensor,
    boxes: Tensor,
    corners: Tensor,
) -> tuple[Tensor, dict[str, float]]:
    """Loss of a batch of `TargetStream` and its parts. Products and convolutions run in bf16 with `config.bf16`."""
    with torch.autocast(images.device.type, torch.bfloat16, enabled=config.bf16):
        embeddings = sam.image_encoder(_normalized(sam, images, labels))
        affinities, identities = head(embeddings, _logit_grid_pe(sam, corners, embeddings.shape[-2:]))
    affinity = affinity_loss(affinities.float(), labels)
    identity = identity_loss(identities.float(), labels, config.queries)
    loss = config.affinity_weight * affinity + config.identity_weight * identity
    parts = {"affinity loss": affinity.item(), "identity loss": identity.item()}
    if not config.prompts:
        return loss, parts
    by_points = config.prompts - config.prompts // 5
    dtype = torch.bfloat16 if config.bf16 else torch.float32
    logits, predicted = decode_crops(sam, embeddings, corners, points[:, :by_points], boxes[:, by_points:], dtype)
    prompted, iou = _prompted_loss(logits, predicted, target_masks(labels, ids)[:, :, None], by_points, config)
    loss = loss + prompted
    return loss, {"loss": loss.item(), **parts, "IoU": iou}


def _normalized(sam: Sam, images: Tensor, labels: Tensor) -> Tensor:
    """SAM's input; padding is 0 after normalisation, as SAM pads."""
    return torch.where(labels[:, None] != PADDING, (images.float() - sam.pixel_mean) / sam.pixel_std, 0.0)


def _logit_grid_pe(sam: Sam, corners: Tensor, embedding_size: torch.Size) -> Tensor:
    """Positional encodings of the logit grid in each crop: BxCx4Hx4W for an embedding of HxW."""
    whole = sam.prompt_encoder.pe_layer((sam.image_encoder.img_size // LOGIT_STRIDE,) * 2)
    height, width = (LOGITS_PER_TOKEN * side for side in embedding_size)
    return torch.stack([whole[:, y : y + height, x : x + width] for y, x in (LOGITS_PER_TOKEN * corners).tolist()])


def decode_crops(
    sam: Sam, embeddings: Tensor, corners: Tensor, points: Tensor, boxes: Tensor, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor]:
    """All four masks and predicted IoUs for N points (BxNx2) and K boxes (BxKx4) of B crops, in pixels of each crop.

    Args:
        embeddings: BxCxHxW.
        corners: Bx2, each crop's first row and column of patches.
        dtype: of everything of the image's size.

    Returns:
        logits Bx(N+K)x4x4Hx4W and predicted IoUs Bx(N+K)x4, points before boxes.
    """
    decoder = PointDecoder(sam, dtype)
    height, width = embeddings.shape[-2:]
    image_pe = sam.prompt_encoder.get_dense_pe()
    outputs = []
    for index, (y, x) in enumerate(corners.tolist()):
        shift = corners[index].flip(0).to(points.dtype) * PATCH_SIZE
        labelled = (points[index] + shift)[:, None], points.new_ones(points.shape[1], 1)
        by_point, _ = sam.prompt_encoder(points=labelled, boxes=None, masks=None)
        by_box, _ = sam.prompt_encoder(points=None, boxes=boxes[index] + shift.repeat(2), masks=None)
        crop_pe = image_pe[..., y : y + height, x : x + width]
        outputs.append(decoder.decode_all(embeddings[index, None], crop_pe, torch.cat([by_point, by_box])))
    logits, ious = zip(*outputs, strict=True)
    return torch.stack(logits), torch.stack(ious)


def _prompted_loss(
    logits: Tensor, predicted: Tensor, targets: Tensor, by_points: int, config: NanoTrainingConfig
) -> tuple[Tensor, float]:
    """Loss of the decoder's masks and predicted IoUs; and the mean IoU of the best of three masks for a point.

    Output 0 is SAM's single mask, 1 to 3 are the choice for an ambiguous point.

    Args:
        logits: BxNx4xHxW.
        predicted: IoUs, BxNx4.
        targets: BxNx1xHxW in [0, 1].
        by_points: how many of the N prompts are points; the others are boxes.
    """
    ious = mask_iou(logits.detach(), targets, targets.new_ones(targets.shape[-2:]))
    losses = mask_loss(logits, targets, config.entropy_weight)
    of_points, of_boxes = losses[:, :by_points], losses[:, by_points:]
    loss = of_points[..., 1:].amin(-1).mean() + 0.05 * of_points.mean()
    loss = loss + F.mse_loss(predicted[:, :by_points], ious[:, :by_points])
    if by_points < config.prompts:
        loss = loss + 0.25 * of_boxes[..., 0].mean()
        loss = loss + 0.25 * F.mse_loss(predicted[:, by_points:], ious[:, by_points:])
    return loss, ious[:, :by_points, 1:].amax(-1).mean().item()
