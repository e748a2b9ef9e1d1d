"""Running a trained network on whole pairs: batches of equal size, half precision, tiles for large images."""

import contextlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from thfuse_sam.datasets.fusion import FusionSample, to_uint8
from thfuse_sam.devices import DTYPES
from thfuse_sam.errors import ImageSizeError
from thfuse_sam.fusion.tiles import fuse_tiled
from thfuse_sam.images import ImageArray
from thfuse_sam.models import INPUTS, TiledNetwork
from thfuse_sam.options.fuse import InferenceSettings
from thfuse_sam.precision import Precision

DEFAULT_INFERENCE = InferenceSettings()


def plan_batches(sizes: Sequence[tuple[int, int]], batch_size: int) -> list[list[int]]:
    """Group images by size: lists of indices into `sizes`, (height, width) each, of at most `batch_size`.

    Groups come in the order of their first images, and images in theirs.
    """
    groups: list[list[int]] = []
    unfinished: dict[tuple[int, int], list[int]] = {}
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
    height, width = samples[0]["ir"].shape[-2:]
    first = samples[0]["name"]
    try:
        with autocast(device, settings.precision):
            if isinstance(network, TiledNetwork) and height * width > 4 * settings.tile_size**2:
                fused = [_tiled(network, sample, device, settings.tile_size) for sample in samples]
            else:
                inputs = (torch.stack([sample[key] for sample in samples]).to(device) for key in INPUTS)  # type: ignore[literal-required]
                fused = list(network(*inputs).float())
    except ImageSizeError as error:  # the network does not know the name of the pair
        raise ImageSizeError(f"pair {first!r}: {error}") from None
    except torch.cuda.OutOfMemoryError:
        raise ImageSizeError(
            f"pair {first!r}: {len(samples)} of {width}x{height} pixels do not fit into the GPU; "
            "use a smaller `batch_size` or `tile_size`, or `device` cpu"
        ) from None
    return [to_uint8(image[0]) for image in fused]


def autocast(device: torch.device, precision: Precision) -> contextlib.AbstractContextManager[object]:
    """Run layers in `precision` inside.

    Weights and sources stay in single precision: bfloat16 has steps of 1/256 near white, which would show as bands.
    """
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=DTYPES[precision])


def _tiled(network: TiledNetwork, sample: FusionSample, device: torch.device, tile_size: int) -> Tensor:
    inputs = (sample[key][None] for key in INPUTS)  # type: ignore[literal-required]
    return fuse_tiled(network, *inputs, tile_size=tile_size, device=device)[0].float()
