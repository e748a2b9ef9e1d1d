"""Fusion networks and the SAM guidance branch."""

from thfuse_sam.models.base import INPUTS, MINIMUM_SIZE, FusionNetwork, TiledNetwork, count_parameters
from thfuse_sam.models.registry import DEFAULT_NETWORK, NETWORKS, build_network
from thfuse_sam.models.thfuse_original import is_original_thfuse, thfuse_from_original

__all__ = [
    "DEFAULT_NETWORK",
    "INPUTS",
    "MINIMUM_SIZE",
    "NETWORKS",
    "FusionNetwork",
    "TiledNetwork",
    "build_network",
    "count_parameters",
    "is_original_thfuse",
    "thfuse_from_original",
]
