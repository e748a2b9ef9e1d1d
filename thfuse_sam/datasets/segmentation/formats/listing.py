"""What a format finds in a folder: entries that can be read, and a line for each file that makes none."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from thfuse_sam.datasets.pairs import list_images
from thfuse_sam.datasets.segmentation.sample import SegmentationSample


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
    without_objects: int = 0  # images that the annotations list without an object, which is no mistake


def pair_with_masks(
    images_folder: Path,
    masks_folder: Path,
    masks: Mapping[str, Path],
    read: Callable[[str, Path, Path], SegmentationSample],
    ending: str = "",
) -> Listing:
    """Entries of images and masks that have the same name.

    Args:
        images_folder: the folder whose images are listed.
        masks_folder: the folder of the masks, for messages.
        masks: mask files by name.
        read: makes a sample from its name, the path of its image and the path of its mask.
        ending: text that may follow the image's name in the mask's name.

    Raises PairError: two images with one name.
    """
    images = list_images(images_folder)
    mask_names = {name: name if name in masks else name + ending for name in images}
    entries, problems = [], []
    for name, image in images.items():
        mask = masks.get(mask_names[name])
        if mask is None:
            problems.append(f"{image}: no mask of the same name in {masks_folder}")
        else:
            entries.append(Entry(name, image, partial(read, name, image, mask)))
    used = set(mask_names.values())
    unused = [path for name, path in masks.items() if name not in used]
    problems += [f"{path}: no image of the same name in {images_folder}" for path in unused]
    return Listing(entries, problems)
