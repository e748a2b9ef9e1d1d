"""Writing a network as an ONNX file, checked against the network itself by onnxruntime."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from thfuse_sam.errors import OutputError, UsageError
from thfuse_sam.files import write_atomically
from thfuse_sam.masks.outlines import outlines
from thfuse_sam.masks.placeholder import PLACEHOLDER_VALUE
from thfuse_sam.models import INPUTS

OUTPUT = "fused"  # float32 1x1xHxW in [0, 1]
TOLERANCE = 1e-3  # largest difference to the network's result, a quarter of a grey level


def export_onnx(network: nn.Module, path: Path, height: int, width: int) -> float:
    """Write `network` for one pair of one size; returns the largest difference of onnxruntime's result to its own.

    The size is part of the file: how features are pooled and padded depends on it. Its inputs are those of
    `FusionNetwork.forward` by name with B = 1, float32, and int64 for labels, which a network without a last stage does
    not take. It is written only after it has been checked, on images and masks that were not used in making it, and on
    placeholders.

    Args:
        network: a fusion network on the CPU, in evaluation mode.
        path: where to write the file; any suffix will do.
        height, width: size of the images, pixels.

    Raises:
        UsageError: the packages that the export needs are not installed.
        ImageSizeError: the size is too small for the network.
        OutputError: the file cannot be written, or computes something else.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  # the exporter needs it
    except ImportError as error:
        raise UsageError(f"`export_onnx`: {error.name} is not installed; pip install 'th-fuse-sam[onnx]'") from None
    names = INPUTS if getattr(network, "contrast_gain", 0) else INPUTS[:-1]  # labels are of use in the last stage only
    example, *checks = (
        inputs[: len(names)]
        for inputs in (_inputs(height, width, 0), _inputs(height, width, 1), _placeholders(height, width))
    )
    with torch.no_grad():
        expected = [network(*inputs).numpy() for inputs in checks]
        program = torch.onnx.export(
            network,
            example,
            dynamo=True,
            input_names=list(names),
            output_names=[OUTPUT],
            verbose=False,
        )
    assert program is not None
    content = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    difference = 0.0
    for inputs, own in zip(checks, expected, strict=True):
        feed = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
        (fused,) = session.run([OUTPUT], feed)
        difference = max(difference, float(np.abs(fused - own).max()))
    if not difference <= TOLERANCE:
        raise OutputError(
            f"`export_onnx` {path}: onnxruntime's result differs from the network's by {difference:.2g}, more than "
            f"{TOLERANCE:g}; nothing is written, try other versions of torch and onnxruntime"
        )
    write_atomically(path, lambda file: file.write(content))
    return difference


def _inputs(height: int, width: int, seed: int) -> tuple[Tensor, ...]:
    """Noise, and masks of squares of eight pixels a side, which are brighter in the infrared image."""
    generator = torch.Generator().manual_seed(seed)
    ir, vi = torch.rand(2, 1, 1, height, width, generator=generator)
    squares = torch.randint(-60, 40, (2, 1, -(-height // 8), -(-width // 8)), generator=generator).clamp(min=0)
    labels = squares.repeat_interleave(8, 2).repeat_interleave(8, 3)[..., :height, :width].contiguous()
    ir_guidance, vi_guidance = torch.stack([labels > 0, outlines(labels)], dim=2).float()
    return (ir + ir_guidance[:, :1]) / 2, vi, ir_guidance, vi_guidance, labels[0]


def _placeholders(height: int, width: int) -> tuple[Tensor, ...]:
    """Noise, and the placeholder in place of both masks."""
    ir, vi, *_, labels = _inputs(height, width, seed=2)
    guidance = torch.full((1, 2, height, width), PLACEHOLDER_VALUE)
    return ir, vi, guidance, guidance, torch.zeros_like(labels)
