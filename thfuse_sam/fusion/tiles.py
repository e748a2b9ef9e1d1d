"""Fusing large images in overlapping tiles, with the result of the whole image, in memory that the tile decides.

    pass 1   tiles with a margin -> coarse features, margin cut off -> coarse features of the whole image
             -> attention over the whole image -> maps (one coarse pixel for each 8 x 8 pixels of the image)
    pass 2   tiles with a margin, their parts of the maps -> fused tiles, margin cut off -> fused image
    pass 3   tiles with a margin -> their local stages, margin cut off -> all but the last stage

If each tile ran through the whole network, each would have its own attention and so its own brightness: seams.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from thfuse_sam.models.base import MINIMUM_SIZE, PaddedBatch, TiledNetwork, padded_batch
from thfuse_sam.models.sky import REACH, REGION


@dataclass(frozen=True)
class Tile:
    """One tile of an image: (rows, columns) of the part it yields, and of the part it is computed from."""

    inner: tuple[slice, slice]
    outer: tuple[slice, slice]

    @property
    def inner_in_outer(self) -> tuple[slice, slice]:
        """Where `inner` lies in an array of `outer`."""
        rows, columns = (
            slice(inner.start - outer.start, inner.stop - outer.start)
            for inner, outer in zip(self.inner, self.outer, strict=True)
        )
        return rows, columns


def tiles(height: int, width: int, size: int, margin: int) -> Iterator[Tile]:
    """Tiles of `size` pixels a side that cover an image, each computed from `margin` pixels more where there are some.

    Args:
        height, width: size of the image, pixels.
        size, margin: pixels; multiples of the factor by which the network's coarse features are smaller than the image.
    """
    for top in range(0, height, size):
        for left in range(0, width, size):
            bottom, right = min(top + size, height), min(left + size, width)
            yield Tile(
                (slice(top, bottom), slice(left, right)),
                (
                    slice(max(top - margin, 0), min(bottom + margin, height)),
                    slice(max(left - margin, 0), min(right + margin, width)),
                ),
            )


@torch.no_grad()
def fuse_tiled(
    network: TiledNetwork,
    ir: Tensor,
    vi: Tensor,
    ir_guidance: Tensor | None = None,
    vi_guidance: Tensor | None = None,
    ir_labels: Tensor | None = None,
    *,
    tile_size: int = 1024,
    device: torch.device | None = None,
) -> Tensor:
    """Fuse one large pair in tiles; equal to the network's own result up to rounding.

    Args:
        network: on `device`, in evaluation mode.
        ir, vi, ir_guidance, vi_guidance, ir_labels: as for `FusionNetwork.forward`, with B = 1; they stay where they
            are, and one tile of them at a time goes to `device`. The last stage runs beside them.
        tile_size: pixels a side without the margin, rounded up to the network's multiple. Memory grows with its
            square; only the coarse features and the images themselves grow with the image.
        device: where the network is; None: where the images are.

    Returns:
        float 1x1xHxW in [0, 1], beside `ir`.

    Raises:
        ImageSizeError, ValueError: as the network itself does.
    """
    multiple = network.size_multiple
    batch = padded_batch(ir, vi, ir_guidance, vi_guidance, multiple)
    device = device or ir.device
    size = -(-max(tile_size, MINIMUM_SIZE) // multiple) * multiple
    height, width = batch.ir.shape[-2:]
    grid = list(tiles(height, width, size, network.tile_margin))

    maps = network.attention_maps(_coarse_features(network, batch, grid, device))
    fused = torch.empty_like(batch.ir)
    for tile in grid:
        result = network.fuse_with_maps(
            _part(batch.ir, tile, device),
            _part(batch.vi, tile, device),
            None if batch.guidance is None else _part(batch.guidance, tile, device),
            maps[_coarse(tile.outer, multiple)],
        )
        fused[(..., *tile.inner)] = result[(..., *tile.inner_in_outer)].to(fused)
    fused = fused[(..., *batch.window)].clamp(0, 1)
    refined = torch.empty_like(fused)
    for tile in tiles(fused.shape[-2], fused.shape[-1], -(-size // REGION) * REGION, REACH):
        result = network.local_stages(*(_part(image, tile, device) for image in (fused, ir, vi)))
        refined[(..., *tile.inner)] = result[(..., *tile.inner_in_outer)].to(refined)
    return network.keep_contrast(refined, ir, vi, ir_labels)


def _coarse_features(network: TiledNetwork, batch: PaddedBatch, grid: Sequence[Tile], device: torch.device) -> Tensor:
    """The coarse features of the whole image, collected tile by tile: float 1 x H/multiple x W/multiple x C."""
    multiple = network.size_multiple
    height, width = batch.ir.shape[-2:]
    coarse: Tensor | None = None
    for tile in grid:
        features = network.coarse_features(_part(batch.ir, tile, device), _part(batch.vi, tile, device))
        if coarse is None:
            coarse = features.new_empty(1, height // multiple, width // multiple, features.shape[-1])
        coarse[_coarse(tile.inner, multiple)] = features[_coarse(tile.inner_in_outer, multiple)]
    assert coarse is not None
    return coarse


def _part(image: Tensor, tile: Tile, device: torch.device) -> Tensor:
    return image[(..., *tile.outer)].to(device)


def _coarse(window: tuple[slice, slice], multiple: int) -> tuple[slice, slice, slice]:
    """The index of BHWC coarse features for a window of the image, both in whole multiples."""
    rows, columns = (slice(side.start // multiple, side.stop // multiple) for side in window)
    return slice(None), rows, columns
