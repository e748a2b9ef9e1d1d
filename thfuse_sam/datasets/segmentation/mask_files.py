"""Masks as image files beside their images, of equal names::

    imgs/001.jpg       masks/001.png             one binary mask an image (also image/ + mask/, images/ + masks/)
    PNGImages/001.png  PedMasks/001_mask.png     instances, as in Penn-Fudan: 0 is background, k is object k

Binary masks may be 0 and 1, 0 and 255, or blurred by JPEG: foreground is what exceeds half of the largest value.
(L. Wang et al., "Object Detection Combining Recognition and Segmentation", ACCV 2007, made Penn-Fudan.)
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from thfuse_sam.datasets.pairs import list_images
from thfuse_sam.datasets.segmentation.entries import Found
from thfuse_sam.datasets.segmentation.sample import SegmentationSample
from thfuse_sam.errors import ImageReadError, SampleError
from thfuse_sam.images import MAX_PIXELS, image_size, read_infrared, read_visible

BINARY_FOLDERS = (("imgs", "masks"), ("image", "mask"), ("images", "masks"))
INSTANCE_FOLDERS = (("PNGImages", "PedMasks"), ("images", "instances"))
MASK_ENDING = "_mask"  # that a mask's name may have after its image's name

_LOSSLESS = (".png", ".bmp", ".tif", ".tiff")
_INDEX_FORMATS = ("PNG", "BMP", "TIFF")
_FEW_LEVELS = 64  # largest value below which several values are classes or objects, not grey levels


@dataclass(frozen=True)
class BinaryMaskEntry:
    """An image and its binary mask: one object."""

    name: str
    image_path: Path
    mask_path: Path

    def read(self) -> SegmentationSample:
        require_same_size(self.image_path, self.mask_path)
        mask = foreground(read_infrared(self.mask_path), self.mask_path)
        return SegmentationSample(self.name, read_visible(self.image_path), mask.astype(np.int32))


@dataclass(frozen=True)
class InstanceMaskEntry:
    """An image and its instance mask."""

    name: str
    image_path: Path
    mask_path: Path

    def read(self) -> SegmentationSample:
        require_same_size(self.image_path, self.mask_path)
        labels = read_indices(self.mask_path)
        if not labels.any():
            raise SampleError(f"{self.mask_path}: the mask is empty; label an object or remove the pair")
        return SegmentationSample(self.name, read_visible(self.image_path), labels)


def folders_of(root: Path, choices: tuple[tuple[str, str], ...]) -> tuple[Path, Path] | None:
    """The first pair of folders of `choices` that is in `root`."""
    for images, masks in choices:
        if (root / images).is_dir() and (root / masks).is_dir():
            return root / images, root / masks
    return None


def find_binary_masks(root: Path) -> Found:
    """Entries of `imgs/` + `masks/` and the like. Raises PairError: two files with one name."""
    return _find(root, BINARY_FOLDERS, BinaryMaskEntry)


def find_instance_masks(root: Path) -> Found:
    """Entries of `PNGImages/` + `PedMasks/` and the like. Raises PairError: two files with one name."""
    return _find(root, INSTANCE_FOLDERS, InstanceMaskEntry)


def _find(
    root: Path,
    choices: tuple[tuple[str, str], ...],
    make: type[BinaryMaskEntry] | type[InstanceMaskEntry],
) -> Found:
    folders = folders_of(root, choices)
    assert folders is not None, "the format was told by these folders"
    images, masks = (list_images(folder) for folder in folders)
    entries, problems, used = [], [], set()
    for name, image in images.items():
        own = name if name in masks else name + MASK_ENDING
        if own not in masks:
            problems.append(f"{image}: no mask of the same name in {folders[1]}")
            continue
        used.add(own)
        entries.append(make(name, image, masks[own]))
    problems += [f"{masks[name]}: no image of the same name in {folders[0]}" for name in masks if name not in used]
    return Found(entries, problems)


def require_same_size(image_path: Path, mask_path: Path) -> None:
    """Raise SampleError where an image and its mask, told by their headers, differ in size."""
    image, mask = image_size(image_path), image_size(mask_path)
    if image != mask:
        raise SampleError(
            f"{mask_path}: is {mask[1]}x{mask[0]}, its image {image[1]}x{image[0]} (width x height); "
            "bring both to one size"
        )


def foreground(values: npt.NDArray[np.uint8], path: Path) -> npt.NDArray[np.bool_]:
    """Where a binary mask (uint8 HxW) exceeds half of its largest value. Raises SampleError: empty, or not binary.

    Half, because JPEG writes small values around a mask; taking all that is not 0 makes it grow.
    """
    largest = int(values.max())
    if largest == 0:
        raise SampleError(f"{path}: the mask is empty; label an object or remove the pair")
    levels = np.flatnonzero(np.bincount(values.ravel()))
    if path.suffix.lower() in _LOSSLESS and len(levels) > 2 and largest < _FEW_LEVELS:
        raise SampleError(
            f"{path}: has {len(levels)} values up to {largest}, so it is no binary mask; for objects 1, 2, ... "
            f"name the folders {INSTANCE_FOLDERS[1][0]}/ and {INSTANCE_FOLDERS[1][1]}/"
        )
    return np.asarray(values * 2.0 > largest)


def read_indices(path: Path) -> npt.NDArray[np.int32]:
    """The numbers stored in an image of one channel, int32 HxW; of a palette image the indices, not the colours.

    Raises ImageReadError: unreadable, damaged, or of several channels.
    """
    try:
        with Image.open(path, formats=_INDEX_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ImageReadError(f"{path}: too large; scale it down")
            if image.mode not in ("1", "L", "P", "I") and not image.mode.startswith("I;16"):
                raise ImageReadError(f"{path}: {image.mode} pixels, expected one channel of object numbers; convert it")
            values: npt.NDArray[Any] = np.array(image)
    except ImageReadError:
        raise
    # Pillow's plugins raise nearly every built-in exception on malformed content; any of them means "unreadable".
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageReadError(f"{path}: not a readable PNG, BMP or TIFF mask ({reason}); replace it") from error
    if int(values.max(initial=0)) > 65535 or int(values.min(initial=0)) < 0:
        raise ImageReadError(f"{path}: object numbers outside 0 to 65535; renumber them")
    return values.astype(np.int32)
