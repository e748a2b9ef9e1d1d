"""Running a trained network on whole pairs: batches of equal size, half precision, tiles for large images."""

import contextlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from thfuse_sam.arrays import ImageArray, Size
from thfuse_sam.datasets.fusion import FusionSample, to_uint8
from thfuse_sam.devices import DTYPES
from thfuse_sam.errors import ImageSizeError
from thfuse_sam.fusion.replay import MOST_PIXELS, replayed
from thfuse_sam.fusion.tiles import fuse_tiled
from thfuse_sam.models import INPUTS, FusionNetwork, TiledNetwork
from thfuse_sam.options.fuse import InferenceSettings
from thfuse_sam.options.shared import Precision

DEFAULT_INFERENCE = InferenceSettings()


def plan_batches(sizes: Sequence[Size], batch_size: int) -> list[list[int]]:
    """Group images by size: lists of indices into `sizes`, (height, width) each, of at most `batch_size`.

    Groups come in the order of their first images, and images in theirs.
    """
    groups: list[list[int]] = []
    unfinished: dict[Size, list[int]] = {}
    for index, size in enumerate(sizes):
        group = unfinished.get(size)
        if group is None or len(group) >= batch_size:
            group = unfinished[size] = []
            groups.append(group)
        group.append(index)
    return groups


@torch.no_grad()
def fuse_lumas(
    network: nn.Module,
    samples: Sequence[FusionSample],
    device: torch.device,
    settings: InferenceSettings = DEFAULT_INFERENCE,
) -> list[ImageArray]:
    """The network's fused images of whole pairs of one size: uint8 HxW each.

    Values are clamped and rounded, never stretched: stretching inflates contrast metrics. `network` is on `device`, in
    evaluation mode. Raises ImageSizeError, which names the first pair.
    """
    inputs = [torch.stack([sample[key] for sample in samples]) for key in INPUTS]  # type: ignore[literal-required]
    try:
        fused = fuse_batch(network, inputs, device, settings)
    except ImageSizeError as error:  # the network does not know the name of the pair
        raise ImageSizeError(f"pair {samples[0]['name']!r}: {error}") from None
    return [to_uint8(image[0]) for image in fused]


@torch.no_grad()
def fuse_batch(
    network: nn.Module,
    inputs: Sequence[Tensor | None],
    device: torch.device,
    settings: InferenceSettings = DEFAULT_INFERENCE,
) -> Tensor:
    """The network's fused images, float B1HW in [0, 1] on the CPU, of its INPUTS, of which the last may be missing.

    `network` is on `device`, in evaluation mode. Raises ImageSizeError.
    """
    ir = inputs[0]
    assert ir is not None
    height, width = ir.shape[-2:]
    try:
        with autocast(device, settings.precision):
            if isinstance(network, TiledNetwork) and height * width > 4 * settings.tile_size**2:
                parts = ([None if one is None else one[k : k + 1] for one in inputs] for k in range(len(ir)))
                fused = [fuse_tiled(network, *part, tile_size=settings.tile_size, device=device) for part in parts]  # type: ignore[arg-type]
                return torch.cat(fused).float()
            return _fuse_whole(network, inputs, device, settings.precision).float().cpu()
    except torch.cuda.OutOfMemoryError:
        raise ImageSizeError(
            f"{len(ir)} of {width}x{height} pixels do not fit into the GPU; "
            "use a smaller `batch_size` or `tile_size`, or `device` cpu"
        ) from None


def _fuse_whole(
    network: nn.Module, inputs: Sequence[Tensor | None], device: torch.device, precision: Precision
) -> Tensor:
    given = [None if one is None else one.to(device) for one in inputs]
    ir, vi, *guidance = given[:4]
    assert ir is not None and vi is not None
    if device.type != "cuda" or not isinstance(network, FusionNetwork) or ir.numel() > MOST_PIXELS:
        fused: Tensor = network(*given)
        return fused

    def run(*images: Tensor | None) -> Tensor:
        # Its cache would free the weights in half precision that a graph must hold.
        half = precision != "fp32"
        with torch.autocast(device.type, dtype=DTYPES[precision], enabled=half, cache_enabled=False):
            return network(*images)

    fused = replayed(network, run, [ir, vi, *guidance], precision)
    # The last stage waits for the GPU: what it does depends on the segments.
    return network.keep_contrast(fused, ir, vi, given[4] if len(given) > 4 else None)


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[object]:
    """Run layers in `precision` inside.

    Weights and sources stay in single precision: bfloat16 has steps of 1/256 near white, which would show as bands.
    """
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[precision])
