"""What a format is, and what it finds in a folder: entries that can be read, a line for each file that makes none."""

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
    without_objects: int = 0  # images that the annotations rightly list without an object


@dataclass(frozen=True)
class Format:
    """One way in which annotated images lie in a folder."""

    name: str
    layout: str  # for messages
    detect: Callable[[Path], bool]  # whether a folder has this format
    find: Callable[[Path], Listing]  # what is in such a folder


def mask_image_format(
    name: str, layout: str, folders: Sequence[tuple[str, str]], read: Callable[[str, Path, Path], SegmentationSample]
) -> Format:
    """A format of two folders, (images, masks) of which `folders` names the choices, with masks as image files.

    A mask is named as its image, or with "_mask" behind that. `read` is as for `pair_with_masks`.
    """

    def chosen(root: Path) -> tuple[Path, Path] | None:
        pairs = ((root / images, root / masks) for images, masks in folders)
        return next((pair for pair in pairs if pair[0].is_dir() and pair[1].is_dir()), None)

    def find(root: Path) -> Listing:
        pair = chosen(root)
        assert pair is not None, "the format was told by these folders"
        return pair_with_masks(*pair, list_images(pair[1]), read, "_mask")

    return Format(name, layout, lambda root: chosen(root) is not None, find)


def pair_with_masks(
    images_folder: Path,
    masks_folder: Path,
    masks: Mapping[str, Path],
    read: Callable[[str, Path, Path], SegmentationSample],
    ending: str = "",
) -> Listing:
    """Entries of images and masks that have the same name.

    Args:
        images_folder: its images are listed.
        masks_folder: named in problems.
        masks: mask files by name.
        read: makes a sample of a name, the path of an image and the path of its mask.
        ending: what a mask's name may have after its image's name.

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
