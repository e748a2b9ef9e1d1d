"""Devices and number formats by the names that options give them, copies to and from a GPU, and lack of memory."""

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, TypeVar

import cv2
import torch
from torch import Tensor

from thfuse_sam.errors import DeviceError

log = logging.getLogger(__name__)

_T = TypeVar("_T")

DTYPES: Mapping[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# Phrases by which libraries and Python report lack of memory in errors that have no class of their own.
_OUT_OF_MEMORY_PHRASES = (
    "can't allocate",  # memory; CPython also says it of locks
    "cannot allocate memory",
    "not enough memory",
    "insufficient memory",
    "bad_alloc",
    "could not create a primitive",
    "can't start new thread",
    "without setting an exception",  # Python, where even an exception object does not fit into memory
    "cuda error: out of memory",
    "cuda driver error: out of memory",
    "triton error [cuda]: out of memory",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
)
# Beginnings of what CUDA and its libraries report. After it no work on the GPU succeeds any more in this process.
_GPU_FAILURES = (
    "cuda error", "cuda driver error", "triton error [cuda]", "cudnn error", "cublas_status", "nccl error",
)  # fmt: skip


def resolve_device(name: str | torch.device) -> torch.device:
    """The device that `name` asks for.

    `name`: "auto" (the first CUDA device where there is one, else the CPU), "cpu", "cuda" or "cuda:i"; or a device.
    Raises DeviceError: the name is none of these, or this machine has no such device.
    """
    name = str(name)
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


def fast_half_precision(device: torch.device) -> Literal["bf16", "fp16"] | None:
    """The 16-bit format whose matrix products the hardware has instructions for; None if it has none."""
    if device.type == "cuda":
        major, _ = torch.cuda.get_device_capability(device)
        # Tensor cores came with 7.0, in bf16 with 8.0, which keeps fp32's range.
        return "bf16" if major >= 8 else "fp16" if major == 7 else None
    # On a CPU these instructions are AVX512_BF16 and AMX; without them PyTorch emulates bf16 and calls it "supported".
    # Older versions of PyTorch do not list the instructions.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)() if device.type == "cpu" else {}
    return "bf16" if any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16")) else None


def warn_of_slow(precision: str, device: torch.device) -> None:
    """Log a warning where `device` has no instructions for `precision` and computes it in software."""
    fast = fast_half_precision(device)
    emulated = device.type == "cuda" and precision == "bf16" and fast == "fp16"
    if precision != "fp32" and (fast is None or emulated):
        log.warning("`precision` %s: %s has no instructions for it and may be much slower than fp32", precision, device)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the memory of the machine or of the GPU does not suffice."""
    text = str(error).lower()
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, (RuntimeError, OSError, SystemError, cv2.error))
        and any(phrase in text for phrase in _OUT_OF_MEMORY_PHRASES)
    )


def free_memory(device: torch.device) -> tuple[int, int]:
    """Free and total memory of a GPU in bytes, other programs' share taken off."""
    free, total = torch.cuda.mem_get_info(device)
    # PyTorch may keep memory that it does not use.
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device), total


def is_gpu_failure(error: BaseException) -> bool:
    """Whether an error says that the GPU or its driver has failed, so that this process can do no more work on it."""
    failed = isinstance(error, RuntimeError) and any(phrase in str(error).lower() for phrase in _GPU_FAILURES)
    return failed and not is_out_of_memory(error)


def unless_out_of_memory(work: Callable[[], _T]) -> _T | None:
    """What `work` returns; None if memory did not suffice, after PyTorch's unused GPU memory has been freed."""
    try:
        return work()
    except (MemoryError, RuntimeError) as error:
        # torch.OutOfMemoryError is a RuntimeError; on a CPU PyTorch raises a plain RuntimeError.
        if not is_out_of_memory(error):
            raise
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return None


class Chunks:
    """Divides some kind of work so that it fits into memory. A size that did not fit is halved for good.

    `items` says what is counted, for the log: "points are decoded".
    """

    def __init__(self, items: str) -> None:
        self.limit: int | None = None  # the most items at once; None: not known yet
        self._items = items

    def map(self, work: Callable[[slice], _T], count: int, at_once: int, no_memory: str) -> Iterator[_T]:
        """`work` on `count` items, on `at_once` of them together or fewer where memory does not suffice.

        Raises DeviceError with the text `no_memory`: it does not suffice for one item.
        """
        first = 0
        while first < count:
            chunk = slice(first, min(count, first + min(at_once, self.limit or at_once)))
            result = unless_out_of_memory(lambda chunk=chunk: work(chunk))  # type: ignore[misc]
            tried = chunk.stop - first
            if result is not None:
                yield result
                first = chunk.stop
            elif tried == 1:
                raise DeviceError(no_memory)
            else:
                self.limit = tried // 2
                log.info("out of memory; from now on %d %s together", self.limit, self._items)


def upload(tensor: Tensor, device: torch.device) -> Tensor:
    """`tensor`, which lies on the CPU, on `device`. The CPU does not wait for the GPU."""
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


class Download:
    """A copy of a tensor to the CPU. It takes place while the CPU goes on to other work; `wait` ends it."""

    def __init__(self, tensor: Tensor) -> None:
        self._copy = tensor
        self._event: torch.cuda.Event | None = None
        if tensor.device.type == "cuda":
            self._copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            self._copy.copy_(tensor, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(tensor.device))

    def wait(self) -> Tensor:
        """The copy, once it is whole. From any thread."""
        if self._event is not None:
            self._event.synchronize()
        return self._copy


def is_exporting() -> bool:
    """Whether `torch.export` traces what runs; before PyTorch 2.7, which can tell them apart, also `torch.compile`."""
    return bool(getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)())
