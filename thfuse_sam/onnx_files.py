"""ONNX files: translating a PyTorch module for free sizes, and opening what was made with onnxruntime."""

import inspect
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from thfuse_sam.errors import UsageError

LARGEST_SIDE = 2**14  # the exporter asks for bounds; the file has none
_DEFERRED = "prefer_deferred_runtime_asserts_over_guards"  # an argument that older versions of PyTorch lack


def require_exporter() -> None:
    """Raise UsageError where `onnx_program` cannot work here."""
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401  # the exporter needs it
    except ImportError as error:
        raise UsageError(f"`export_onnx`: {error.name} is not installed; pip install 'th-fuse-sam[onnx]'") from None
    if _DEFERRED not in inspect.signature(torch.export.export).parameters:
        raise UsageError(f"`export_onnx`: PyTorch {torch.__version__} cannot export for all sizes; install a newer one")


@torch.no_grad()
def onnx_program(
    module: nn.Module, example: tuple[Tensor, ...], free: Sequence[Any], inputs: Sequence[str], outputs: Sequence[str]
) -> Any:
    """The `torch.onnx.ONNXProgram` of a module in evaluation mode.

    Args:
        example: inputs that it is traced with.
        free: for each input the axes whose length is free, as `torch.export.Dim`.
        inputs, outputs: names.
    """
    logging.getLogger("onnxscript").setLevel(logging.ERROR)  # it tells of every part that it does not simplify
    deferred: dict[str, Any] = {_DEFERRED: True}  # it cannot prove that 8 * (n // 8) // 2 = 4 * (n // 8)
    exported = torch.export.export(module, example, dynamic_shapes=tuple(free), strict=False, **deferred)
    return torch.onnx.export(exported, dynamo=True, input_names=list(inputs), output_names=list(outputs), verbose=False)


def open_session(file: Path | bytes) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU for a file or its content."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3  # errors; it warns that inputs with defaults are no constants
    source = file if isinstance(file, bytes) else str(file)
    return onnxruntime.InferenceSession(source, settings, providers=["CPUExecutionProvider"])
