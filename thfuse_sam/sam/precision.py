"""Which number format the option `precision` means on a device."""

import logging
from typing import Any, Literal

import torch

from thfuse_sam.options.shared import Precision

log = logging.getLogger(__name__)


def resolve_precision(name: Precision | Literal["auto"], device: torch.device) -> Precision:
    """The number format that `name` stands for on `device`; a warning if the hardware is slow at it.

    "auto" means 16 bits where the hardware multiplies such matrices faster than those of 32 bits, and fp32 elsewhere.
    It depends on the hardware alone, so that equal machines make equal masks.
    """
    fast = _fast_half_precision(device)
    if name == "auto":
        return fast or "fp32"
    emulated = device.type == "cuda" and name == "bf16" and fast == "fp16"
    if name != "fp32" and (fast is None or emulated):
        log.warning("`precision` %s: %s has no instructions for it and may be much slower than with fp32", name, device)
    return name


def _fast_half_precision(device: torch.device) -> Precision | None:
    """The 16-bit format whose matrix products the hardware has instructions for; None if it has none."""
    if device.type == "cuda":
        major, _ = torch.cuda.get_device_capability(device)
        # Tensor cores came with 7.0, in bf16 with 8.0, which keeps fp32's range.
        return "bf16" if major >= 8 else "fp16" if major == 7 else None
    # On a CPU these instructions are AVX512_BF16 and AMX; without them PyTorch emulates bf16 and calls it "supported".
    # Older versions of PyTorch do not list the instructions.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)() if device.type == "cpu" else {}
    return "bf16" if any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16")) else None
