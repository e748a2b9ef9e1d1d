"""Which number format the option `precision` means on a device."""

from typing import Literal

import torch

from thfuse_sam.devices import fast_half_precision, warn_of_slow
from thfuse_sam.options.shared import Precision


def resolve_precision(name: Precision | Literal["auto"], device: torch.device) -> Precision:
    """The number format that `name` stands for on `device`; a warning if the hardware is slow at it.

    "auto" means 16 bits where the hardware multiplies such matrices faster than those of 32 bits, and fp32 elsewhere.
    It depends on the hardware alone, so that equal machines make equal masks.
    """
    if name == "auto":
        return fast_half_precision(device) or "fp32"
    warn_of_slow(name, device)
    return name
