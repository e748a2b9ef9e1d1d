"""Losses: functions on tensors that return scalars, and their weighted sum."""

from thfuse_sam.losses.fusion import DEFAULT_WEIGHTS, TOTAL, FusionLoss
from thfuse_sam.losses.regions import region_edges_loss, region_loss
from thfuse_sam.losses.sources import gradient_loss, intensity_loss
from thfuse_sam.losses.ssim import ssim_loss

__all__ = [
    "DEFAULT_WEIGHTS",
    "TOTAL",
    "FusionLoss",
    "gradient_loss",
    "intensity_loss",
    "region_edges_loss",
    "region_loss",
    "ssim_loss",
]
