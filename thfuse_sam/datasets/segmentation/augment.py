"""Augmentation of annotated images: mirroring, and pasting the foreground onto other backgrounds."""

from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np
import numpy.typing as npt

from thfuse_sam.arrays import Array, ImageArray
from thfuse_sam.datasets.segmentation.sample import SegmentationSample, mask_box

_PASTE_SCALES = (0.75, 1.25)  # range of a pasted foreground's scale; thin objects would break up beyond it


def flipped(sample: SegmentationSample) -> SegmentationSample:
    """`sample` mirrored left to right, image and masks alike. It has no `source`, because no file holds its image."""
    return replace(
        sample,
        image=np.ascontiguousarray(sample.image[:, ::-1]),
        labels=np.ascontiguousarray(sample.labels[:, ::-1]),
        overlapped={number: np.ascontiguousarray(mask[:, ::-1]) for number, mask in sample.overlapped.items()},
        ignored=None if sample.ignored is None else np.ascontiguousarray(sample.ignored[:, ::-1]),
        source=None,
    )


def crop_foreground(sample: SegmentationSample, background: ImageArray, rng: np.random.Generator) -> SegmentationSample:
    """Cut out all objects together and paste them onto `background` at another place and scale.

    The largest part of the background that has the sample's proportions is cut out at a random place and resized.
    Objects that have no pixel left after scaling are dropped. The sample has at least one object; the result has its
    name and size. `background` is uint8 HxWx3, RGB, of any size.
    """
    height, width = sample.shape
    foreground = np.logical_or.reduce([sample.labels > 0, *sample.overlapped.values()])
    left, top, right, bottom = mask_box(foreground).astype(int)
    scale = min(float(rng.uniform(*_PASTE_SCALES)), height / (bottom - top), width / (right - left))
    new_height = max(1, min(height, round((bottom - top) * scale)))
    new_width = max(1, min(width, round((right - left) * scale)))
    mirror = bool(rng.integers(2))
    new_top, new_left = int(rng.integers(height - new_height + 1)), int(rng.integers(width - new_width + 1))
    target = slice(new_top, new_top + new_height), slice(new_left, new_left + new_width)

    def scaled(array: Array, interpolation: int) -> Array:
        resized = cv2.resize(array[top:bottom, left:right], (new_width, new_height), interpolation=interpolation)
        return resized[:, ::-1] if mirror else resized

    def moved(layer: Array) -> npt.NDArray[np.int32]:
        numbers = np.zeros(sample.shape, np.int32)
        numbers[target] = scaled(layer.astype(np.float32), cv2.INTER_NEAREST_EXACT)
        return numbers

    labels = moved(sample.labels)
    masks = {number: moved(mask) > 0 for number, mask in sample.overlapped.items()}
    overlapped = {number: mask for number, mask in masks.items() if mask.any()}
    covered = np.logical_or.reduce([labels > 0, *overlapped.values()])[target]
    if not covered.any():
        return sample
    image = _cover(background, sample.shape, rng)
    image[target][covered] = scaled(sample.image, cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)[covered]
    pasted = SegmentationSample(sample.name, image, labels, {}, overlapped)
    return replace(pasted, categories={k: v for k, v in sample.categories.items() if k in pasted.object_ids})


def _cover(background: ImageArray, shape: Sequence[int], rng: np.random.Generator) -> ImageArray:
    """The largest part of the background that fits (height, width) `shape`, at a random place, resized: a new array."""
    scale = max(shape[0] / background.shape[0], shape[1] / background.shape[1])
    size = [min(side, max(1, round(own / scale))) for own, side in zip(shape, background.shape, strict=False)]
    top, left = (int(rng.integers(side - own + 1)) for own, side in zip(size, background.shape, strict=False))
    part = background[top : top + size[0], left : left + size[1]]
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.array(cv2.resize(part, (shape[1], shape[0]), interpolation=interpolation), np.uint8)
