"""Pairs with their masks as tensors, for training and for fusing.

Reads any layout that `datasets.pairs` finds, with masks from any `MaskSource`::

    datasets/train/ir/a/0001.png    datasets/train/vi/a/0001.jpg
    precomputed_masks/ir/a/0001.npy precomputed_masks/vi/a/0001.npy
"""

from collections.abc import Mapping, Sequence
from typing import TypedDict

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from thfuse_sam.arrays import Array, ImageArray, Size, size_of
from thfuse_sam.datasets.pair_checks import read_pair
from thfuse_sam.datasets.pairs import ImagePair
from thfuse_sam.images import luma
from thfuse_sam.masks.format import guidance_inputs, segment_labels
from thfuse_sam.masks.placeholder import placeholder_guidance
from thfuse_sam.masks.source import MaskSource

# What `jitter` changes. Brightness and contrast are means and standard deviations of whole images, intensity.
SMALLEST_WINDOW = 0.75  # side of the window that becomes a crop, in crops; the largest is the image's shorter side
GAMMA = 0.3  # standard deviation of the logarithm of the exponent
BRIGHTNESS, CONTRAST = (0.15, 0.6), (0.1, 0.28)
MOST_CONTRAST = 3  # largest factor on an image's own contrast, which keeps grain from filling a dark image


class FusionSample(TypedDict):
    """One pair, ready for the network. All arrays share height and width."""

    ir: Tensor  # float32 1xHxW in [0, 1]
    vi: Tensor  # float32 1xHxW in [0, 1], luma
    vi_rgb: Tensor  # float32 3xHxW in [0, 1], RGB
    # Guidance: union and outlines of the segments; 0.5 everywhere if the image has no mask.
    ir_guidance: Tensor  # float32 2xHxW in [0, 1]
    vi_guidance: Tensor
    ir_labels: Tensor  # int64 HxW; 0 outside all segments
    vi_labels: Tensor
    has_ir_mask: bool
    has_vi_mask: bool
    name: str


def fusion_sample(
    name: str, infrared: ImageArray, visible: ImageArray, ir_mask: Array | None, vi_mask: Array | None
) -> FusionSample:
    """The sample of one pair: an infrared image (uint8 HxW) and a visible one (uint8 HxWx3, RGB).

    The masks are HxW, as `masks.format` reads them; None: the image has no mask and gets the placeholder.
    """
    ir_guidance, ir_labels = _mask_inputs(ir_mask, infrared.shape)
    vi_guidance, vi_labels = _mask_inputs(vi_mask, infrared.shape)
    return FusionSample(
        ir=_to_float(infrared[None]),
        vi=_to_float(luma(visible)[None]),
        vi_rgb=_to_float(visible.transpose(2, 0, 1)),
        ir_guidance=ir_guidance,
        vi_guidance=vi_guidance,
        ir_labels=ir_labels,
        vi_labels=vi_labels,
        has_ir_mask=ir_mask is not None,
        has_vi_mask=vi_mask is not None,
        name=name,
    )


def to_uint8(values: Tensor) -> ImageArray:
    """Values in [0, 1], any shape, on any device -> uint8 0..255 of the same shape; values outside are clipped."""
    return values.detach().float().clamp(0, 1).mul(255).round().to("cpu", torch.uint8).numpy()


class FusionDataset(Dataset[FusionSample]):
    """Infrared and visible images with their masks, cropped and turned together.

    Args:
        pairs: the pairs to read, in this order.
        mask_source: hands out masks of whole images; an image for which it returns None gets the placeholder.
        crop_size: side of the square crop in pixels; None keeps images whole. Smaller images are padded by reflection.
            Without `augment` the crop is the middle one.
        augment: random crop, and all eight orientations of a square; a whole image is only mirrored and turned by 0
            or 180 degrees, to keep its shape.
        seed: decides every random choice, together with the epoch and the index. Neither the worker process nor the
            order of reading changes it.
        jitter: with `augment`, the probability that a crop is resized from a window of another size, and that each of
            its images gets another brightness and contrast: pairs of one camera then stand for those of others.

    Raises on reading a sample: ImageReadError; ImageSizeError if the two images differ in size.
    """

    def __init__(
        self,
        pairs: Sequence[ImagePair],
        mask_source: MaskSource,
        *,
        crop_size: int | None = None,
        augment: bool = False,
        seed: int = 0,
        jitter: float = 0.0,
    ) -> None:
        if crop_size is not None and crop_size < 1:
            raise ValueError(f"crop_size must be at least 1 or None, got {crop_size}")
        self._pairs = list(pairs)
        self._masks = mask_source
        self._crop_size = crop_size
        self._augment = augment
        self._seed, self._epoch = seed, 0
        self._jitter = jitter

    def __len__(self) -> int:
        return len(self._pairs)

    def set_epoch(self, epoch: int) -> None:
        """Make the random choices of another epoch (0, 1, ...). Each process of a loader calls it for itself."""
        self._epoch = epoch

    def __getitem__(self, index: int) -> FusionSample:
        pair = self._pairs[index]
        infrared, visible = read_pair(pair)
        shape = size_of(infrared)
        ir_mask = self._masks.get("ir", pair.name, pair.ir, shape, infrared)
        vi_mask = self._masks.get("vi", pair.name, pair.vi, shape, infrared)
        random = np.random.default_rng((self._seed, self._epoch, index)) if self._augment else None
        transform = _CropAndTurn(shape, self._crop_size, random, self._jitter)
        if random is not None and self._jitter:
            infrared, visible = (_other_tone(image, random, self._jitter) for image in (infrared, visible))
        return fusion_sample(
            pair.name,
            transform.apply(infrared),
            transform.apply(visible),
            # Masks are cropped before guidance is derived: it is less work, and only outlines along the crop's border
            # are lost.
            None if ir_mask is None else transform.apply(ir_mask, labels=True),
            None if vi_mask is None else transform.apply(vi_mask, labels=True),
        )


class MixedPairs(Dataset[FusionSample]):
    """Several data sets as one, each with its masks; a sample's name begins with that of its data set."""

    def __init__(self, parts: Mapping[str, FusionDataset]) -> None:
        self._samples = [(name, part, index) for name, part in parts.items() for index in range(len(part))]
        self._parts = list(parts.values())

    def __len__(self) -> int:
        return len(self._samples)

    def set_epoch(self, epoch: int) -> None:
        """Make the random choices of another epoch (0, 1, ...)."""
        for part in self._parts:
            part.set_epoch(epoch)

    def __getitem__(self, index: int) -> FusionSample:
        name, part, own_index = self._samples[index]
        sample = part[own_index]
        return {**sample, "name": f"{name}/{sample['name']}"}


class _CropAndTurn:
    """One choice of padding, crop, size, mirroring and turn, applied alike to all arrays of a sample.

    `random` None: the middle crop, neither mirrored nor turned. `jitter`: probability of a window of another size.
    """

    def __init__(
        self, shape: Size, crop_size: int | None, random: np.random.Generator | None, jitter: float = 0.0
    ) -> None:
        self._resized_to, window = None, crop_size
        if random is not None and crop_size is not None and jitter and random.random() < jitter:
            smallest = SMALLEST_WINDOW * crop_size
            window = round(np.exp(random.uniform(*np.log([smallest, max(smallest, min(shape))]))))
            self._resized_to = crop_size
        crop = shape if window is None else (window, window)
        self._padding = [(0, max(side - length, 0)) for side, length in zip(crop, shape, strict=True)]
        room = [max(length - side, 0) for side, length in zip(crop, shape, strict=True)]
        if random is None:
            top, left = room[0] // 2, room[1] // 2
            self._quarter_turns, self._mirror = 0, False
        else:
            top, left = (int(random.integers(0, space + 1)) for space in room)
            # Mirroring and four turns give all eight orientations of a square; a whole image keeps its shape.
            self._mirror = bool(random.integers(0, 2))
            self._quarter_turns = int(random.integers(0, 4))
            if crop_size is None:
                self._quarter_turns = self._quarter_turns // 2 * 2
        self._window = (slice(top, top + crop[0]), slice(left, left + crop[1]))

    def apply(self, array: Array, *, labels: bool = False) -> Array:
        """HxW or HxWxC -> the chosen part of it, contiguous. `labels`: values are not mixed."""
        if any(after for _, after in self._padding):
            padding = self._padding + [(0, 0)] * (array.ndim - 2)
            array = np.pad(array, padding, mode="reflect")
        array = array[self._window]
        if self._resized_to is not None:
            array = _resized(array, self._resized_to, labels)
        if self._mirror:
            array = array[:, ::-1]
        return np.ascontiguousarray(np.rot90(array, self._quarter_turns))


def _resized(array: Array, size: int, labels: bool) -> Array:
    """A square HxW or HxWxC array with sides of `size` pixels."""
    if labels:
        nearest = ((np.arange(size) + 0.5) * len(array) / size).astype(int)
        return array[nearest[:, np.newaxis], nearest]
    way = cv2.INTER_AREA if len(array) > size else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(array, (size, size), interpolation=way))


def _other_tone(image: ImageArray, random: np.random.Generator, probability: float) -> ImageArray:
    """A uint8 image, with the given probability with another gamma, brightness and contrast."""
    if random.random() >= probability:
        return image
    table = np.linspace(0, 1, 256) ** np.exp(random.normal(0, GAMMA))
    levels = table[image[::8, ::8]]  # enough for a mean
    gain = random.uniform(*CONTRAST) / max(levels.std(), 1e-6)
    table = (table - levels.mean()) * np.clip(gain, 1 / MOST_CONTRAST, MOST_CONTRAST) + random.uniform(*BRIGHTNESS)
    return np.rint(table.clip(0, 1) * 255).astype(np.uint8)[image]


def _mask_inputs(mask: Array | None, shape: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Guidance (float32 2xHxW) and labels (int64 HxW) of a mask; None: the placeholder, (height, width) `shape`."""
    if mask is None:
        height, width = shape
        return torch.from_numpy(placeholder_guidance((height, width))), torch.zeros((height, width), dtype=torch.int64)
    return torch.from_numpy(guidance_inputs(mask)), torch.from_numpy(segment_labels(mask))


def _to_float(image: ImageArray) -> Tensor:
    """uint8 CxHxW to float32 CxHxW in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(image)).to(torch.float32) / 255.0
