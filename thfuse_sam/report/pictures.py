"""Pictures that every browser shows: images of a data set as the networks see them, masks as transparent layers."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from thfuse_sam.files import write_atomically
from thfuse_sam.images import write_image
from thfuse_sam.masks.outlines import thin_outlines
from thfuse_sam.masks.overlay import segment_colors
from thfuse_sam.report.page import copy_file

Uint8Image = npt.NDArray[np.uint8]

_SHOWN_BY_BROWSERS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
_OPACITY = 115  # of a segment's colour, 0 to 255
_OUTLINE_OPACITY = 235


def write_picture(stem: Path, image: Uint8Image, source: Path) -> Path:
    """Write `image` (uint8 HxW or HxWx3), which was read from `source`, as `stem` with a suffix; returns the path.

    Where a browser shows the same pixels from the file itself, that is copied, else (16 bits, TIFF, palettes, colour
    read as grey) a PNG is written. Raises OutputError.
    """
    suffix = source.suffix.lower()
    if suffix in _SHOWN_BY_BROWSERS and _is_plain(source, image.ndim):
        path = stem.with_name(stem.name + suffix)
        copy_file(source, path)
    else:
        path = stem.with_name(f"{stem.name}.png")
        write_image(path, image)
    return path


def write_thumbnail(path: Path, image: Uint8Image, width: int) -> None:
    """Write `image` as a picture at most `width` pixels wide; the suffix decides the format. Raises OutputError."""
    height, full = image.shape[:2]
    if full > width:
        size = (width, max(1, round(height * width / full)))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
    write_image(path, image)


def write_mask_layer(path: Path, label_map: npt.NDArray[Any]) -> None:
    """Write the segments of a label map (integers HxW, 0 is none) as a PNG to lay over pictures. Raises OutputError."""
    palette = np.zeros((int(label_map.max(initial=0)) + 1, 4), np.uint8)
    palette[1:, :3] = segment_colors(len(palette) - 1)
    palette[1:, 3] = _OPACITY
    layer = palette[label_map]
    edge = thin_outlines(label_map)
    layer[edge, :3] = (0.6 * layer[edge, :3] + 0.4 * 255).astype(np.uint8)
    layer[edge, 3] = _OUTLINE_OPACITY
    picture = Image.fromarray(layer)
    write_atomically(path, lambda file: picture.save(file, format="PNG"))


def _is_plain(source: Path, dimensions: int) -> bool:
    """Whether `source` is what its suffix says, has 8 bits a channel, and is grey or colour as the read image is.

    Files with EXIF are not: it may turn the image, and tells more than is to be passed on.
    """
    kind = _SHOWN_BY_BROWSERS[source.suffix.lower()]
    try:
        image = Image.open(source, formats=[kind])
    except UnidentifiedImageError:
        return False
    with image:
        if image.mode != ("L" if dimensions == 2 else "RGB") or "exif" in image.info:
            return False
    return kind == "JPEG" or _png_bits(source) == 8


def _png_bits(source: Path) -> int:
    with source.open("rb") as file:
        return file.read(25)[24]  # bit depth in IHDR, which is always the first chunk
