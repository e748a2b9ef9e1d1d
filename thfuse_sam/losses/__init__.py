"""Losses: functions on tensors that return scalars, and their weighted sum."""

from thfuse_sam.losses.fusion import FusionLoss
from thfuse_sam.losses.perceptual import PerceptualLoss, load_perceptual_loss
from thfuse_sam.losses.registry import DEFAULT_WEIGHTS, LOSS_PARTS, TOTAL, LossPart
from thfuse_sam.losses.segmentation import SEGMENTATION_PARTS, SegmentationLoss

__all__ = [
    "DEFAULT_WEIGHTS",
    "LOSS_PARTS",
    "SEGMENTATION_PARTS",
    "TOTAL",
    "FusionLoss",
    "LossPart",
    "PerceptualLoss",
    "SegmentationLoss",
    "load_perceptual_loss",
]
