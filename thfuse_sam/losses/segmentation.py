"""Losses of a segmentation model, per object and on logits.

Every function takes logits NxHxW (any real number; above 0 is "inside"), a target NxHxW in [0, 1] (soft values are
allowed: a pixel that is half inside) and `valid`, HxW or NxHxW in {0, 1}, which leaves padded pixels out. It returns
one value per object, N, so that the caller decides how objects and images are averaged.
"""

import dataclasses
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

from thfuse_sam.errors import UsageError

TOTAL = "total"
# Focal to Dice 20:1 and the IoU head's error at 1, as in Kirillov et al., "Segment Anything", ICCV 2023.
DEFAULT_SEGMENTATION_WEIGHTS: Mapping[str, float] = {
    "dice": 1.0,
    "focal": 20.0,
    "bce": 0.0,
    "iou": 0.0,
    "iou_head": 1.0,
}


def dice_loss(logits: Tensor, target: Tensor, valid: Tensor, smooth: float = 1.0) -> Tensor:
    """1 - Dice of probabilities and target (Milletari et al., "V-Net", 2016, with p instead of p squared): N in [0, 1].

    `smooth`, in pixels, keeps the loss of an object of a few pixels from jumping.
    """
    overlap, predicted, wanted = _sums(logits, target, valid)
    return 1 - (2 * overlap + smooth) / (predicted + wanted + smooth)


def soft_iou_loss(logits: Tensor, target: Tensor, valid: Tensor, smooth: float = 1.0) -> Tensor:
    """1 - IoU of probabilities and target (Rahman and Wang, ISVC 2016): N in [0, 1]."""
    overlap, predicted, wanted = _sums(logits, target, valid)
    return 1 - (overlap + smooth) / (predicted + wanted - overlap + smooth)


def bce_loss(logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Binary cross-entropy, the mean over the valid pixels: N."""
    return _mean(F.binary_cross_entropy_with_logits(logits, target, reduction="none"), valid)


def focal_loss(logits: Tensor, target: Tensor, valid: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Focal loss (Lin et al., ICCV 2017), the mean over the valid pixels: N.

    Args:
        alpha: weight of the pixels inside, in [0, 1]; those outside have 1 - alpha; a negative value weighs none.
        gamma: how much pixels that are right already are played down; 0 gives the (weighted) cross-entropy.
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
    predicted, wanted = (logits > 0) & keep, (target > 0.5) & keep
    overlap = (predicted & wanted).sum((-2, -1)).float()
    union = (predicted | wanted).sum((-2, -1)).float()
    return torch.where(union > 0, overlap / union.clamp(min=1), torch.ones_like(union))


def iou_head_loss(predicted_iou: Tensor, logits: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Squared error of the model's own estimate of its mask's IoU: N. Gradients reach the estimate alone."""
    return (predicted_iou - mask_iou(logits.detach(), target, valid)) ** 2


@dataclasses.dataclass(frozen=True)
class SegmentationLoss:
    """The weighted sum of the losses above. Raises UsageError for weights that cannot work."""

    weights: Mapping[str, float] = dataclasses.field(default_factory=lambda: dict(DEFAULT_SEGMENTATION_WEIGHTS))
    alpha: float = 0.25  # of the focal loss, in [0, 1]; negative: none
    gamma: float = 2.0  # of the focal loss

    def __post_init__(self) -> None:
        unknown = sorted(set(self.weights) - set(DEFAULT_SEGMENTATION_WEIGHTS))
        if unknown:
            raise UsageError(f"`loss` {unknown[0]}: unknown; known are {', '.join(DEFAULT_SEGMENTATION_WEIGHTS)}")
        if not any(value > 0 for name, value in self.weights.items() if name != "iou_head"):
            raise UsageError("`loss`: no loss of the mask has a weight above 0; give one of dice, focal, bce, iou")
        if self.alpha > 1:
            raise UsageError(f"`alpha` {self.alpha}: is above 1; give a number from 0 to 1, or -1 for no weighting")

    def __call__(self, logits: Tensor, predicted_iou: Tensor, target: Tensor, valid: Tensor) -> dict[str, Tensor]:
        """Loss parts per object, and their sum.

        Where the model puts out several masks for a prompt, the best one (lowest sum of mask losses) is trained, as
        SAM was; the IoU head is trained on all of them.

        Args:
            logits: NxKxHxW, K masks a prompt.
            predicted_iou: NxK.
            target: NxHxW in [0, 1].
            valid: HxW or NxHxW in {0, 1}.

        Returns:
            "total" and every part with a weight above 0, unweighted, each N; "iou", N, the best mask's IoU, under
            the key "mask_iou" (no loss, not part of the total).
        """
        logits, predicted_iou = logits.float(), predicted_iou.float()
        candidates = [self._parts(logits[:, index], target, valid) for index in range(logits.shape[1])]
        sums = torch.stack([self._weighted(parts) for parts in candidates], dim=1)
        best = sums.detach().argmin(dim=1, keepdim=True)
        parts = {
            name: torch.stack([candidate[name] for candidate in candidates], dim=1).gather(1, best)[:, 0]
            for name in candidates[0]
        }
        total = sums.gather(1, best)[:, 0]
        if self.weights.get("iou_head", 0) > 0:
            head = [
                iou_head_loss(predicted_iou[:, index], logits[:, index], target, valid)
                for index in range(logits.shape[1])
            ]
            parts["iou_head"] = torch.stack(head, dim=1).mean(dim=1)
            total = total + self.weights["iou_head"] * parts["iou_head"]
        ious = torch.stack([mask_iou(logits[:, index], target, valid) for index in range(logits.shape[1])], dim=1)
        return {TOTAL: total, **parts, "mask_iou": ious.gather(1, best)[:, 0]}

    def _parts(self, logits: Tensor, target: Tensor, valid: Tensor) -> dict[str, Tensor]:
        functions: dict[str, Callable[[], Tensor]] = {
            "dice": lambda: dice_loss(logits, target, valid),
            "focal": lambda: focal_loss(logits, target, valid, self.alpha, self.gamma),
            "bce": lambda: bce_loss(logits, target, valid),
            "iou": lambda: soft_iou_loss(logits, target, valid),
        }
        return {name: function() for name, function in functions.items() if self.weights.get(name, 0) > 0}

    def _weighted(self, parts: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([self.weights[name] * value for name, value in parts.items()]).sum(dim=0)


def _sums(logits: Tensor, target: Tensor, valid: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over the valid pixels of probability times target, of probability, of target: N each."""
    inside = torch.sigmoid(logits) * valid
    wanted = target * valid
    return (inside * wanted).sum((-2, -1)), inside.sum((-2, -1)), wanted.sum((-2, -1))


def _mean(values: Tensor, valid: Tensor) -> Tensor:
    valid = valid.expand_as(values)
    return (values * valid).sum((-2, -1)) / valid.sum((-2, -1)).clamp(min=1)
