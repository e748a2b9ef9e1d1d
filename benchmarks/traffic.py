"""What a GPU sends to the CPU, and how often the CPU waits for it: counted operation by operation."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
import torchvision  # noqa: F401, registers its operators
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_aten = torch.ops.aten
COPIES = (_aten._to_copy.default, _aten.copy_.default)
INDEXING = (_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default)
# The size of the result, or the result itself, depends on values, which the CPU has to wait for.
_WAITING = {
    _aten.nonzero, _aten._unique, _aten._unique2, _aten.unique_dim, _aten.unique_consecutive, _aten.masked_select,
    _aten._local_scalar_dense, _aten.equal, _aten.is_nonzero, _aten.repeat_interleave, _aten.bincount,
    torch.ops.torchvision.nms,
}  # fmt: skip


@dataclass
class Traffic:
    """Counts since the start, or since `forget`."""

    bytes_to_host: int = 0
    reasons: list[str] = field(default_factory=list)  # of the waits, one each

    @property
    def waits(self) -> int:
        return len(self.reasons)

    def forget(self) -> None:
        """Count from here on."""
        self.bytes_to_host = 0
        self.reasons.clear()

    def count(self, operation: Any, args: Any, kwargs: dict[str, Any]) -> None:
        """Count an operation that is about to be run."""
        if operation in COPIES:
            self._count_copy(operation is _aten.copy_.default, args, kwargs)
        elif operation in INDEXING and _on_gpu(args[0]):
            indices = [index for index in args[1] if index is not None]
            if not all(map(_on_gpu, indices)):
                self.reasons.append("index from the CPU")
            # A single value is filled in without looking for the places.
            fills = operation is not _aten.index.Tensor and args[2].numel() == 1
            if any(index.dtype in (torch.bool, torch.uint8) for index in indices) and not fills:
                self.reasons.append("index by a mask")
        elif operation.overloadpacket in _WAITING and any(map(_on_gpu, tree_leaves((args, kwargs)))):
            self.reasons.append(str(operation))

    def _count_copy(self, in_place: bool, args: Any, kwargs: dict[str, Any]) -> None:
        source = args[1 if in_place else 0]
        target = args[0].device if in_place else torch.device(kwargs.get("device") or source.device)
        if target.type == source.device.type:
            return
        if target.type == "cpu":
            self.bytes_to_host += source.nbytes
        asynchronous = args[2:3] == (True,) if in_place else kwargs.get("non_blocking")
        if not asynchronous:
            self.reasons.append(f"copy {source.device.type} -> {target.type} {tuple(source.shape)}")


def _on_gpu(value: Any) -> bool:
    return isinstance(value, Tensor) and value.device.type == "cuda"


class _Counting(TorchDispatchMode):
    def __init__(self, traffic: Traffic) -> None:
        super().__init__()
        self._traffic = traffic

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self._traffic.count(operation, args, kwargs or {})
        return operation(*args, **(kwargs or {}))


@contextlib.contextmanager
def counted(traffic: Traffic | None = None) -> Iterator[Traffic]:
    """Count what this thread asks of real GPUs. It slows everything down: measure times elsewhere."""
    traffic = traffic or Traffic()
    synchronize = torch.cuda.Event.synchronize

    def wait(event: torch.cuda.Event) -> None:
        traffic.reasons.append("event")
        synchronize(event)

    with mock.patch("torch.cuda.Event.synchronize", wait), _Counting(traffic):
        yield traffic
