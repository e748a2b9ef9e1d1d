"""Losses of a segmentation model, per object and on logits.

Every function takes logits NxHxW (any real number; above 0 is "inside"), a target NxHxW in [0, 1] (0.5 is a pixel that
is half inside) and `valid`, HxW or NxHxW in {0, 1}, which leaves out padding and pixels that are neither object nor
background. It returns one value per object, N, so that the caller decides how objects and images are averaged.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from thfuse_sam.errors import UsageError
from thfuse_sam.losses.registry import TOTAL, LossPart, require_weights
from thfuse_sam.options.finetune import LOSS_WEIGHTS

_SMOOTH = 1.0  # pixels; keeps the loss of an object of a few pixels from jumping


def dice_loss(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """1 - Dice of probabilities and target (Milletari et al., "V-Net", 2016, p instead of p squared): N in [0, 1]."""
    overlap, predicted, labelled = _sums(logits, target, valid)
    return 1 - (2 * overlap + _SMOOTH) / (predicted + labelled + _SMOOTH)


def soft_iou_loss(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """1 - IoU of probabilities and target (Rahman and Wang, ISVC 2016): N in [0, 1]."""
    overlap, predicted, labelled = _sums(logits, target, valid)
    return 1 - (overlap + _SMOOTH) / (predicted + labelled - overlap + _SMOOTH)


def bce_loss(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Binary cross-entropy, the mean over the valid pixels: N."""
    return _mean(F.binary_cross_entropy_with_logits(logits, target, reduction="none"), valid)


def focal_loss(logits: Tensor, target: Tensor, valid: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss (Lin et al., ICCV 2017), the mean over the valid pixels: N.

    Args:
        alpha: weight of the pixels inside, in [0, 1]; those outside have 1 - alpha. A negative value weighs all alike.
        gamma: how much pixels that are already right are played down; 0 gives the (weighted) cross-entropy.
    """
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    inside = torch.sigmoid(logits)
    wrong = inside * (1 - target) + (1 - inside) * target
    loss = entropy * wrong**gamma
    if alpha >= 0:
        loss = loss * (alpha * target + (1 - alpha) * (1 - target))
    return _mean(loss, valid)


def mask_iou(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """IoU of the masks logits > 0 and target > 0.5 over the valid pixels: N in [0, 1]; two empty masks agree (1)."""
    keep = valid > 0
    predicted, labelled = (logits > 0) & keep, (target > 0.5) & keep
    overlap = (predicted & labelled).sum((-2, -1)).float()
    union = (predicted | labelled).sum((-2, -1)).float()
    return torch.where(union > 0, overlap / union.clamp(min=1), torch.ones_like(union))


def iou_head_loss(predicted_iou: Tensor, logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Squared error of the model's own estimate of its mask's IoU: N. Gradients reach the estimate alone."""
    return (predicted_iou - mask_iou(logits.detach(), target, valid)) ** 2


_MASKS = ("logits", "target", "valid")
IOU_HEAD = "iou_head"  # the only part that trains the estimate of the IoU and not the mask

# Inputs are the arguments of the functions above by name. `options/finetune.py` holds the default weights.
SEGMENTATION_PARTS: dict[str, LossPart] = {
    "dice": LossPart(dice_loss, _MASKS),
    "focal": LossPart(focal_loss, (*_MASKS, "alpha", "gamma")),
    "bce": LossPart(bce_loss, _MASKS),
    "iou": LossPart(soft_iou_loss, _MASKS),
    IOU_HEAD: LossPart(iou_head_loss, ("predicted_iou", *_MASKS)),
}


@dataclasses.dataclass(frozen=True)
class SegmentationLoss:
    """The weighted sum of SEGMENTATION_PARTS.

    Raises UsageError for weights that `require_weights` refuses, and where no loss of the mask has one above 0.
    """

    weights: Mapping[str, float] = dataclasses.field(default_factory=lambda: dict(LOSS_WEIGHTS))
    alpha: float = 0.25  # see `focal_loss`
    gamma: float = 2.0  # see `focal_loss`

    def __post_init__(self) -> None:
        require_weights(self.weights, SEGMENTATION_PARTS)
        if not any(value > 0 for name, value in self.weights.items() if name != IOU_HEAD):
            mask_parts = ", ".join(name for name in SEGMENTATION_PARTS if name != IOU_HEAD)
            raise UsageError(f"`loss`: no loss of the mask has a weight above 0; give one of {mask_parts}")

    def __call__(self, logits: Tensor, predicted_iou: Tensor, target: Tensor, valid: Tensor) -> dict[str, Tensor]:
        """Loss parts per object, and their sum.

        Where the model puts out several masks for a prompt, the best one (lowest sum of mask losses) is trained, as
        SAM was; the IoU head is trained on all of them.

        Args:
            logits: NxKxHxW, K masks per prompt.
            predicted_iou: NxK, the model's own estimates of the masks' IoU.
            target: NxHxW in [0, 1].
            valid: HxW or NxHxW in {0, 1}.

        Returns:
            "total" and every part with a weight above 0, unweighted, each N; "mask_iou", N, the IoU of the best mask
            (no loss, not part of the total).
        """
        common = {"target": target, "valid": valid, "alpha": self.alpha, "gamma": self.gamma}
        candidates = [
            {"logits": mask, "predicted_iou": estimate, **common}
            for mask, estimate in zip(logits.float().unbind(1), predicted_iou.float().unbind(1), strict=True)
        ]
        mask_parts = [self._mask_parts(candidate) for candidate in candidates]
        sums = torch.stack([self._weighted(parts) for parts in mask_parts], dim=1)
        best = sums.detach().argmin(dim=1, keepdim=True)

        def of_best(values: list[Tensor]) -> Tensor:
            return torch.stack(values, dim=1).gather(1, best)[:, 0]

        total = sums.gather(1, best)[:, 0]
        parts = {name: of_best([values[name] for values in mask_parts]) for name in mask_parts[0]}
        if self.weights.get(IOU_HEAD, 0) > 0:
            errors = [SEGMENTATION_PARTS[IOU_HEAD](candidate) for candidate in candidates]
            parts[IOU_HEAD] = torch.stack(errors, dim=1).mean(dim=1)
            total = total + self.weights[IOU_HEAD] * parts[IOU_HEAD]
        ious = [mask_iou(mask, target, valid) for mask in logits.unbind(1)]
        return {TOTAL: total, **parts, "mask_iou": of_best(ious)}

    def _mask_parts(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """The losses, N each, of one mask per object, as far as their weight is above 0."""
        return {
            name: part(inputs)
            for name, part in SEGMENTATION_PARTS.items()
            if name != IOU_HEAD and self.weights.get(name, 0) > 0
        }

    def _weighted(self, parts: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([self.weights[name] * value for name, value in parts.items()]).sum(dim=0)


def _sums(logits: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over the valid pixels of probability times target, of probability, of target: N each."""
    inside = torch.sigmoid(logits) * valid
    labelled = target * valid
    return (inside * labelled).sum((-2, -1)), inside.sum((-2, -1)), labelled.sum((-2, -1))


def _mean(values: Tensor, valid: Tensor) -> Tensor:
    """Mean of values NxHxW over the valid pixels: N; 0 if no pixel is valid."""
    valid = valid.expand_as(values)
    return (values * valid).sum((-2, -1)) / valid.sum((-2, -1)).clamp(min=1)
