"""Matrix products of float32 with all of a CPU's vector width.

PyTorch multiplies float32 matrices on x86 with MKL, which leaves half the width of AMD's AVX-512 unused. oneDNN, which
computes PyTorch's convolutions, does not, and takes half the time. Where it cannot be used (on a GPU, in other number
formats, with autocast or gradients, while a model is compiled or exported), these functions are PyTorch's own.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# With the oneDNN of PyTorch 2.6 sums depend on the number of threads.
_HAS_ONEDNN = hasattr(torch.ops.mkldnn, "_linear_pointwise") and not torch.__version__.startswith("2.6.")


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`: x ...xI, weight OxI and bias O -> ...xO."""
    if not _by_onednn(x):
        return F.linear(x, weight, bias)
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product


def apply_linear(layer: nn.Module, x: Tensor) -> Tensor:
    """`layer(x)`, by `linear` if the layer is a plain `nn.Linear`: an adapter's own output is more than that."""
    if type(layer) is nn.Linear:
        return linear(x, layer.weight, layer.bias)
    y: Tensor = layer(x)
    return y


def bmm(a: Tensor, b: Tensor) -> Tensor:
    """`torch.bmm`: NxRxI and NxIxO -> NxRxO."""
    if not _by_onednn(a):
        return torch.bmm(a, b)
    product = a.new_empty(*a.shape[:2], b.shape[2])
    for result, rows, columns in zip(product, a, b, strict=True):
        result.copy_(linear(rows, columns.mT))
    return product


def baddbmm_(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """`x.baddbmm_(a, b)`: x NxRxO plus the product of a NxRxI and b NxIxO, in the place of x."""
    if not _by_onednn(a):
        return x.baddbmm_(a, b)
    for result, rows, columns in zip(x, a, b, strict=True):
        result.add_(linear(rows, columns.mT))
    return x


def _by_onednn(x: Tensor) -> bool:
    plain = x.device.type == "cpu" and x.dtype == torch.float32 and x.numel() > 0
    watched = torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling()
    return _HAS_ONEDNN and plain and not watched
