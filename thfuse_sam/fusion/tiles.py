"""Fusing large images in overlapping tiles, with the result of the whole image, in memory that the tile decides.

    pass 1   tiles with a margin -> coarse features, margin cut off -> coarse features of the whole image
             -> attention over the whole image -> maps (a coarse pixel for each 8 x 8 image pixels)
    pass 2   tiles with a margin, their parts of the maps -> fused tiles, margin cut off -> fused image

Tiles that ran through the whole network would each have their own attention, and so their own brightness: seams.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from thfuse_sam.models.base import MINIMUM_SIZE, TiledNetwork, check_inputs
from thfuse_sam.models.blocks import pad_to_multiple


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
        height, width: of the image, pixels.
        size, margin: pixels; multiples of what the network's coarse features are smaller by.
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
    *,
    tile_size: int = 1024,
    device: torch.device | None = None,
) -> Tensor:
    """Fuse one large pair in tiles; equal to `network(ir, vi, ir_guidance, vi_guidance)` up to rounding.

    Args:
        network: on `device`, in evaluation mode.
        ir, vi, ir_guidance, vi_guidance: as for `FusionNetwork.forward`, with B = 1; they stay where they are, and one
            tile of them at a time goes to `device`.
        tile_size: pixels a side without the margin, rounded up to the network's multiple. Memory grows with its
            square; what grows with the image are the coarse features and the images themselves.
        device: where the network is; None: where the images are.

    Returns:
        float 1x1xHxW in [0, 1], beside `ir`.

    Raises:
        ImageSizeError, ValueError: as the network itself does.
    """
    check_inputs(ir, vi, ir_guidance, vi_guidance)
    device = device or ir.device
    multiple, margin = network.size_multiple, network.tile_margin
    size = -(-max(tile_size, MINIMUM_SIZE) // multiple) * multiple
    height, width = ir.shape[-2:]
    padded_ir, (above, left) = pad_to_multiple(ir, multiple)
    padded_vi, _ = pad_to_multiple(vi, multiple)
    guidance = _Guidance(ir_guidance, vi_guidance, multiple, device)

    def part(image: Tensor, window: tuple[slice, slice]) -> Tensor:
        return image[(..., *window)].to(device)

    grid = list(tiles(padded_ir.shape[-2], padded_ir.shape[-1], size, margin))
    coarse: Tensor | None = None
    for tile in grid:
        found = network.coarse_features(part(padded_ir, tile.outer), part(padded_vi, tile.outer))
        if coarse is None:
            rows, columns = (side // multiple for side in padded_ir.shape[-2:])
            coarse = found.new_empty(1, rows, columns, found.shape[-1])
        coarse[(slice(None), *_coarsened(tile.inner, multiple))] = found[
            (slice(None), *_coarsened(tile.inner_in_outer, multiple))
        ]
    assert coarse is not None
    maps = network.attention_maps(coarse)
    fused = torch.empty_like(padded_ir)
    for tile in grid:
        result = network.fuse_with_maps(
            part(padded_ir, tile.outer),
            part(padded_vi, tile.outer),
            guidance.part(tile.outer),
            maps[(slice(None), *_coarsened(tile.outer, multiple))],
        )
        fused[(..., *tile.inner)] = result[(..., *tile.inner_in_outer)].to(fused)
    return fused[..., above : above + height, left : left + width].clamp(0, 1)


class _Guidance:
    """`relative_guidance` of tiles: the lowest values are those of the whole image."""

    def __init__(self, ir: Tensor | None, vi: Tensor | None, multiple: int, device: torch.device) -> None:
        self._lowest = [None if given is None else given.amin(dim=(2, 3), keepdim=True) for given in (ir, vi)]
        self._padded = [None if given is None else pad_to_multiple(given, multiple)[0] for given in (ir, vi)]
        self._device = device

    def part(self, window: tuple[slice, slice]) -> Tensor | None:
        """float 1x4xHxW of one tile; None where nothing is known."""
        known = [
            None if padded is None or lowest is None else padded[(..., *window)] - lowest
            for padded, lowest in zip(self._padded, self._lowest, strict=True)
        ]
        given = next((part for part in known if part is not None), None)
        if given is None:
            return None
        return torch.cat([torch.zeros_like(given) if part is None else part for part in known], dim=1).to(self._device)


def _coarsened(window: tuple[slice, slice], multiple: int) -> tuple[slice, slice]:
    rows, columns = (slice(side.start // multiple, side.stop // multiple) for side in window)
    return rows, columns
