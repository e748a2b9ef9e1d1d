"""Device names and what this machine is said to have."""

import cv2
import pytest
import torch

from thfuse_sam.devices import is_gpu_failure, is_out_of_memory, resolve_device
from thfuse_sam.errors import DeviceError


def pretend_devices(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)


def test_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_devices(monkeypatch, 0)
    assert resolve_device("auto") == resolve_device("cpu") == torch.device("cpu")
    for name in ("cuda", "cuda:0"):
        with pytest.raises(DeviceError, match=f"`device` {name}: this machine has no CUDA device"):
            resolve_device(name)


def test_with_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_devices(monkeypatch, 2)
    assert resolve_device("auto").type == "cuda"
    assert resolve_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(DeviceError, match=r"`device` cuda:2: this machine has 2 CUDA device\(s\), cuda:0 to cuda:1"):
        resolve_device("cuda:2")


@pytest.mark.parametrize("name", ["", "gpu", "CUDA", "cuda:", "cuda:x", "cuda:-1", "mps"])
def test_unknown_names(name: str) -> None:
    with pytest.raises(DeviceError, match="use auto, cpu, cuda or cuda:0"):
        resolve_device(name)


@pytest.mark.parametrize(
    ("error", "is_lack"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might ..."), True),
        (RuntimeError("Triton Error [CUDA]: out of memory"), True),
        (RuntimeError("CUDA driver error: out of memory"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("could not create a primitive"), True),
        (RuntimeError("can't start new thread"), True),
        (RuntimeError("can't allocate read lock"), True),
        (OSError(12, "Cannot allocate memory"), True),
        (cv2.error("alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate 307200 bytes"), True),
        (cv2.error("resize.cpp:4211: error: (-215:Assertion failed) !ssize.empty()"), False),
        (SystemError("<built-in function zeros> returned NULL without setting an exception"), True),
        (RuntimeError("shapes do not fit"), False),
        (ValueError("not enough memory"), False),
    ],
)
def test_lack_of_memory(error: Exception, is_lack: bool) -> None:
    assert is_out_of_memory(error) is is_lack


@pytest.mark.parametrize(
    ("error", "has_failed"),
    [
        (RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel errors might ..."), True),
        (RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"), True),
        (RuntimeError("CUDA driver error: an illegal memory access was encountered"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx(...)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB."), False),
        (RuntimeError("Triton Error [CUDA]: out of memory"), False),
        (RuntimeError("CUDA driver error: out of memory"), False),
        (RuntimeError("shapes do not fit"), False),
    ],
)
def test_failed_gpu(error: Exception, has_failed: bool) -> None:
    assert is_gpu_failure(error) is has_failed
