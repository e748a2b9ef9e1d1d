"""The fusion networks by name."""

import inspect
import itertools
from typing import Any

from torch import nn

from thfuse_sam.errors import UsageError
from thfuse_sam.models.base import FusionNetwork
from thfuse_sam.models.thfuse import THFuse
from thfuse_sam.models.thfuse_lite import THFuseLite
from thfuse_sam.models.thfuse_tiny import THFuseTiny

NETWORKS: dict[str, type[FusionNetwork]] = {
    THFuse.name: THFuse,
    THFuseLite.name: THFuseLite,
    THFuseTiny.name: THFuseTiny,
}
DEFAULT_NETWORK = THFuseLite.name


def build_network(name: str = DEFAULT_NETWORK, **options: Any) -> FusionNetwork:
    """An untrained network in float32, also where PyTorch's default is another type.

    Args:
        name: a key of NETWORKS.
        options: keyword arguments of that network. The `options` of an existing network build another one like it.

    Raises:
        UsageError: unknown name, unknown option or a value that cannot work.
    """
    if name not in NETWORKS:
        raise UsageError(f"network {name!r} is unknown; use one of {', '.join(NETWORKS)}")
    builder = NETWORKS[name]
    known = _options(builder)
    unknown = [option for option in options if option not in known]
    if unknown:
        raise UsageError(f"network {name} has no option {', '.join(unknown)}; it has {', '.join(known)}")
    network = builder(**options).float()
    network.options = {**known, **options}
    return network


def _options(network: type[FusionNetwork]) -> dict[str, Any]:
    """The options of a network, its own and then those of its bases, with their defaults."""
    options: dict[str, Any] = {}
    for kind in itertools.takewhile(lambda kind: kind is not nn.Module, network.__mro__):
        for one in inspect.signature(kind).parameters.values():
            if one.default is not one.empty:
                options.setdefault(one.name, one.default)
    return options
