"""How the weights in a file differ from those that a network expects."""

from collections.abc import Mapping

from torch import Tensor

_LISTED_KEYS = 3  # how many differing keys an error lists


def describe_differences(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str:
    """Which keys `weights` lack, have in excess or have in another shape, in a few words; "" if the weights fit."""
    differences = {
        "missing": [key for key in expected if key not in weights],
        "unknown": [key for key in weights if key not in expected],
        "of another shape": [
            f"{key} {tuple(weights[key].shape)} instead of {tuple(expected[key].shape)}"
            for key in expected
            if key in weights and weights[key].shape != expected[key].shape
        ],
    }
    return "; ".join(
        f"{len(keys)} {kind}: {', '.join(keys[:_LISTED_KEYS])}{', ...' if len(keys) > _LISTED_KEYS else ''}"
        for kind, keys in differences.items()
        if keys
    )
