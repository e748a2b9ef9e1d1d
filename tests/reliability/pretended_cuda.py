"""A CUDA device that is none: its tensors lie on the CPU and say that they lie on `cuda:0`.

What a GPU would refuse is refused here too: operations on tensors of both devices, and NumPy on the GPU's tensors. So
code for GPUs runs, by its own branches, where there is no GPU. Backward passes do not: PyTorch's engine wants a real
device, so they are left out. What would go from the GPU to the CPU is counted, and how often the CPU would wait.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
import torchvision  # noqa: F401, registers its operators
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

_CUDA = torch.device("cuda", 0)
_CPU = torch.device("cpu")
_MEMORY = 8 * 2**30
_aten = torch.ops.aten
# May take tensors of both: copies, and indices from the CPU into a tensor of the GPU.
_COPIES = (_aten._to_copy.default, _aten.copy_.default)
_INDEXING = (_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default)
# The size of the result, or the result itself, depends on values, which the CPU has to wait for.
_WAITING = {
    _aten.nonzero, _aten._unique, _aten._unique2, _aten.unique_dim, _aten.unique_consecutive, _aten.masked_select,
    _aten._local_scalar_dense, _aten.equal, _aten.is_nonzero, _aten.repeat_interleave, _aten.bincount,
    torch.ops.torchvision.nms,
}  # fmt: skip


@dataclass
class Traffic:
    """What the pretended GPU has made the CPU do."""

    bytes_to_host: int = 0
    waits: int = 0
    reasons: list[str] = field(default_factory=list)  # of the waits, for messages
    backward: list[torch.device] = field(default_factory=list)  # where backward passes were asked for

    def forget(self) -> None:
        """Count from here on."""
        self.bytes_to_host = self.waits = 0
        self.reasons.clear()

    def wait(self, reason: str) -> None:
        self.waits += 1
        self.reasons.append(reason)


_traffic = Traffic()


class _Event:
    """In place of `torch.cuda.Event`."""

    def record(self, stream: object = None) -> None:
        pass

    def synchronize(self) -> None:
        _traffic.wait("event")


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
        _traffic.wait("tolist")
        return self.inner.tolist()


class _MakingTensors(TorchDispatchMode):
    """Sees what makes tensors, such as `torch.zeros(3, device="cuda")`."""

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(operation, args, kwargs or {})


def _run(operation: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, _OnCuda)]
    if there and operation not in _COPIES and not (operation in _INDEXING and isinstance(args[0], _OnCuda)):
        # A number may lie anywhere.
        here = [tuple(tensor.shape) for tensor in tensors if not isinstance(tensor, _OnCuda) and tensor.dim() > 0]
        if here:
            raise RuntimeError(f"{operation}: tensors on cuda:0 and on the CPU: {here}")
    _count(operation, args, kwargs, there)
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


def _count(operation: Any, args: Any, kwargs: dict[str, Any], there: list[_OnCuda]) -> None:
    """Note what an operation costs in traffic and waiting."""
    if operation in _COPIES:
        target = torch.device(kwargs.get("device") or args[0].device)
        source = args[1 if operation is _aten.copy_.default else 0]
        if target.type == source.device.type:
            return
        if target.type == "cpu":
            _traffic.bytes_to_host += source.nbytes
        blocking = args[2:3] != (True,) if operation is _aten.copy_.default else not kwargs.get("non_blocking")
        if blocking:
            _traffic.wait(f"copy {source.device.type} -> {target.type} {tuple(source.shape)}")
        return
    if operation in _INDEXING and isinstance(args[0], _OnCuda):
        indices = [index for index in args[1] if index is not None]
        if any(not isinstance(index, _OnCuda) for index in indices):
            _traffic.wait("index from the CPU")
        fills = operation is not _aten.index.Tensor and args[2].numel() == 1
        if any(index.dtype in (torch.bool, torch.uint8) for index in indices) and not fills:
            _traffic.wait("index by a mask")
    elif there and operation.overloadpacket in _WAITING:
        _traffic.wait(str(operation))


@contextlib.contextmanager
def pretended_cuda() -> Iterator[Traffic]:
    """Within it this thread has the device `cuda:0`. Yields what is counted."""
    global _traffic
    traffic = _traffic = Traffic()
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
            stack.enter_context(mock.patch("torch.cuda.synchronize", lambda *_: traffic.wait("synchronize")))
            stack.enter_context(
                mock.patch("torch.Tensor.backward", lambda tensor, *_, **__: traffic.backward.append(tensor.device))
            )
            stack.enter_context(_MakingTensors())
            yield traffic
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(swaps)
        torch._C._set_only_lift_cpu_tensors(False)
