"""What one step of training `vit_nano` minimises: the loss of a batch of crops, and its named parts.

The model learns on crops of its input square, at the scale of use: a crop takes the rows and columns of the positional
encodings that belong to its place in the whole. The mask loss is taken on the best of three outputs, as in Kirillov et
al., "Segment Anything", ICCV 2023.
"""

import torch
import torch.nn.functional as F
from segment_anything.modeling import Sam
from torch import Tensor

from thfuse_sam.devices import DTYPES
from thfuse_sam.losses.segmentation import mask_iou
from thfuse_sam.sam.decoder import PointDecoder
from thfuse_sam.sam.geometry import LOGIT_STRIDE, LOGITS_PER_TOKEN, PATCH_SIZE
from thfuse_sam.training.batches import Batch
from tools.vit_nano.images import PADDING
from tools.vit_nano.losses import mask_loss
from tools.vit_nano.options import NanoSettings
from tools.vit_nano.region_head import RegionHead, affinity_loss, identity_loss
from tools.vit_nano.targets import target_masks


def batch_loss(sam: Sam, head: RegionHead, settings: NanoSettings, batch: Batch) -> dict[str, Tensor]:
    """Loss parts of a batch of `TargetDataset`; "iou" is no loss: the mean IoU of the best of three masks for a point.

    Products and convolutions run in the precision of `settings`, losses in fp32.
    """
    labels, corners = batch["labels"], batch["corners"]
    dtype = DTYPES[settings.precision]
    with torch.autocast(labels.device.type, dtype, enabled=settings.precision != "fp32"):
        embeddings = sam.image_encoder(_normalized(sam, batch["images"], labels))
    parts, total = {}, torch.zeros((), device=labels.device)
    if settings.affinity_weight or settings.identity_weight:
        with torch.autocast(labels.device.type, dtype, enabled=settings.precision != "fp32"):
            affinities, identities = head(embeddings, _logit_grid_pe(sam, corners, embeddings.shape[-2:]))
        parts["affinity"] = affinity_loss(affinities.float(), labels)
        parts["identity"] = identity_loss(identities.float(), labels, settings.queries)
        total = settings.affinity_weight * parts["affinity"] + settings.identity_weight * parts["identity"]
    if settings.prompts:
        by_points = settings.prompts - settings.prompts * 2 // 5
        points, boxes = batch["points"][:, :by_points], batch["boxes"][:, by_points:]
        logits, predicted = decode_crops(sam, embeddings, corners, points, boxes, dtype)
        targets = target_masks(labels, batch["ids"])[:, :, None]
        parts["prompted"], parts["iou"] = _prompted_loss(logits, predicted, targets, by_points, settings)
        total = total + parts["prompted"]
    return {"total": total, **{name: value.detach() for name, value in parts.items()}}


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
        dtype: number format of all tensors with the height and width of the embeddings or logits.

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
        context = decoder.prepare(embeddings[index, None], (PATCH_SIZE * height, PATCH_SIZE * width), crop_pe)
        outputs.append(decoder.decode_all(context, torch.cat([by_point, by_box])))
    logits, ious = zip(*outputs, strict=True)
    return torch.stack(logits), torch.stack(ious)


def _prompted_loss(
    logits: Tensor, predicted: Tensor, targets: Tensor, by_points: int, settings: NanoSettings
) -> tuple[Tensor, Tensor]:
    """Loss of the decoder's masks and predicted IoUs, and the mean IoU of the best of three masks for a point.

    Of the decoder's four masks, number 0 is for unambiguous prompts, here boxes; 1 to 3 are alternatives for an
    ambiguous point, and for a box around a warm place, whose thing may be larger or smaller.

    Args:
        logits: BxNx4xHxW.
        predicted: IoUs, BxNx4.
        targets: BxNx1xHxW in [0, 1].
        by_points: how many of the N prompts are points; the others are boxes.
    """
    ious = mask_iou(logits.detach(), targets, targets.new_ones(targets.shape[-2:]))
    losses = mask_loss(logits, targets, settings.entropy_weight)
    of_points, of_boxes = losses[:, :by_points], losses[:, by_points:]
    loss = of_points[..., 1:].amin(-1).mean() + 0.05 * of_points.mean()
    loss = loss + F.mse_loss(predicted[:, :by_points], ious[:, :by_points])
    if by_points < settings.prompts:
        by_box = of_boxes[..., 0].mean() + of_boxes[..., 1:].amin(-1).mean()
        by_box = by_box + F.mse_loss(predicted[:, by_points:], ious[:, by_points:])
        loss = loss + settings.box_weight * by_box
    return loss, ious[:, :by_points, 1:].amax(-1).mean()
