"""From the decoder's logits to masks: upsampling, stability, boxes, packing, non-maximum suppression.

The results are those of segment_anything's `utils.amg`, which stores masks in run-length encoding in between.
"""

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import batched_nms

from thfuse_sam.sam.geometry import Frame

_STRIP = 64  # rows, or columns, of the output that are interpolated together


class PackedMask(NamedTuple):
    """A mask as packed bits, of its bounding box only."""

    bits: npt.NDArray[np.uint8]
    top: int
    left: int
    shape: tuple[int, int]  # height, width of the box

    @classmethod
    def pack(cls, mask: npt.NDArray[np.bool_], box: Sequence[int], offset: tuple[int, int] = (0, 0)) -> "PackedMask":
        """Pack a mask HxW whose True pixels lie in `box` (x0, y0, x1, y1, inclusive).

        `offset`: y, x of the mask's first pixel in the image.
        """
        left, top, right, bottom = box
        inside = mask[top : bottom + 1, left : right + 1]
        return cls(np.packbits(inside), top + offset[0], left + offset[1], (inside.shape[0], inside.shape[1]))

    def unpack(self, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
        """The mask in an image of `shape` = (height, width)."""
        height, width = self.shape
        mask = np.zeros(shape, dtype=bool)
        inside = np.unpackbits(self.bits, count=height * width).reshape(height, width)
        mask[self.top : self.top + height, self.left : self.left + width] = inside
        return mask


@dataclass(frozen=True)
class Candidates:
    """N masks on their way through the filters, on the CPU, in the coordinates of the whole image."""

    masks: list[PackedMask]
    boxes: Tensor  # Nx4 int64: x0, y0, x1, y1, inclusive
    predicted_ious: Tensor  # N float32
    stability_scores: Tensor  # N float32
    points: Tensor  # Nx2 float64: x, y
    covers_points: Tensor  # N bool: whether points inside the mask need not be tried
    crop_areas: Tensor  # N int64, pixels of the crop that each mask was found in

    @property
    def _columns(self) -> list[Tensor]:
        """All fields but the masks, in their order."""
        return [getattr(self, field.name) for field in dataclasses.fields(self)[1:]]

    def nms(self, scores: Tensor, threshold: float) -> "Candidates":
        """Non-maximum suppression, by the masks' boxes; best scored first.

        A mask goes if the IoU of its box with that of a mask of a higher score is above `threshold`.
        """
        kept = batched_nms(self.boxes.float(), scores, torch.zeros(len(self.masks)), threshold)
        return Candidates([self.masks[index] for index in kept.tolist()], *(column[kept] for column in self._columns))

    @staticmethod
    def join(parts: Sequence["Candidates"]) -> "Candidates":
        """The candidates of all parts, of which there must be at least one."""
        columns = zip(*(part._columns for part in parts), strict=True)
        return Candidates([mask for part in parts for mask in part.masks], *map(torch.cat, columns))


def stable_masks(
    logits: Tensor, mask_threshold: float, offset: float, stability_score_thresh: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The masks that hardly change with the threshold.

    Args:
        logits: float32 NxHxW at the image's own size.
        mask_threshold: logits above it belong to the mask.
        offset: the stability score is the IoU of the masks at thresholds that are higher and lower by this.
        stability_score_thresh: the lowest score that passes; 0: all pass, also empty masks, whose score is NaN.

    Returns:
        Indices int64 K and scores float32 K of those that pass, on the CPU; their masks bool KxHxW.
    """
    intersections = count_pixels(_above(logits, mask_threshold + offset))
    scores = intersections / count_pixels(_above(logits, mask_threshold - offset))
    if stability_score_thresh > 0:
        indices = (scores >= stability_score_thresh).nonzero()[:, 0]
    else:
        indices = torch.arange(len(scores), device=scores.device)
    # All logits are compared before some are picked: picking from masks moves a fourth of the bytes.
    return indices.cpu(), scores[indices].cpu(), _above(logits, mask_threshold)[indices]


def upsample_logits(logits: Tensor, frame: Frame) -> Tensor:
    """Resize the decoder's logits to the image, as `Sam.postprocess_masks` does in two steps.

    Args:
        logits: float32 Nxrxc; rows and columns at the end that hold nothing but padding may be missing.
        frame: where the image lies in the encoder's input.

    Returns:
        float32 NxHxW; equal to the two steps but for rounding.
    """
    sizes = zip(frame.input_size, frame.image_size, strict=True)
    rows, columns = (_strips(frame.logits_side, frame.padded_size, *axis) for axis in sizes)
    wide = torch.cat([logits[:, :, a:b] @ weights.T.to(logits.device) for a, b, weights in columns], dim=2)
    return torch.cat([weights.to(logits.device) @ wide[:, a:b] for a, b, weights in rows], dim=1)


def mask_boxes(masks: Tensor) -> Tensor:
    """Boxes (x0, y0, x1, y1 of the first and last pixels) around masks bool NxHxW: int64 Nx4 on the CPU.

    An empty mask has the box 0, 0, 0, 0.
    """
    height, width = masks.shape[1:]
    if len(masks) == 0:
        return torch.zeros((0, 4), dtype=torch.int64)
    # As bytes, whose maxima are computed by vector instructions.
    rows, columns = masks.view(torch.uint8).amax(2), masks.view(torch.uint8).amax(1)
    ends = [width - 1 - columns.flip(1).argmax(1), height - 1 - rows.flip(1).argmax(1)]
    boxes = torch.stack([columns.argmax(1), rows.argmax(1), *ends], dim=1)
    return (boxes * rows.amax(1, keepdim=True)).cpu()


@functools.lru_cache(maxsize=64)
def _strips(low: int, padded: int, unpadded: int, final: int) -> list[tuple[int, int, Tensor]]:
    """The interpolation along one axis, `low` values -> `padded` -> the first `unpadded` -> `final`, in strips.

    A strip (start, stop, weights) makes consecutive outputs from the inputs start:stop. One matrix for all outputs
    would consist almost entirely of zeros.
    """
    matrix = (_interpolation(unpadded, final) @ _interpolation(low, padded)[:unpadded]).float()
    strips = []
    for first in range(0, final, _STRIP):
        weights = matrix[first : first + _STRIP]
        used = (weights != 0).any(0).nonzero()[:, 0]
        start, stop = int(used[0]), int(used[-1]) + 1
        strips.append((start, stop, weights[:, start:stop].contiguous()))
    return strips


def _interpolation(inputs: int, outputs: int) -> Tensor:
    """Matrix (outputs x inputs) of PyTorch's bilinear interpolation along one axis.

    The weights are PyTorch's own float32 ones, as float64 so that a product of two matrices does not lose digits.
    """
    identity = torch.eye(inputs)[None, None]
    return F.interpolate(identity, size=(outputs, inputs), mode="bilinear", align_corners=False)[0, 0].double()


def _above(logits: Tensor, threshold: float) -> Tensor:
    """Whether each logit is above the threshold."""
    if logits.device.type == "cpu":
        # Equal to PyTorch's comparison and several times as fast.
        return torch.from_numpy(np.greater(logits.numpy(), np.float32(threshold)))
    return logits > threshold


def count_pixels(masks: Tensor) -> Tensor:
    """Numbers of True pixels of masks NxHxW."""
    if masks.device.type == "cpu":
        return torch.tensor([np.count_nonzero(mask) for mask in masks.numpy()], dtype=torch.int32)  # 3 times as fast
    return masks.sum(-1, dtype=torch.int32).sum(-1, dtype=torch.int32)
