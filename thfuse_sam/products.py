"""Matrix products with all of a CPU's vector width.

PyTorch multiplies float32 matrices on x86 with MKL, which leaves half the width of AMD's AVX-512 unused. oneDNN, which
computes PyTorch's convolutions, does not, and takes half the time. It also computes GELU on the way, in bfloat16 too.
Where it cannot be used (on a GPU, in other number formats, with autocast or gradients, while a model is compiled or
exported), these functions are PyTorch's own.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# With the oneDNN of PyTorch 2.6 sums depend on the number of threads.
_HAS_ONEDNN = hasattr(torch.ops.mkldnn, "_linear_pointwise") and not torch.__version__.startswith("2.6.")
_HAS_BF16 = _HAS_ONEDNN and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, gelu: bool = False) -> Tensor:
    """`F.linear`, and its GELU if asked for: x ...xI, weight OxI and bias O -> ...xO."""
    if not (_by_onednn(x, torch.float32) or (_HAS_BF16 and _by_onednn(x, torch.bfloat16))):
        y = F.linear(x, weight, bias)
        return gelu_(y) if gelu else y
    activation, kind = ("gelu", "none") if gelu else ("none", "")
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], kind)
    return product


def apply_linear(layer: nn.Module, x: Tensor, *, gelu: bool = False) -> Tensor:
    """`layer(x)`, by `linear` if the layer is a plain `nn.Linear`: an adapter's own output is more than that."""
    if type(layer) is nn.Linear:
        return linear(x, layer.weight, layer.bias, gelu=gelu)
    y: Tensor = layer(x)
    return gelu_(y) if gelu else y


def apply_mlp(mlp: Any, x: Tensor) -> Tensor:
    """`mlp(x)` of segment_anything's `MLPBlock`, by `apply_linear`."""
    if is_gelu(mlp.act):
        return apply_linear(mlp.lin2, apply_linear(mlp.lin1, x, gelu=True))
    return apply_linear(mlp.lin2, mlp.act(apply_linear(mlp.lin1, x)))


def is_gelu(activation: nn.Module) -> bool:
    """Whether an activation is GELU itself, not an approximation."""
    return type(activation) is nn.GELU and activation.approximate == "none"


def gelu_(x: Tensor) -> Tensor:
    """GELU of a tensor that is not needed afterwards: computed in place, unless gradients are."""
    return F.gelu(x) if torch.is_grad_enabled() else torch.ops.aten.gelu_(x)


def bmm(a: Tensor, b: Tensor) -> Tensor:
    """`torch.bmm`: NxRxI and NxIxO -> NxRxO."""
    if not _by_onednn(a, torch.float32):
        return torch.bmm(a, b)
    product = a.new_empty(*a.shape[:2], b.shape[2])
    for result, rows, columns in zip(product, a, b, strict=True):
        result.copy_(linear(rows, columns.mT))
    return product


def baddbmm_(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """`x.baddbmm_(a, b)`: x NxRxO plus the product of a NxRxI and b NxIxO, in the place of x."""
    if not _by_onednn(a, torch.float32):
        return x.baddbmm_(a, b)
    for result, rows, columns in zip(x, a, b, strict=True):
        result.add_(linear(rows, columns.mT))
    return x


def _by_onednn(x: Tensor, dtype: torch.dtype) -> bool:
    plain = x.device.type == "cpu" and x.dtype == dtype and x.numel() > 0
    watched = torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling()
    return _HAS_ONEDNN and plain and not watched
