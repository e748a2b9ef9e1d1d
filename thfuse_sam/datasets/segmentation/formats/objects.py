"""The objects of one image while its annotations are read: what all formats of outlines share."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from thfuse_sam.arrays import ImageArray, Mask, Size
from thfuse_sam.datasets.segmentation.formats.outlines import EMPTY, NO_OUTLINE, STRAY
from thfuse_sam.datasets.segmentation.sample import BAD, MENDED, NOTE, Flaw, SegmentationSample
from thfuse_sam.datasets.words import NO_OBJECTS, TO_IGNORE
from thfuse_sam.errors import SampleError
from thfuse_sam.image_files import upright
from thfuse_sam.images import image_frame, read_visible, size_text
from thfuse_sam.options.shared import AnnotationReading

UNUSABLE = "unusable, left out"
_STORED = "drawn on an image as stored, turned upright with it as its EXIF data say"
_EITHER_WAY = "on an image with an EXIF rotation, taken as drawn on the upright image (if not: `ignore_exif`)"

_BACKGROUND, _IGNORED = "labelled as background, left out", "labelled as what is to be ignored, ignored"

# (shape, reasons) -> mask, which may be empty; may raise ValueError
Draw = Callable[[Size, list[str]], Mask]


class ImageObjects:
    """Collects the objects of one image, uint8 HxWx3 RGB, upright.

    Outlines are drawn at (height, width) `shape`, and their masks then made upright as the EXIF `orientation` says.
    """

    def __init__(
        self, name: str, image: ImageArray, shape: Size, orientation: int = 1, flaws: Sequence[Flaw] = ()
    ) -> None:
        self._name, self._image, self._shape, self._orientation = name, image, shape, orientation
        self._flaws = list(flaws)
        self._masks: dict[int, Mask] = {}
        self._categories: dict[int, str] = {}
        self._ignored: Mask | None = None
        self._numbers: dict[Any, int] = {}

    @classmethod
    def on(
        cls, name: str, image_path: Path, size: Size | None, source: Path, reading: AnnotationReading
    ) -> "ImageObjects":
        """For an image file that `source` annotates at (height, width) `size`; None: it does not say.

        Raises ImageReadError, and SampleError if the image has another size.
        """
        shape, orientation, flaws = drawn_frame(image_path, size, ignore_exif=reading.ignore_exif)
        require_size(image_path, shape, size, source)
        return cls(name, read_visible(image_path), shape, orientation, flaws)

    def add(self, where: str, draw: Draw, category: str | None = None, key: Any = None) -> None:
        """Draw an object, or a further part of the object that was added with the same `key`.

        A category that `is_background` or `is_ignored` makes no object.
        """
        if is_background(category):
            self.note(_BACKGROUND, where)
            return
        if is_ignored(category):
            self.ignore(where, draw, _IGNORED)
            return
        mask = self._drawn(where, draw)
        if mask is None:
            return
        number = self._numbers.setdefault(len(self._numbers) if key is None else key, len(self._masks) + 1)
        self._masks[number] = self._masks[number] | mask if number in self._masks else mask
        if category is not None:
            self._categories[number] = category.strip()

    def ignore(self, where: str, draw: Draw, reason: str) -> None:
        """Draw a region that is neither object nor background; `reason` says why."""
        self.note(reason, where)
        mask = self._drawn(where, draw)
        if mask is not None:
            self._ignored = mask if self._ignored is None else self._ignored | mask

    def note(self, reason: str, where: str, severity: int = NOTE, details: str = "") -> None:
        """Remember a flaw."""
        self._flaws.append(Flaw(reason, where, severity, details))

    def sample(self) -> SegmentationSample:
        """The sample with the objects that were added; it may have none."""
        return SegmentationSample.from_masks(
            self._name, self._image, self._masks, self._categories, ignored=self._ignored, flaws=self._flaws
        )

    def _drawn(self, where: str, draw: Draw) -> Mask | None:
        """The upright mask; None if it cannot be drawn or is empty, which is noted."""
        reasons: list[str] = []
        try:
            mask = draw(self._shape, reasons)
        except (ValueError, TypeError, OverflowError) as error:
            self.note(UNUSABLE, where, BAD, str(error))
            return None
        empty = not mask.any()
        if empty:
            reasons = [EMPTY if {NO_OUTLINE, STRAY}.isdisjoint(reasons) else NO_OUTLINE]
        for reason in dict.fromkeys(reasons):
            self.note(reason, where, MENDED)
        return None if empty else upright(mask, self._orientation)


def is_background(category: Any) -> bool:
    """Whether a class name says that there is no object, as LabelMe's `_background_`."""
    return _plain(category) in NO_OBJECTS


def is_ignored(category: Any) -> bool:
    """Whether a class name says that there is neither object nor background, as LabelMe's `__ignore__`."""
    return _plain(category) in TO_IGNORE


def _plain(category: Any) -> str:
    return "".join(letter for letter in str(category).casefold() if letter.isalnum())


def drawn_frame(image_path: Path, size: Size | None, *, ignore_exif: bool) -> tuple[Size, int, list[Flaw]]:
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


def require_size(image: Path, shape: Size, size: Size | None, source: Path | str) -> None:
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
