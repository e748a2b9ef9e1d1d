"""TH-Fuse-SAM: infrared and visible image fusion guided by Segment Anything masks.

    import thfuse_sam as th

    fused = th.fuse("ir.png", "vi.png")

The names in `__all__` are the package's interface; docs/python.md shows them at work. Each is loaded when it is first
used, so that importing the package is fast.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from thfuse_sam.cores import prepare_openmp
from thfuse_sam.errors import ThFuseError

if TYPE_CHECKING:  # what type checkers and editors see; `__getattr__` does the same at run time
    from thfuse_sam.api.aligning import Aligned, align
    from thfuse_sam.api.fuser import Fuser, fuse
    from thfuse_sam.api.measuring import metrics
    from thfuse_sam.api.runs import finetune, precompute, train
    from thfuse_sam.api.segmenting import Masks, Sam, Segment, masks
    from thfuse_sam.api.trees import MaskTree
    from thfuse_sam.metrics import METRICS

__version__ = "0.1.0"

__all__ = [
    "METRICS",
    "Aligned",
    "Fuser",
    "MaskTree",
    "Masks",
    "Sam",
    "Segment",
    "ThFuseError",
    "__version__",
    "align",
    "finetune",
    "fuse",
    "masks",
    "metrics",
    "precompute",
    "train",
]

_NAMES = {
    "api.aligning": ("Aligned", "align"),
    "api.fuser": ("Fuser", "fuse"),
    "api.measuring": ("metrics",),
    "api.runs": ("finetune", "precompute", "train"),
    "api.segmenting": ("Masks", "Sam", "Segment", "masks"),
    "api.trees": ("MaskTree",),
    "metrics": ("METRICS",),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}

prepare_openmp()  # here, because whatever is used of the package, this module runs first, and so before torch


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return __all__


class _Package(ModuleType):
    """This module. `masks` and others are rooms, too; importing one leaves the name to the function."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _MODULES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
