"""The mask loss of training `vit_nano`."""

import torch.nn.functional as F
from torch import Tensor

from thfuse_sam.losses.segmentation import dice_loss


def mask_loss(logits: Tensor, target: Tensor, entropy_weight: float = 1.0) -> Tensor:
    """Balanced cross entropy plus the Dice loss for each mask.

    Without the balance the masks of a new model collapse to nothing. With it small masks come out a little too large,
    which a lower `entropy_weight` mends at the end of a training. SAM's focal loss is left out: a small model
    trained for a short time needs logits that reach past the stability filter's offset.

    Args:
        logits: ...xHxW.
        target: in [0, 1], broadcast against `logits`.

    Returns:
        The loss of each mask, shape `...`.
    """
    everywhere = target.new_ones(target.shape[-2:])
    entropy = balanced_cross_entropy(logits, target, everywhere)
    return entropy_weight * entropy + dice_loss(logits, target, everywhere)


def balanced_cross_entropy(logits: Tensor, target: Tensor, valid: Tensor, dim: tuple[int, ...] = (-2, -1)) -> Tensor:
    """Binary cross entropy, summed over `dim`; all pixels inside and all pixels outside weigh 0.5.

    Args:
        logits: ...xHxW.
        target: in [0, 1], broadcast against `logits`.
        valid: in {0, 1}, broadcast against `target`; leaves padded pixels out.
    """
    inside, outside = target * valid, (1 - target) * valid
    weight = inside / (inside.sum(dim, keepdim=True) + 1) + outside / (outside.sum(dim, keepdim=True) + 1)
    entropy = F.binary_cross_entropy_with_logits(logits, target.expand_as(logits), reduction="none")
    return (0.5 * weight * entropy).sum(dim)
