"""Writing a network as an ONNX file for images of any size, checked against the network itself by onnxruntime."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim

from thfuse_sam.arrays import Array
from thfuse_sam.errors import OutputError
from thfuse_sam.files import write_atomically
from thfuse_sam.fusion.colour import CLIPPED, COLOURFUL, DARK, GROWTH, KEPT_CHROMA
from thfuse_sam.images import LUMA_WEIGHTS
from thfuse_sam.losses.filters import smooth_step
from thfuse_sam.masks.outlines import outlines
from thfuse_sam.models.base import MINIMUM_SIZE
from thfuse_sam.onnx_files import LARGEST_SIDE, onnx_program, open_session, require_exporter

INPUTS = ("ir", "vi", "ir_labels", "vi_labels")  # the first two have to be given
OUTPUTS = ("fused", "luma")
TOLERANCE = 1e-3  # largest difference to the network's luma, a quarter of a grey level
_CHECKED = ((1, 141, 203), (2, 160, 136), (1, 240, 320))  # batch, height, width


class ImageFusion(nn.Module):
    """A fusion network, in evaluation mode, for images as files hold them, its colour step included."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, ir: Tensor, vi: Tensor, ir_labels: Tensor, vi_labels: Tensor) -> tuple[Tensor, Tensor]:
        """Fuse a batch of pairs.

        Args:
            ir: infrared, uint8 BxHxW.
            vi: visible, uint8 BxHxWx3, RGB.
            ir_labels, vi_labels: label maps of their segments, int64 BxHxW, or 1x1x1 of 0: none.

        Returns:
            The fused images, uint8 BxHxWx3, RGB; and the network's luma without colour, float32 BxHxW in [0, 1].
        """
        visible = vi.float()
        # In whole numbers, as `images.luma`: halves would be rounded as a machine's sums happen to come out.
        thousandths = visible.new_tensor([1000 * weight for weight in LUMA_WEIGHTS]).round().int()
        luma = torch.div((vi.int() * thousandths).sum(-1) + 500, 1000, rounding_mode="floor").float()
        maps = [labels + torch.zeros_like(ir, dtype=torch.int64) for labels in (ir_labels, vi_labels)]
        guidance = [torch.stack([labels > 0, outlines(labels)], dim=1).float() for labels in maps]
        fused = self.network(ir[:, None] / 255, luma[:, None] / 255, *guidance, maps[0])[:, 0]
        return _fitted_colour((fused * 255).round(), visible).to(torch.uint8), fused


def _fitted_colour(luma: Tensor, visible: Tensor) -> Tensor:
    """`colour.fitted_colour` for an exported program: whole levels, float BxHxW and BxHxWx3 -> float BxHxWx3."""
    trust = smooth_step(visible.amax(-1), *DARK) * (1 - smooth_step(visible.amin(-1), *CLIPPED))
    own_luma = visible @ visible.new_tensor(LUMA_WEIGHTS)
    growth = 1 + (GROWTH - 1) * smooth_step(visible.amax(-1) - visible.amin(-1), *COLOURFUL)
    offsets = (visible - own_luma[..., None]) * trust[..., None]
    lowest, highest = offsets.amin(-1), offsets.amax(-1)
    own_luma = own_luma.clamp(min=1)
    growing = 255.01 * own_luma / (own_luma + KEPT_CHROMA * highest)
    most = torch.floor(torch.maximum(growing, 255.01 - KEPT_CHROMA * growth * highest))
    y = torch.minimum(torch.maximum(luma, torch.ceil(-KEPT_CHROMA * lowest - 0.01)), most)
    above, below = (255 - y) / highest.clamp(min=1e-6), y / (-lowest).clamp(min=1e-6)
    grown = torch.minimum((y / own_luma).clamp(min=1), growth)
    scale = torch.minimum(torch.minimum(above, below), grown)
    return (y[..., None] + offsets * scale[..., None]).clamp(0, 255).round()


def export_onnx(network: nn.Module, path: Path) -> float:
    """Write `network` with its colour step, see `ImageFusion`, for batches of images of any size.

    Label maps may be left out of what onnxruntime is given. The file is written only after it has been checked, at
    several sizes, with masks and without, on other images than those that were used in making it.

    Args:
        network: a fusion network on the CPU, in evaluation mode.
        path: where to write the file; any suffix will do.

    Returns:
        the largest difference of onnxruntime's luma to the network's.

    Raises:
        UsageError: the packages that the export needs are not installed.
        OutputError: the file cannot be written, or computes something else.
    """
    require_exporter()
    module = ImageFusion(network)
    content = _program(module)
    session = open_session(content)
    difference = 0.0
    for seed, size in enumerate(_CHECKED, start=1):
        inputs = example_inputs(*size, seed=seed)
        for given in (inputs, inputs[:2]):
            feed = {name: value.numpy() for name, value in zip(INPUTS, given, strict=False)}
            found = session.run(list(OUTPUTS), feed)
            with torch.no_grad():
                own = module(*given, *[torch.zeros(1, 1, 1, dtype=torch.int64)] * (4 - len(given)))
            difference = max(difference, _difference(found, [value.numpy() for value in own]))
    if not difference <= TOLERANCE:
        raise OutputError(
            f"`export_onnx` {path}: onnxruntime's result differs from the network's by {difference:.2g}, more than "
            f"{TOLERANCE:g}; nothing is written, try other versions of torch and onnxruntime"
        )
    write_atomically(path, lambda file: file.write(content))
    return difference


def _difference(found: Sequence[Array], own: Sequence[Array]) -> float:
    """The largest difference of lumas; 1 if colours differ by more than a level where lumas round to the same."""
    (fused, luma), (own_fused, own_luma) = found, own
    same = np.rint(255 * luma) == np.rint(255 * own_luma)
    if np.abs(fused.astype(int) - own_fused)[same].max(initial=0) > 1:
        return 1.0
    return float(np.abs(luma - own_luma).max())


def example_inputs(batch: int, height: int, width: int, *, seed: int) -> tuple[Tensor, ...]:
    """Inputs of `ImageFusion`: noise, and masks of squares of eight pixels a side, brighter in the infrared image."""
    generator = torch.Generator().manual_seed(seed)
    squares = torch.randint(-60, 40, (2, batch, -(-height // 8), -(-width // 8)), generator=generator).clamp(min=0)
    labels = squares.repeat_interleave(8, 2).repeat_interleave(8, 3)[..., :height, :width].contiguous()
    ir = torch.randint(0, 128, (batch, height, width), generator=generator) + 100 * (labels[0] > 0)
    vi = torch.randint(0, 256, (batch, height, width, 3), generator=generator)
    return ir.to(torch.uint8), vi.to(torch.uint8), labels[0], labels[1]


def _program(module: ImageFusion) -> bytes:
    """The ONNX file's content: axes 0 to 2 of all inputs are free, label maps have a default."""
    import onnx

    least = max(MINIMUM_SIZE, getattr(module.network, "size_multiple", 1) // 2 + 1)  # what is mirrored has to fit
    side = {"min": least, "max": LARGEST_SIDE}
    free = {0: Dim("batch", min=1, max=LARGEST_SIDE), 1: Dim("height", **side), 2: Dim("width", **side)}
    example = example_inputs(2, 141, 203, seed=0)
    model = onnx_program(module, example, (free,) * len(INPUTS), INPUTS, OUTPUTS).model_proto
    none = onnx.numpy_helper.from_array(np.zeros((1, 1, 1), np.int64))
    for name in INPUTS[2:]:
        model.graph.initializer.add().CopyFrom(none)
        model.graph.initializer[-1].name = name
    _name_axes(model.graph)
    content: bytes = model.SerializeToString()
    return content


def _name_axes(graph: Any) -> None:
    """Call the free axes by name; those of label maps have none, because their default has another size."""
    del graph.value_info[:]  # these are in terms of the former names
    for value in (*graph.input, *graph.output):
        for axis, name in zip(value.type.tensor_type.shape.dim, ("batch", "height", "width"), strict=False):
            axis.ClearField("value")
            if value.name not in INPUTS[2:]:
                axis.dim_param = name
