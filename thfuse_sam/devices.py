"""Devices and number formats by the names that options give them, and how lack of memory is recognised."""

import re
from collections.abc import Mapping

import torch

from thfuse_sam.errors import DeviceError

DTYPES: Mapping[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# Phrases by which PyTorch, oneDNN, C++ and Python report lack of memory in errors that have no class of their own.
_OUT_OF_MEMORY_PHRASES = (
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "bad_alloc",
    "could not create a primitive",
    "can't start new thread",
    "without setting an exception",  # Python, where even an exception object does not fit into memory
)


def resolve_device(name: str) -> torch.device:
    """The device that `name` asks for.

    Args:
        name: "auto" (the first CUDA device where there is one, else the CPU), "cpu", "cuda" or "cuda:i".

    Raises:
        DeviceError: the name is none of these, or this machine has no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cpu":
        return torch.device("cpu")
    match = re.fullmatch(r"cuda(?::(\d+))?", name)
    if match is None:
        raise DeviceError(f"`device` {name}: unknown device; use auto, cpu, cuda or cuda:0, cuda:1, ...")
    if not torch.cuda.is_available():
        raise DeviceError(f"`device` {name}: this machine has no CUDA device that PyTorch can use; use cpu or auto")
    index = int(match[1] or 0)
    count = torch.cuda.device_count()
    if index >= count:
        raise DeviceError(f"`device` {name}: this machine has {count} CUDA device(s), cuda:0 to cuda:{count - 1}")
    return torch.device(name)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory of the machine or of the GPU does not suffice."""
    text = str(error).lower()
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, (RuntimeError, OSError, SystemError))
        and any(phrase in text for phrase in _OUT_OF_MEMORY_PHRASES)
    )
