"""Masks as image files beside the images. A mask has the name of its image, or that name and `_mask`.

Binary masks, one object in each image. They may hold 0 and 1, or 0 and 255, or be blurred by JPEG::

    imgs/001.jpg          masks/001.png           also image/ + mask/, and images/ + masks/
    imgs/b/002.jpg        masks/b/002.png

Instance masks, in which 0 is background and k is object k::

    PNGImages/001.png     PedMasks/001_mask.png   as in Penn-Fudan
    images/001.jpg        instances/001.png

(L. Wang et al., "Object Detection Combining Recognition and Segmentation", ACCV 2007, made Penn-Fudan.)
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from thfuse_sam.datasets.pairs import list_images
from thfuse_sam.datasets.segmentation.formats.listing import Listing, pair_with_masks
from thfuse_sam.datasets.segmentation.sample import SegmentationSample
from thfuse_sam.errors import ImageReadError, SampleError
from thfuse_sam.images import image_size, read_infrared, read_stored_values, read_visible, size_text

ReadMask = Callable[[Path], npt.NDArray[np.int32]]  # file -> object numbers, HxW

_BINARY_FOLDERS = (("imgs", "masks"), ("image", "mask"), ("images", "masks"))
_INSTANCE_FOLDERS = (("PNGImages", "PedMasks"), ("images", "instances"))
_LOSSLESS = (".png", ".bmp", ".tif", ".tiff")
_FEW_LEVELS = 64  # in a mask with only smaller values, several values are classes or objects, not grey levels
_MAX_OBJECT_NUMBER = 65535


def find_binary_masks(root: Path) -> Listing | None:
    """Entries of a folder with binary masks; None if it has none. Raises PairError: two files with one name."""
    return _find(root, _BINARY_FOLDERS, read_binary_mask)


def find_instance_masks(root: Path) -> Listing | None:
    """Entries of a folder with instance masks; None if it has none. Raises PairError: two files with one name."""
    return _find(root, _INSTANCE_FOLDERS, read_instance_mask)


def _find(root: Path, folders: Sequence[tuple[str, str]], read_mask: ReadMask) -> Listing | None:
    """Entries of the first of `folders`, each (images, masks), that are in `root`."""
    for images, masks in ((root / images, root / masks) for images, masks in folders):
        if images.is_dir() and masks.is_dir():
            return pair_with_masks(images, masks, list_images(masks), partial(read, read_mask), "_mask")
    return None


def read(read_mask: ReadMask, name: str, image_path: Path, mask_path: Path) -> SegmentationSample:
    """An image and its objects; `read_mask` reads their numbers.

    Raises ImageReadError, and SampleError: an empty mask, or one of another size.
    """
    size, mask_size = image_size(image_path), image_size(mask_path)
    if size != mask_size:
        raise SampleError(
            f"{mask_path}: is {size_text(mask_size)}, its image {size_text(size)} (width x height); "
            "bring both to one size"
        )
    labels = read_mask(mask_path)
    if not labels.any():
        raise SampleError(f"{mask_path}: the mask is empty; label an object or remove the pair")
    return SegmentationSample(name, read_visible(image_path), labels)


def read_binary_mask(path: Path) -> npt.NDArray[np.int32]:
    """A binary mask, int32 HxW: 1 where it exceeds half of its largest value.

    Half, because JPEG leaves small values around a mask: if every value above 0 counted, the mask would grow.

    Raises ImageReadError, and SampleError: the mask is not binary.
    """
    values = read_infrared(path)
    largest = int(values.max())
    levels = np.flatnonzero(np.bincount(values.ravel()))
    if path.suffix.lower() in _LOSSLESS and len(levels) > 2 and largest < _FEW_LEVELS:
        raise SampleError(
            f"{path}: has {len(levels)} values up to {largest}, so it is no binary mask; for objects 1, 2, ... "
            "name the folders images/ and instances/"
        )
    return (values * 2.0 > largest).astype(np.int32)


def read_instance_mask(path: Path) -> npt.NDArray[np.int32]:
    """Object numbers, int32 HxW, 0 to 65535; in a palette image they are the indices, not the colours.

    Raises ImageReadError: unreadable, damaged, or of several channels.
    """
    values = read_stored_values(path)
    if int(values.max(initial=0)) > _MAX_OBJECT_NUMBER or int(values.min(initial=0)) < 0:
        raise ImageReadError(f"{path}: object numbers outside 0 to {_MAX_OBJECT_NUMBER}; renumber them")
    return values.astype(np.int32)
