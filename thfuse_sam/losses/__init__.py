"""Losses: functions on tensors that return scalars, and their weighted sum."""

from thfuse_sam.losses.colour import colour_loss
from thfuse_sam.losses.fusion import DEFAULT_WEIGHTS, LOSS_PARTS, TOTAL, FusionLoss
from thfuse_sam.losses.perceptual import PerceptualLoss, load_perceptual_loss
from thfuse_sam.losses.regions import region_edges_loss, region_loss
from thfuse_sam.losses.sources import (
    average_intensity_loss,
    gradient_loss,
    intensity_loss,
    salient_intensity_loss,
    squared_intensity_loss,
)
from thfuse_sam.losses.ssim import ssim_loss

__all__ = [
    "DEFAULT_WEIGHTS",
    "LOSS_PARTS",
    "TOTAL",
    "FusionLoss",
    "PerceptualLoss",
    "average_intensity_loss",
    "colour_loss",
    "gradient_loss",
    "intensity_loss",
    "load_perceptual_loss",
    "region_edges_loss",
    "region_loss",
    "salient_intensity_loss",
    "squared_intensity_loss",
    "ssim_loss",
]
