"""Augmentation of annotated images: mirroring, and pasting the foreground onto other backgrounds."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch

from thfuse_sam.datasets.segmentation.sample import SegmentationDataset, SegmentationSample
from thfuse_sam.datasets.segmentation.splits import set_epoch

_PASTE_SCALES = (0.75, 1.25)  # of a pasted foreground; more would tear thin objects


class FlippedDataset:
    """`dataset` with some of its samples mirrored left to right; the seed, the epoch and the index decide which."""

    def __init__(self, dataset: SegmentationDataset, probability: float, seed: int = 0) -> None:
        """`probability`: of a mirror image, in [0, 1]."""
        self._dataset, self._probability, self._seed = dataset, probability, seed
        self._epoch = shared_epoch()

    @property
    def names(self) -> list[str]:
        return self._dataset.names

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> SegmentationSample:
        sample = self._dataset[index]
        rng = np.random.default_rng([self._seed, int(self._epoch), index])
        return flipped(sample) if rng.random() < self._probability else sample

    def image_path(self, index: int) -> Path | None:
        return None

    def set_epoch(self, epoch: int) -> None:
        self._epoch.fill_(epoch)
        set_epoch(self._dataset, epoch)


def shared_epoch() -> torch.Tensor:
    """An epoch number in shared memory, so that loader workers that live on into the next epoch see it change."""
    return torch.zeros((), dtype=torch.int64).share_memory_()


def flipped(sample: SegmentationSample) -> SegmentationSample:
    """`sample` mirrored left to right, image and masks alike."""
    return replace(
        sample,
        image=np.ascontiguousarray(sample.image[:, ::-1]),
        labels=np.ascontiguousarray(sample.labels[:, ::-1]),
        overlapped={number: np.ascontiguousarray(mask[:, ::-1]) for number, mask in sample.overlapped.items()},
    )


def crop_foreground(
    sample: SegmentationSample, background: npt.NDArray[np.uint8], rng: np.random.Generator
) -> SegmentationSample:
    """Cut out all objects together and paste them onto `background` at another place and scale.

    The background is scaled to cover the sample's size and cropped to it by chance. Objects that the scaling
    leaves without a pixel are dropped.

    Args:
        sample: with at least one object.
        background: uint8 HxWx3, RGB, of any size.
        rng: decides crop, place, scale and mirroring.

    Returns:
        a sample of the same name and size.
    """
    height, width = sample.shape
    union = np.logical_or.reduce([sample.labels > 0, *sample.overlapped.values()])
    rows, columns = np.flatnonzero(union.any(1)), np.flatnonzero(union.any(0))
    window = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    tall, wide = len(union[window]), union[window].shape[1]
    scale = min(float(rng.uniform(*_PASTE_SCALES)), height / tall, width / wide)
    size = (max(1, min(height, round(tall * scale))), max(1, min(width, round(wide * scale))))
    mirror = bool(rng.integers(2))
    top, left = (int(rng.integers(room + 1)) for room in (height - size[0], width - size[1]))
    place = (slice(top, top + size[0]), slice(left, left + size[1]))

    def moved(layer: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        cut = cv2.resize(layer[window].astype(np.float32), size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        whole = np.zeros((height, width), np.int32)
        whole[place] = cut[:, ::-1] if mirror else cut
        return whole

    labels = moved(sample.labels)
    whole = {number: moved(mask.astype(np.int32)).astype(bool) for number, mask in sample.overlapped.items()}
    shape = np.logical_or.reduce([labels > 0, *whole.values()])
    image = _cover(background, (height, width), rng)
    cut = cv2.resize(sample.image[window], size[::-1], interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    cut = cut[:, ::-1] if mirror else cut
    image[place][shape[place]] = cut[shape[place]]
    return _sample_of(sample, image, labels, {i: mask for i, mask in whole.items() if mask.any()}) or sample


def _cover(background: npt.NDArray[np.uint8], shape: Sequence[int], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """A part of the background of (height, width) `shape`, as large as it can be; a new array."""
    scale = max(shape[0] / background.shape[0], shape[1] / background.shape[1])
    size = [max(own, round(side * scale)) for own, side in zip(shape, background.shape, strict=False)]
    resized = cv2.resize(background, (size[1], size[0]), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    top, left = (int(rng.integers(side - own + 1)) for own, side in zip(shape, size, strict=True))
    return np.array(resized[top : top + shape[0], left : left + shape[1]], np.uint8)


def _sample_of(
    sample: SegmentationSample,
    image: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int32],
    overlapped: dict[int, npt.NDArray[np.bool_]],
) -> SegmentationSample | None:
    """`sample` with another image and masks, None if they hold no object."""
    made = SegmentationSample(sample.name, np.ascontiguousarray(image), labels, {}, overlapped)
    if not made.object_ids:
        return None
    names = {number: sample.categories[number] for number in made.object_ids if number in sample.categories}
    return SegmentationSample(made.name, made.image, made.labels, names, overlapped)
