"""What a format finds in a folder: entries that can be read, and a line for each file that makes none."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from thfuse_sam.datasets.segmentation.sample import SegmentationSample

WITHOUT_OBJECTS = "images without an object, left out"


@dataclass(frozen=True)
class Entry:
    """One annotated image on disk."""

    name: str  # path below its folder without suffix
    image_path: Path  # the sample's `source`
    read: Callable[[], SegmentationSample]  # raises SampleError, ImageReadError or MaskReadError, naming the file


@dataclass(frozen=True)
class Listing:
    """What a format finds in a folder."""

    entries: Sequence[Entry]
    problems: list[str] = field(default_factory=list)  # a line for each file that makes no entry
    notes: Counter[str] = field(default_factory=Counter)  # what is left out without being a mistake -> how often


def no_mask(image: Path, folder: Path) -> str:
    """The problem of an image that has no mask in `folder`."""
    return f"{image}: no mask of the same name in {folder}"


def no_image(mask: Path, folder: Path) -> str:
    """The problem of a mask whose image is not in `folder`."""
    return f"{mask}: no image of the same name in {folder}"
