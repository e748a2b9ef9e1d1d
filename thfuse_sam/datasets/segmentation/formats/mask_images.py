"""Masks that are stored as images: binary ones, object numbers, and PNGs inside annotation files."""

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from thfuse_sam.errors import ImageReadError, SampleError
from thfuse_sam.images import image_size, read_infrared, read_stored_values, size_text

_LOSSLESS = (".png", ".bmp", ".tif", ".tiff")
_FEW_LEVELS = 64  # largest value below which several values are classes or objects, not grey levels
_LARGEST_NUMBER = 65535  # of an object


def require_same_size(image_path: Path, mask_path: Path) -> None:
    """Raise SampleError where the headers of an image and its mask tell of different sizes."""
    image, mask = image_size(image_path), image_size(mask_path)
    if image != mask:
        raise SampleError(
            f"{mask_path}: is {size_text(mask)}, its image {size_text(image)} (width x height); bring both to one size"
        )


def read_binary_mask(path: Path) -> npt.NDArray[np.bool_]:
    """A binary mask, bool HxW: true where it exceeds half of its largest value.

    Masks may be stored as 0 and 1, or as 0 and 255. Half, because JPEG writes small values around a mask: taking all
    that is not 0 would make it grow.

    Raises ImageReadError, and SampleError: the mask is empty, or is not binary.
    """
    values = read_infrared(path)
    largest = int(values.max())
    if largest == 0:
        raise SampleError(f"{path}: the mask is empty; label an object or remove the pair")
    levels = np.flatnonzero(np.bincount(values.ravel()))
    if path.suffix.lower() in _LOSSLESS and len(levels) > 2 and largest < _FEW_LEVELS:
        raise SampleError(
            f"{path}: has {len(levels)} values up to {largest}, so it is no binary mask; for objects 1, 2, ... "
            "name the folders images/ and instances/"
        )
    return np.asarray(values * 2.0 > largest)


def read_instance_mask(path: Path) -> npt.NDArray[np.int32]:
    """Object numbers, int32 HxW, 0 to 65535; of a palette image the indices, not the colours.

    Raises ImageReadError: unreadable, damaged, or of several channels.
    """
    values = read_stored_values(path)
    if int(values.max(initial=0)) > _LARGEST_NUMBER or int(values.min(initial=0)) < 0:
        raise ImageReadError(f"{path}: object numbers outside 0 to {_LARGEST_NUMBER}; renumber them")
    return values.astype(np.int32)


def decode_png_mask(content: bytes, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """A mask of (height, width) `shape` that is given as the bytes of a PNG, true where it is not black.

    Raises ValueError: no readable PNG, or of another size.
    """
    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            size = (image.height, image.width)
            # Compared before decoding, which makes an array of whatever size the header claims.
            pixels = np.array(image.convert("L")) if size == shape else None
    # Pillow's plugins raise nearly every built-in exception on malformed content.
    except Exception as error:
        raise ValueError(f"a mask is no readable PNG ({error})") from error
    if pixels is None:
        raise ValueError(f"a mask is {size_text(size)}, its corners say {size_text(shape)} (width x height)")
    return pixels > 0
