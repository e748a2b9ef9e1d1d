"""Fusion networks and the SAM guidance branch."""

from thfuse_sam.models.base import MINIMUM_SIZE, FusionNetwork, count_parameters
from thfuse_sam.models.registry import DEFAULT_NETWORK, NETWORKS, build_network
from thfuse_sam.models.thfuse import thfuse_from_original

__all__ = [
    "DEFAULT_NETWORK",
    "MINIMUM_SIZE",
    "NETWORKS",
    "FusionNetwork",
    "build_network",
    "count_parameters",
    "thfuse_from_original",
]
