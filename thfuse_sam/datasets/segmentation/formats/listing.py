"""What a format finds in a folder: entries that can be read, and a line for each file that makes none."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from thfuse_sam.datasets.pairs import list_images
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


def pair_with_masks(
    images_folder: Path,
    masks_folder: Path,
    masks: Mapping[str, Path],
    read: Callable[[str, Path, Path], SegmentationSample],
) -> Listing:
    """Entries of images and masks that have the same name.

    Args:
        images_folder: the folder whose images are listed.
        masks_folder: the folder of the masks, for messages.
        masks: mask files by name.
        read: makes a sample from its name, the path of its image and the path of its mask.

    Raises PairError: two images with one name.
    """
    images = list_images(images_folder)
    entries = [
        Entry(name, image, partial(read, name, image, masks[name])) for name, image in images.items() if name in masks
    ]
    problems = [no_mask(image, masks_folder) for name, image in images.items() if name not in masks]
    problems += [no_image(path, images_folder) for name, path in masks.items() if name not in images]
    return Listing(entries, problems)


def no_mask(image: Path, folder: Path) -> str:
    """The problem of an image that has no mask in `folder`."""
    return f"{image}: no mask of the same name in {folder}"


def no_image(mask: Path, folder: Path) -> str:
    """The problem of a mask whose image is not in `folder`."""
    return f"{mask}: no image of the same name in {folder}"
