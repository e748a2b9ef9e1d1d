"""The objects of one image while its annotations are read: what all formats of outlines share."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from thfuse_sam.datasets.segmentation.formats.outlines import EMPTY, NO_OUTLINE, Mask
from thfuse_sam.datasets.segmentation.sample import BAD, MENDED, NOTE, Flaw, SegmentationSample
from thfuse_sam.errors import SampleError
from thfuse_sam.image_files import upright
from thfuse_sam.images import image_frame, size_text

UNUSABLE = "unusable, left out"
_STORED = "drawn on an image as stored, turned upright with it as its EXIF data say"
_EITHER_WAY = "on an image with an EXIF rotation, taken as drawn on the upright image (if not: `ignore_exif`)"

Draw = Callable[
    [tuple[int, int], list[str]], Mask
]  # (shape, reasons) -> mask, which may be empty; may raise ValueError


@dataclass
class ImageObjects:
    """Collects the objects of one image. Outlines are drawn at `shape` and then turned as `orientation` says."""

    shape: tuple[int, int]  # (height, width) of the image that the outlines were drawn on
    orientation: int = 1  # EXIF orientation that makes their masks upright
    masks: dict[int, Mask] = field(default_factory=dict)
    categories: dict[int, str] = field(default_factory=dict)
    flaws: list[Flaw] = field(default_factory=list)
    ignored: Mask | None = None
    _numbers: dict[Any, int] = field(default_factory=dict)

    @classmethod
    def on(
        cls, image_path: Path, size: tuple[int, int] | None, source: Path, *, ignore_exif: bool = False
    ) -> "ImageObjects":
        """For an image that `source` annotates at (height, width) `size`; None: it does not say.

        Raises ImageReadError, and SampleError if the image has another size.
        """
        shape, orientation, flaws = drawn_frame(image_path, size, ignore_exif=ignore_exif)
        require_size(image_path, shape, size, source)
        return cls(shape, orientation, flaws=flaws)

    def add(self, where: str, draw: Draw, category: str | None = None, key: Any = None) -> None:
        """Draw an object, or a further part of the object that was added with the same `key`."""
        mask = self._drawn(where, draw)
        if mask is None:
            return
        number = self._numbers.setdefault(len(self._numbers) if key is None else key, len(self.masks) + 1)
        self.masks[number] = self.masks[number] | mask if number in self.masks else mask
        if category is not None:
            self.categories[number] = category

    def ignore(self, where: str, draw: Draw, reason: str) -> None:
        """Draw a region that is neither object nor background; `reason` says why."""
        self.note(reason, where)
        mask = self._drawn(where, draw)
        if mask is not None:
            self.ignored = mask if self.ignored is None else self.ignored | mask

    def note(self, reason: str, where: str, severity: int = NOTE, details: str = "") -> None:
        """Remember a flaw."""
        self.flaws.append(Flaw(reason, where, severity, details))

    def sample(self, name: str, image: npt.NDArray[np.uint8]) -> SegmentationSample:
        """The sample of the upright `image`, with the objects that were added; it may have none."""
        return SegmentationSample.from_masks(
            name, image, self.masks, self.categories, ignored=self.ignored, flaws=self.flaws
        )

    def _drawn(self, where: str, draw: Draw) -> Mask | None:
        """The upright mask; None if it cannot be drawn or is empty, which is noted."""
        reasons: list[str] = []
        try:
            mask = draw(self.shape, reasons)
        except (ValueError, TypeError, OverflowError) as error:
            self.note(UNUSABLE, where, BAD, str(error))
            return None
        empty = not mask.any()
        if empty:
            reasons = [NO_OUTLINE] if NO_OUTLINE in reasons else [EMPTY]
        for reason in dict.fromkeys(reasons):
            self.note(reason, where, MENDED)
        return None if empty else upright(mask, self.orientation)


def drawn_frame(
    image_path: Path, size: tuple[int, int] | None, *, ignore_exif: bool
) -> tuple[tuple[int, int], int, list[Flaw]]:
    """What the annotations of an image were drawn on: (height, width), and the EXIF orientation to be undone in them.

    `size`: the (height, width) that they give; None: they give none. Raises ImageReadError.
    """
    shape, orientation = image_frame(image_path)
    stored = shape[::-1] if orientation >= 5 else shape
    if orientation == 1 or size not in (shape, stored, None):
        return shape, 1, []
    if ignore_exif and size in (stored, None):
        return stored, orientation, []
    if size not in (shape, None):
        return stored, orientation, [Flaw(_STORED, str(image_path), NOTE)]
    unsure = size is None or stored == shape
    return shape, 1, [Flaw(_EITHER_WAY, str(image_path), NOTE)] if unsure else []


def require_size(image: Path, shape: tuple[int, int], size: tuple[int, int] | None, source: Path) -> None:
    """Raise SampleError if `source` says that the image of (height, width) `shape` has another `size`."""
    if size in (None, shape):
        return
    subject = f"{image}: is {size_text(shape)}, {source} says {size_text(size)} (width x height)"
    if size == shape[::-1]:
        raise SampleError(
            f"{subject}: width and height are swapped; swap them there, also in masks, or turn the image back if it "
            "was turned after it was annotated"
        )
    raise SampleError(f"{subject}; bring the image to the annotated size")
