"""The parts of an image that the mask generator looks at one by one, and the points that it tries in each."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from segment_anything.utils.amg import generate_crop_boxes
from torch import Tensor

from thfuse_sam.arrays import Size
from thfuse_sam.sam.geometry import Frame

_EDGE_PIXELS = 20  # a box that ends at most this far from a crop's edge counts as cut off there


@dataclass(frozen=True)
class Crop:
    """A part of an image that is encoded and segmented by itself; at layer 0 it is the whole image."""

    box: tuple[int, int, int, int]  # x0, y0, x1, y1, ends exclusive
    layer: int  # 0: the whole image; layer i has 4**i crops
    image_size: Size  # of the whole image
    frame: Frame  # where the crop lies in the encoder's input

    @property
    def size(self) -> Size:
        return self.frame.image_size

    @property
    def area(self) -> int:
        return self.size[0] * self.size[1]

    @property
    def rows(self) -> slice:
        return slice(self.box[1], self.box[3])

    @property
    def columns(self) -> slice:
        return slice(self.box[0], self.box[2])

    def cuts_off(self, boxes: Tensor) -> Tensor:
        """Which boxes (Nx4, whole image) end near an edge of the crop that is no edge of the image: bool N."""
        crop_edges = torch.tensor(self.box)
        image_edges = torch.tensor([0, 0, self.image_size[1], self.image_size[0]])
        near_crop = (boxes - crop_edges).abs() <= _EDGE_PIXELS
        near_image = (boxes - image_edges).abs() <= _EDGE_PIXELS
        return (near_crop & ~near_image).any(1)


def crops_of(image_size: Size, frame_of: Callable[[Size], Frame], layers: int, overlap_ratio: float) -> Iterator[Crop]:
    """The crops of an image of (height, width) in layers 0 to `layers`; `frame_of` a size is a model's frame of it."""
    for (x0, y0, x1, y1), layer in zip(*generate_crop_boxes(image_size, layers, overlap_ratio), strict=True):
        if x0 < x1 and y0 < y1:  # an image of few pixels has crops without any
            yield Crop((x0, y0, x1, y1), layer, image_size, frame_of((y1 - y0, x1 - x0)))


def coarse_to_fine(count: int) -> list[npt.NDArray[np.intp]]:
    """Indices of a square grid of `count` points, row by row, in five levels, each closer together than the last."""
    side = math.isqrt(count)
    row, column = np.divmod(np.arange(count), side)
    level = np.full(count, 4)
    level[(row % 2 == 0) & (column % 2 == 0)] = 3
    level[(row % 2 == 1) & (column % 2 == 1)] = 2
    level[(row % 4 == 3) & (column % 4 == 3)] = 1
    level[(row % 4 == 1) & (column % 4 == 1)] = 0
    return [np.flatnonzero(level == number) for number in range(5)]
