"""The one sample type of all annotated images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from thfuse_sam.arrays import ImageArray, Mask, Size
from thfuse_sam.masks.format import paint_order

NOTE, MENDED, BAD = range(3)  # severity of a flaw


@dataclass(frozen=True)
class Flaw:
    """What is wrong with an annotation. Data sets count flaws by their reason."""

    reason: str  # short, and the same for all flaws of a kind
    where: str  # file and annotation
    severity: int = MENDED  # NOTE: used as it is; MENDED: cut, or left out as nothing; BAD: somebody has to look at it
    details: str = ""  # the error of a BAD one

    def __str__(self) -> str:
        return f"{self.where}: {self.details or self.reason}"


@dataclass(frozen=True, eq=False)  # arrays have no single truth value
class SegmentationSample:
    """An image with its annotated objects.

    Ask `object_ids` and `mask(object_id)` for objects; `labels` alone loses the part of an object that another one
    covers, as every label map does.

    Attributes:
        name: path below its folder without suffix, with forward slashes.
        image: uint8 HxWx3, RGB.
        labels: int32 HxW; 0 is no object, k is object k. Smaller objects lie over larger ones.
        categories: class names of objects; objects of a set without class names are not in it.
        overlapped: bool HxW, the whole mask of each object that is partly or entirely covered in `labels`.
        source: the file that holds the image: an image file, or a JSON file that embeds it. None if the image was
            changed or composed at random: it will not be met again, so that its embedding is not worth keeping.
        ignored: bool HxW, pixels that are neither object nor background, such as the borders of a class map; None: no
            pixel is.
        flaws: what was wrong with the annotations of this image.
    """

    name: str
    image: ImageArray
    labels: npt.NDArray[np.int32]
    categories: Mapping[int, str] = field(default_factory=dict)
    overlapped: Mapping[int, Mask] = field(default_factory=dict)
    source: Path | None = None
    ignored: Mask | None = None
    flaws: tuple[Flaw, ...] = ()

    def __post_init__(self) -> None:
        if self.labels.shape != self.image.shape[:2]:
            raise ValueError(f"labels {self.labels.shape} and image {self.image.shape[:2]} differ in size")

    @classmethod
    def from_masks(
        cls,
        name: str,
        image: ImageArray,
        masks: Mapping[int, Mask],
        categories: Mapping[int, str] | None = None,
        *,
        ignored: Mask | None = None,
        flaws: Sequence[Flaw] = (),
    ) -> "SegmentationSample":
        """A sample whose objects (id of at least 1 -> bool HxW, not empty) may overlap.

        A pixel of an object is not ignored, whatever `ignored` says.
        """
        areas = {object_id: int(np.count_nonzero(mask)) for object_id, mask in masks.items()}
        if not all(areas.values()):
            raise ValueError(f"{name}: an object without a pixel")
        ids = list(masks)
        labels = np.zeros(image.shape[:2], np.int32)
        for index in paint_order([areas[object_id] for object_id in ids]):
            labels[masks[ids[index]]] = ids[index]
        shown = np.bincount(labels.ravel(), minlength=max(ids, default=0) + 1)
        overlapped = {object_id: masks[object_id] for object_id in ids if shown[object_id] < areas[object_id]}
        if ignored is not None:
            ignored = ignored & (labels == 0)
            ignored = ignored if ignored.any() else None
        return cls(name, image, labels, dict(categories or {}), overlapped, ignored=ignored, flaws=tuple(flaws))

    @property
    def shape(self) -> Size:
        """(height, width) in pixels."""
        return self.labels.shape[0], self.labels.shape[1]

    @cached_property
    def object_ids(self) -> tuple[int, ...]:
        """The numbers of all objects, ascending."""
        shown = np.flatnonzero(np.bincount(self.labels.ravel()))
        return tuple(sorted({int(label) for label in shown if label > 0} | set(self.overlapped)))

    def mask(self, object_id: int) -> Mask:
        """The whole object, bool HxW, also where another object covers it. Raises KeyError for an unknown number."""
        if object_id not in self.object_ids:
            raise KeyError(object_id)
        if object_id in self.overlapped:
            return self.overlapped[object_id]
        return np.asarray(self.labels == object_id)


def mask_box(mask: Mask) -> npt.NDArray[np.float32]:
    """The tight box around a bool HxW mask, float32 (x0, y0, x1, y1) in pixels. Raises ValueError: empty mask."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        raise ValueError("an empty mask has no box")
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)
