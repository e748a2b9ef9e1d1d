"""Placing the two images of a pair in one frame: resampling them, their masks, and what only one camera sees."""

import math
from dataclasses import dataclass
from functools import cached_property

import cv2
import numpy as np

from thfuse_sam.align.estimate import Alignment, by_size, estimate_alignment
from thfuse_sam.align.rig import Rig
from thfuse_sam.align.structure import Float
from thfuse_sam.align.transform import Kind, Matrix, inverse, scaling, transformed, warp
from thfuse_sam.arrays import Array, ImageArray, Mask, Size, size_of
from thfuse_sam.images import Modality, luma
from thfuse_sam.options.align import FRAME_WORDS, INFRARED, VISIBLE
from thfuse_sam.thermal import fill, nearest_places

# Shares of the frame's shorter side:
_LEVELS = 0.15  # how far outside of what both see the fused picture has become that of one camera
_DETAILS = 0.05  # how far an image goes on with its details, and the widest black margin
_CELL = 0.06  # of these cells the mean is what remains without details
_SHRINKING = 0.9  # a smaller scale averages pixels, a larger one interpolates


@dataclass(frozen=True)
class Placement:
    """Where the infrared and the visible image of a pair lie in a frame, in which they are fused."""

    alignment: Alignment
    size: Size  # of the frame
    ir: Matrix  # from the image as it is stored to the frame
    vi: Matrix

    @classmethod
    def of(cls, alignment: Alignment, frame: str) -> "Placement":
        """`frame` is "visible", "infrared" or a size such as "640x480"."""
        matrix = alignment.applied
        if frame == INFRARED:
            return cls(alignment, alignment.ir_size, np.eye(3), inverse(matrix))
        size = frame_size(frame, alignment.ir_size, alignment.vi_size)
        to_frame = scaling(alignment.vi_size, size)
        return cls(alignment, size, to_frame @ matrix, to_frame)

    def images(self, infrared: ImageArray, visible: ImageArray) -> tuple[ImageArray, ImageArray]:
        """Both images in the frame, uint8 HxW and HxWx3. Where only one camera sees the scene, both show its
        picture.
        """
        ir_details, vi_details = self._details
        own_ir = _continued(infrared, _margin(infrared), self.ir, ir_details)
        own_vi = _continued(visible, np.zeros(visible.shape[:2], np.bool_), self.vi, vi_details)
        ir_weight, vi_weight = self._weights
        return (
            mix(own_ir, luma(own_vi), ir_weight),
            mix(own_vi, np.repeat(own_ir[..., None], 3, axis=2), vi_weight[..., None]),
        )

    def mask(self, modality: Modality, mask: Array) -> Array:
        """A mask HxW of one of the images in the frame: each pixel has the value of the nearest one, or 0 outside."""
        matrix = self.ir if modality == "ir" else self.vi
        y, x = np.mgrid[: self.size[0], : self.size[1]]
        places = np.rint(transformed(np.column_stack([x.ravel(), y.ravel()]), inverse(matrix))).astype(np.int64)
        column, row = places.T
        inside = (column >= 0) & (row >= 0) & (column < mask.shape[1]) & (row < mask.shape[0])
        placed = np.zeros(len(places), mask.dtype)
        placed[inside] = mask[row[inside], column[inside]]
        return placed.reshape(self.size)

    def numbers(self, values: Array, missing: Mask, nothing: int = 0) -> Array:
        """Numbers HxW of the infrared image in the frame: uint16 stay so, `nothing` where nothing was measured; others
        become float32, with NaN there. None is outside of what was measured, as cubic interpolation would make them.
        """
        if not (values.dtype.kind in "iu" and values.min() >= 0 and values.max() < 2**16):
            values = values.astype(np.float32)
        elif values.dtype != np.uint8:  # older versions of Pillow read 16 bits into 32
            values = values.astype(np.uint16)
        seen = self.sees("ir") & ~self.mask("ir", missing)
        unseen = np.array(np.nan if values.dtype == np.float32 else nothing, values.dtype)
        placed = resample(fill(values, missing), self.ir, self.size, interpolation=cv2.INTER_LINEAR)
        return np.where(seen, placed, unseen)

    def blend(self, fused: ImageArray, visible_luma: ImageArray) -> ImageArray:
        """The fused luma HxW, with a soft border to what only one camera sees; `visible_luma` is that of `images`."""
        return mix(fused, visible_luma, np.minimum(*self._weights))

    def sees(self, modality: Modality) -> Mask:
        """Which pixels of the frame one of the cameras sees, HxW."""
        ir = modality == "ir"
        own, matrix = (self.alignment.ir_size, self.ir) if ir else (self.alignment.vi_size, self.vi)
        return warp(np.ones(own, np.uint8), matrix, self.size, interpolation=cv2.INTER_NEAREST) > 0

    @cached_property
    def common(self) -> tuple[slice, slice]:
        """Rows and columns of a rectangle that both cameras see, as large as cutting the worse side again and again
        leaves it; empty slices where they share nothing.
        """
        seen = self.sees("ir") & self.sees("vi")
        top, left, bottom, right = 0, 0, *self.size
        while top < bottom and left < right:
            part = seen[top:bottom, left:right]
            unseen = [1 - part[0].mean(), 1 - part[-1].mean(), 1 - part[:, 0].mean(), 1 - part[:, -1].mean()]
            worst = int(np.argmax(unseen))
            if unseen[worst] == 0:
                break
            top, bottom, left, right = (
                top + (worst == 0),
                bottom - (worst == 1),
                left + (worst == 2),
                right - (worst == 3),
            )
        return slice(top, bottom), slice(left, right)

    @cached_property
    def _weights(self) -> tuple[Float, Float]:
        """How much each camera's picture counts, float32 HxW in [0, 1], with a soft border."""
        return _soft(self.sees("ir"), _LEVELS), _soft(self.sees("vi"), _LEVELS)

    @cached_property
    def _details(self) -> tuple[Float, Float]:
        """`_weights`, of each picture's details."""
        return _soft(self.sees("ir"), _DETAILS), _soft(self.sees("vi"), _DETAILS)


@dataclass(frozen=True)
class Placer:
    """Places pairs of images: by a rig, or by an estimate for each pair."""

    kind: Kind
    frame: str = VISIBLE
    rig: Rig | None = None

    def place(self, infrared: ImageArray, visible: ImageArray) -> Placement:
        """Of a pair, uint8 HxW and HxWx3. Raises UsageError where the rig is of other sizes."""
        ir_size, vi_size = size_of(infrared), size_of(visible)
        if self.rig is not None:
            return Placement.of(self.rig.alignment(ir_size, vi_size), self.frame)
        if self.kind == "size":
            return Placement.of(by_size(ir_size, vi_size), self.frame)
        return Placement.of(estimate_alignment(infrared, luma(visible), self.kind), self.frame)

    def frame_of(self, ir_size: Size, vi_size: Size) -> Size:
        """(height, width) of the frame of a pair with images of these sizes. Raises UsageError as `place` does."""
        if self.rig is not None:
            self.rig.alignment(ir_size, vi_size)
        return frame_size(self.frame, ir_size, vi_size)


def frame_size(frame: str, ir_size: Size, vi_size: Size) -> Size:
    """(height, width) of a frame: "visible", "infrared" or a size such as "640x480"."""
    if frame in FRAME_WORDS:
        return vi_size if frame == VISIBLE else ir_size
    width, height = frame.split("x")
    return int(height), int(width)


def resample(
    image: Array, matrix: Matrix, size: Size, *, border: int | None = None, interpolation: int = cv2.INTER_CUBIC
) -> Array:
    """An image HxW or HxWxC as `matrix` places it in a frame of `size`; pixels are averaged where it shrinks.

    Outside of it its edge goes on, or all is `border`. The image itself where it fits already.
    """
    own = size_of(image)
    if own == size and np.array_equal(matrix, np.eye(3)):
        return image
    middle = np.array([[(own[1] - 1) / 2, (own[0] - 1) / 2]])
    around = transformed(middle + np.array([[0, 0], [1, 0], [0, 1]]), matrix)
    scale = math.sqrt(abs(float(np.linalg.det(around[1:] - around[0]))))
    if scale < _SHRINKING:
        smaller = (max(1, round(own[0] * scale)), max(1, round(own[1] * scale)))
        image = cv2.resize(image, smaller[::-1], interpolation=cv2.INTER_AREA)
        matrix = matrix @ scaling(smaller, own)
    return warp(image, matrix, size, interpolation=interpolation, border=border)


def mix(one: ImageArray, other: ImageArray, weight: Float) -> ImageArray:
    """`one` where the weight is 1 and `other` where it is 0, uint8; `one` itself if it is 1 everywhere."""
    if weight.min() >= 1:
        return one
    return np.rint(weight * one + (1 - weight) * other).astype(np.uint8)


def _soft(seen: Mask, share: float) -> Float:
    """1 where `seen`, and a smooth step down to 0 outside of it, as wide as `share` of the frame's shorter side."""
    if seen.all() or not seen.any():
        return seen.astype(np.float32)
    distance = cv2.distanceTransform((~seen).astype(np.uint8), cv2.DIST_L2, 5)
    near = 1 - np.minimum(distance / np.float32(max(1.0, share * min(seen.shape))), 1)
    return np.asarray(near * near * (3 - 2 * near), np.float32)


def _continued(image: ImageArray, margin: Mask, matrix: Matrix, details: Float) -> ImageArray:
    """An image in the frame, which goes on outside of it and in its margin: mirrored, as noise and texture do not end
    there, and with ever less detail, as objects do. `details` is the share that is left, HxW.
    """
    size = size_of(details)
    own = resample(image, matrix, size)
    if details.min() >= 1:
        return own
    own = _mirrored(own, warp((~margin).astype(np.uint8), matrix, size, interpolation=cv2.INTER_NEAREST) > 0)
    cells = [max(1, round(side / max(1.0, _CELL * min(size)))) for side in size[::-1]]
    level = cv2.resize(cv2.resize(own, cells, interpolation=cv2.INTER_AREA), size[::-1])
    return mix(own, np.asarray(level, np.uint8), details if image.ndim == 2 else details[..., None])


def _mirrored(image: ImageArray, seen: Mask) -> ImageArray:
    """An image whose other pixels are those that lie as far on the other side of the nearest one that is seen."""
    if not seen.any():
        return image
    places = (np.flatnonzero(~seen), nearest_places(~seen)[~seen])  # in the flattened image
    own, nearest = (np.column_stack(np.divmod(at, seen.shape[1])) for at in places)
    across = np.clip(2 * nearest - own, 0, np.array(seen.shape) - 1)
    source = np.where(seen[tuple(across.T)][:, None], across, nearest)
    mirrored = image.copy()
    mirrored[~seen] = image[tuple(source.T)]
    return mirrored


def _margin(image: ImageArray) -> Mask:
    """What turning or moving an image HxW leaves at its edges: black, and the pixels beside it, which are darker."""
    black, margin = image == 0, np.zeros(image.shape, np.uint8)
    width = max(1, round(_DETAILS * min(image.shape)))
    for turns in range(4):
        side = np.rot90(margin, turns)
        side[:width] |= np.logical_and.accumulate(np.rot90(black, turns)[:width], axis=0)
        side[0] = 1  # black may have a share in these pixels alone
    return np.asarray(cv2.dilate(margin, np.ones((5, 5), np.uint8)) > 0)
