"""A CUDA device that is none: its tensors lie on the CPU and say that they lie on `cuda:0`.

What a GPU would refuse is refused here too: operations on tensors of both devices, and NumPy on the GPU's tensors. So
code for GPUs runs, by its own branches, where there is no GPU. Backward passes do not: PyTorch's engine wants a real
device, so they are left out. What would go from the GPU to the CPU is counted, and how often the CPU would wait.

With THFUSE_REAL_CUDA=1 in the environment the real `cuda:0` takes its place.
"""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from benchmarks.agreement import Masks, recall
from benchmarks.traffic import COPIES, INDEXING, Traffic, counted
from thfuse_sam.masks.format import LabelMap

REAL = os.environ.get("THFUSE_REAL_CUDA") == "1"

_CUDA = torch.device("cuda", 0)
_CPU = torch.device("cpu")
_MEMORY = 8 * 2**30
_aten = torch.ops.aten


@dataclass
class PretendedTraffic(Traffic):
    """What the pretended GPU has made the CPU do."""

    backward: list[torch.device] = field(default_factory=list)  # where backward passes were asked for


_traffic = PretendedTraffic()


class _Event:
    """In place of `torch.cuda.Event`."""

    def record(self, stream: object = None) -> None:
        pass

    def synchronize(self) -> None:
        _traffic.reasons.append("event")


class _OnCuda(Tensor):
    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> "_OnCuda":
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            layout=inner.layout,
            device=_CUDA,
            requires_grad=inner.requires_grad,
        )
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operation, args, kwargs or {})

    def tolist(self) -> Any:
        _traffic.bytes_to_host += self.inner.nbytes
        _traffic.reasons.append("tolist")
        return self.inner.tolist()


class _MakingTensors(TorchDispatchMode):
    """Sees what makes tensors, such as `torch.zeros(3, device="cuda")`."""

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operation, args, kwargs or {})


def _run(operation: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, _OnCuda)]
    # Copies may take tensors of both devices, and so may indices from the CPU into a tensor of the GPU.
    if there and operation not in COPIES and not (operation in INDEXING and isinstance(args[0], _OnCuda)):
        # A number may lie anywhere.
        here = [tuple(tensor.shape) for tensor in tensors if not isinstance(tensor, _OnCuda) and tensor.dim() > 0]
        if here:
            raise RuntimeError(f"{operation}: tensors on cuda:0 and on the CPU: {here}")
    _traffic.count(operation, args, kwargs)
    device = kwargs.get("device")
    to_cuda = bool(there) if device is None else torch.device(device).type == "cuda"
    kwargs = {name: value for name, value in kwargs.items() if name != "pin_memory"}
    if device is not None:
        kwargs["device"] = _CPU
    args, kwargs = tree_map(lambda leaf: leaf.inner if isinstance(leaf, _OnCuda) else leaf, (args, kwargs))
    result = operation(*args, **kwargs)
    if operation is _aten.copy_.default:
        return tensors[0]  # where it was
    if not to_cuda:
        return result
    changed = {id(tensor.inner): tensor for tensor in there}  # in place: the same object comes back

    def moved(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return changed[id(leaf)] if id(leaf) in changed else _OnCuda(leaf)

    return tree_map(moved, result)


def assert_same_masks(expected: Masks, found: Masks) -> None:
    """Masks from the CPU and from the GPU are equal; those of a real GPU, whose sums round otherwise, nearly so."""
    if REAL:
        assert abs(len(found) - len(expected)) <= 1 + len(expected) // 10
        assert recall(expected, found, iou=0.9) >= 0.85
    else:
        assert len(found) == len(expected)
        assert all(np.array_equal(*masks) for masks in zip(expected, found, strict=True))


def assert_same_labels(expected: LabelMap, found: LabelMap) -> None:
    """As `assert_same_masks`, of label maps."""
    if REAL:  # one mask more, and all numbers after it are others
        assert ((expected > 0) == (found > 0)).mean() > 0.95
    else:
        np.testing.assert_array_equal(found, expected)


@contextlib.contextmanager
def pretended_cuda() -> Iterator[PretendedTraffic]:
    """Within it this thread has the device `cuda:0`. Yields what is counted."""
    global _traffic
    traffic = _traffic = PretendedTraffic()
    if REAL:
        backward = Tensor.backward

        def noted(tensor: Tensor, *arguments: Any, **options: Any) -> None:
            traffic.backward.append(tensor.device)
            backward(tensor, *arguments, **options)

        # Its convolutions would round to 10 bits; the CPU's do not.
        precise = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        with mock.patch("torch.Tensor.backward", noted), counted(traffic), precise:
            yield traffic
        return
    answers: dict[str, Any] = {
        "torch.cuda._lazy_init": None,
        "torch.cuda.is_available": True,
        "torch.cuda.device_count": 1,
        "torch.cuda.get_device_name": "pretended",
        "torch.cuda.get_device_capability": (8, 0),
        "torch.cuda.is_bf16_supported": True,
        "torch.cuda.mem_get_info": (_MEMORY, _MEMORY),
        "torch.cuda.max_memory_allocated": 0,
        "torch.cuda.memory_allocated": 0,
        "torch.cuda.memory_reserved": 0,
        "torch.cuda.get_rng_state_all": [],
        "torch.cuda.set_device": None,
        "torch.cuda.empty_cache": None,
        "torch.cuda.current_stream": None,
    }
    swaps = torch.__future__.get_overwrite_module_params_on_conversion()
    torch._C._ensureCUDADeviceGuardSet()
    torch._C._set_only_lift_cpu_tensors(True)
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # `Module.to` cannot give a tensor another class
    try:
        with contextlib.ExitStack() as stack:
            for name, answer in answers.items():
                stack.enter_context(mock.patch(name, return_value=answer))
            stack.enter_context(mock.patch("torch.Tensor.pin_memory", lambda tensor, *_: tensor))
            stack.enter_context(mock.patch("torch.cuda.Event", _Event))
            stack.enter_context(mock.patch("torch.cuda.synchronize", lambda *_: traffic.reasons.append("synchronize")))
            stack.enter_context(
                mock.patch("torch.Tensor.backward", lambda tensor, *_, **__: traffic.backward.append(tensor.device))
            )
            stack.enter_context(_MakingTensors())
            yield traffic
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(swaps)
        torch._C._set_only_lift_cpu_tensors(False)
