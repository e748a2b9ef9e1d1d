"""Augmentation of annotated images: flip, scale, colour, and pasting the foreground onto other backgrounds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torchvision import tv_tensors
from torchvision.transforms import v2

from thfuse_sam.datasets.segmentation.sample import SegmentationDataset, SegmentationSample
from thfuse_sam.datasets.segmentation.splits import set_epoch

_PASTE_SCALES = (0.75, 1.25)  # of a pasted foreground; more would tear thin objects


@dataclass(frozen=True)
class Augmentation:
    """What is changed by chance."""

    flip: float = 0.5  # probability of a mirror image
    scale: tuple[float, float] = (0.75, 1.33)  # smallest and largest factor; the image keeps its size
    shift: float = 0.1  # largest shift, as a share of height and width
    colour: float = 0.2  # largest change of brightness, contrast and saturation, as a share

    def transform(self) -> v2.Transform:
        """The torchvision transform for image and masks together."""
        return v2.Compose(
            [
                v2.RandomHorizontalFlip(self.flip),
                v2.RandomAffine(
                    degrees=0,
                    translate=(self.shift, self.shift),
                    scale=self.scale,
                    interpolation=v2.InterpolationMode.BILINEAR,
                ),
                v2.ColorJitter(self.colour, self.colour, self.colour),
            ]
        )


class AugmentedDataset:
    """`dataset` with every sample augmented; the epoch, the index and the seed decide how.

    Objects that leave the image are dropped; a sample that would lose all of them stays as it is.
    """

    def __init__(self, dataset: SegmentationDataset, augmentation: Augmentation, seed: int = 0) -> None:
        self._dataset = dataset
        self._transform = augmentation.transform()
        self._seed = seed
        self._epoch = shared_epoch()

    @property
    def names(self) -> list[str]:
        return self._dataset.names

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, index: int) -> SegmentationSample:
        sample = self._dataset[index]
        seed = int(np.random.default_rng([self._seed, int(self._epoch), index]).integers(2**63))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            changed = transformed(sample, self._transform)
        return changed or sample

    def image_path(self, index: int) -> Path | None:
        return None

    def set_epoch(self, epoch: int) -> None:
        self._epoch.fill_(epoch)
        set_epoch(self._dataset, epoch)


def shared_epoch() -> torch.Tensor:
    """An epoch number in shared memory, so that loader workers that live on into the next epoch see it change."""
    return torch.zeros((), dtype=torch.int64).share_memory_()


def transformed(sample: SegmentationSample, transform: v2.Transform) -> SegmentationSample | None:
    """`sample` through a torchvision transform, image and masks alike; None if no object is left in the image."""
    ids = sorted(sample.overlapped)
    layers = np.stack([sample.labels, *(sample.overlapped[object_id].astype(np.int32) for object_id in ids)])
    image, masks = transform(
        tv_tensors.Image(torch.from_numpy(np.ascontiguousarray(sample.image.transpose(2, 0, 1)))),
        tv_tensors.Mask(torch.from_numpy(layers)),
    )
    labels, *whole = masks.numpy()
    kept = {object_id: mask.astype(bool) for object_id, mask in zip(ids, whole, strict=True) if mask.any()}
    return _sample_of(sample, image.numpy().transpose(1, 2, 0), labels.astype(np.int32), kept)


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
