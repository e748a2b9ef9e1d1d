"""Masks on their way through the filters: their packed bits, and non-maximum suppression by their boxes."""

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.ops import batched_nms

from thfuse_sam.arrays import Size
from thfuse_sam.devices import Download


class PackedMask(NamedTuple):
    """The packed bits of a part of a mask, a rectangle outside of which the mask is empty."""

    bits: npt.NDArray[np.uint8] | Tensor  # as `np.packbits` orders them; a tensor lies on a GPU
    top: int
    left: int
    shape: Size  # of the part

    @classmethod
    def pack(cls, mask: npt.NDArray[np.bool_], box: Sequence[int], offset: tuple[int, int] = (0, 0)) -> "PackedMask":
        """Pack a mask HxW whose True pixels lie in `box` (x0, y0, x1, y1, inclusive).

        `offset`: y, x of the mask's first pixel in the image.
        """
        left, top, right, bottom = box
        inside = mask[top : bottom + 1, left : right + 1]
        return cls(np.packbits(inside), top + offset[0], left + offset[1], (inside.shape[0], inside.shape[1]))

    def cut(self, first: int, last: int) -> "PackedMask":
        """The rows of the image from `first` or a little earlier to `last`; outside of them the mask must be empty."""
        width = self.shape[1]
        skipped = (first - self.top) // 8 * 8  # eight rows end with a whole byte, however wide they are
        rows = last + 1 - self.top - skipped
        bits = self.bits[skipped * width // 8 :][: -(-rows * width // 8)]
        return PackedMask(bits, self.top + skipped, self.left, (rows, width))

    def unpack(self, shape: Size) -> npt.NDArray[np.bool_]:
        """The mask, whose bits must lie on the CPU, in an image of `shape` = (height, width)."""
        height, width = self.shape
        mask = np.zeros(shape, dtype=bool)
        inside = np.unpackbits(np.asarray(self.bits), count=height * width).reshape(height, width)
        mask[self.top : self.top + height, self.left : self.left + width] = inside
        return mask


@dataclass(frozen=True)
class Candidates:
    """N masks in the coordinates of the whole image. All but the masks' bits lies on the CPU."""

    masks: list[PackedMask]
    boxes: Tensor  # Nx4 int64: x0, y0, x1, y1, inclusive
    predicted_ious: Tensor  # N float32
    stability_scores: Tensor  # N float32
    prompts: Tensor  # Nx4 float64: x0, y0, x1, y1 of a box; both corners of a point are the point
    covers_points: Tensor  # N bool: whether points inside the mask need not be tried
    crop_areas: Tensor  # N int64, pixels of the crop that each mask was found in

    @property
    def _columns(self) -> list[Tensor]:
        """All fields but the masks, in their order."""
        return [getattr(self, field.name) for field in dataclasses.fields(self)[1:]]

    def nms(self, scores: Tensor, threshold: float) -> "Candidates":
        """Non-maximum suppression, by the masks' boxes; best scored first.

        A mask goes if the IoU of its box with that of a mask of a higher score is above `threshold`. It takes place on
        the CPU, where the boxes are at hand: torchvision orders equal scores in another way on a GPU.
        """
        return self.take(batched_nms(self.boxes.float(), scores.float(), torch.zeros(len(self.masks)), threshold))

    def take(self, indices: Tensor) -> "Candidates":
        """The candidates at some indices, in their order."""
        return Candidates([self.masks[index] for index in indices.tolist()], *(own[indices] for own in self._columns))

    def fetch(self) -> Callable[[], "Candidates"]:
        """Begin to copy bits from the GPU to the CPU, all at once; the function that is returned ends it.

        Of a mask that lies on the GPU, the rows of its box are copied.
        """
        rows = self.boxes[:, 1::2].tolist()
        masks = [
            mask.cut(*ends) if isinstance(mask.bits, Tensor) else mask
            for mask, ends in zip(self.masks, rows, strict=True)
        ]
        waiting = [mask.bits for mask in masks if isinstance(mask.bits, Tensor)]
        download = Download(torch.cat(waiting)) if waiting else None

        def wait() -> Candidates:
            if download is None:
                return self
            parts = iter(np.split(download.wait().numpy(), np.cumsum([len(bits) for bits in waiting])))
            fetched = [mask._replace(bits=next(parts)) if isinstance(mask.bits, Tensor) else mask for mask in masks]
            return dataclasses.replace(self, masks=fetched)

        return wait

    @staticmethod
    def join(parts: Sequence["Candidates"]) -> "Candidates":
        """The candidates of all parts, of which there must be at least one."""
        columns = zip(*(part._columns for part in parts), strict=True)
        return Candidates([mask for part in parts for mask in part.masks], *map(torch.cat, columns))
