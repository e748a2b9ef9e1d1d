"""How the weights in a file differ from those that a network expects."""

from collections.abc import Mapping

import torch
from torch import Tensor

_LISTED_KEYS = 3  # how many differing keys an error lists


def describe_differences(expected: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> str:
    """Which keys `weights` lack, have in excess, or have in another shape or kind of numbers, in a few words.

    "" if the weights fit.
    """
    differences = {
        "missing": [key for key in expected if key not in weights],
        "unknown": [key for key in weights if key not in expected],
        "of another shape": [
            f"{key} {tuple(weights[key].shape)} instead of {tuple(expected[key].shape)}"
            for key in expected
            if key in weights and weights[key].shape != expected[key].shape
        ],
        "no plain numbers": [
            f"{key} {weights[key].dtype}".replace("torch.", "")
            for key in expected
            if key in weights and not _is_plain(weights[key], expected[key])
        ],
    }
    return "; ".join(
        f"{len(keys)} {kind}: {', '.join(keys[:_LISTED_KEYS])}{', ...' if len(keys) > _LISTED_KEYS else ''}"
        for kind, keys in differences.items()
        if keys
    )


def _is_plain(value: Tensor, expected: Tensor) -> bool:
    """Whether a tensor holds numbers of the expected kind as they are, and no quantised or sparse ones."""
    return (
        value.layout == torch.strided
        and not value.is_quantized
        and value.is_floating_point() == expected.is_floating_point()
    )
