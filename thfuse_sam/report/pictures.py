"""Pictures that every browser shows: images of a data set as the networks see them, masks as transparent layers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from thfuse_sam.arrays import Array, ImageArray, Size
from thfuse_sam.datasets.words import REPORT_PICTURES
from thfuse_sam.files import write_atomically
from thfuse_sam.images import write_image
from thfuse_sam.masks.outlines import thin_outlines
from thfuse_sam.masks.overlay import segment_colors
from thfuse_sam.report.page import copy_file

_SHOWN_BY_BROWSERS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG"}
_SEGMENT_OPACITY = 115  # 0 to 255
_OUTLINE_OPACITY = 235  # 0 to 255

_Labels = Array  # integers or bool HxW


class Pictures:
    """Writes the pictures of one report; each method returns the picture's address on the report's page.

    Names are the writer's own, such as "00001_ir", so that no image's name becomes part of an address. All methods
    raise OutputError.
    """

    def __init__(self, report: Path) -> None:
        """`report` is the folder of the report; pictures are written into its subfolder `pictures`."""
        self._folder = report / REPORT_PICTURES

    def write(self, name: str, image: ImageArray) -> str:
        """Write an image, uint8 HxW or HxWx3; the suffix of `name` decides the format."""
        write_image(self._folder / name, image)
        return self._address(name)

    def thumbnail(self, name: str, image: ImageArray, width: int) -> str:
        """Write an image, at most `width` pixels wide."""
        return self.write(name, shrink(image, width))

    def copy(self, stem: str, image: ImageArray, source: Path) -> str:
        """Write `image`, which was read from `source`, as `stem` with a suffix.

        The file itself is copied if a browser shows the same pixels from it. Otherwise (16 bits, TIFF, palettes, colour
        read as grey) a PNG is written.
        """
        suffix = source.suffix.lower()
        if suffix not in _SHOWN_BY_BROWSERS or not _is_plain(source, image.ndim):
            return self.write(f"{stem}.png", image)
        copy_file(source, self._folder / f"{stem}{suffix}")
        return self._address(f"{stem}{suffix}")

    def mask_layer(self, name: str, label_map: _Labels) -> str:
        """Write a label map (0 is "no segment") as a PNG to lay over pictures, transparent outside the segments."""
        palette = np.zeros((int(label_map.max(initial=0)) + 1, 4), np.uint8)
        palette[1:, :3] = segment_colors(len(palette) - 1)
        palette[1:, 3] = _SEGMENT_OPACITY
        layer = palette[label_map]
        edge = thin_outlines(label_map)
        layer[edge, :3] = (0.6 * layer[edge, :3] + 0.4 * 255).astype(np.uint8)
        layer[edge, 3] = _OUTLINE_OPACITY
        picture = Image.fromarray(layer)
        write_atomically(self._folder / name, lambda file: picture.save(file, format="PNG"))
        return self._address(name)

    def _address(self, name: str) -> str:
        return f"{self._folder.name}/{name}"


def spread(values: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of `values` at even distances, from the first to the last."""
    if len(values) <= count:
        return list(values)
    return [values[round(index * (len(values) - 1) / max(1, count - 1))] for index in range(count)]


def shrink(image: ImageArray, width: int, height: int | None = None) -> ImageArray:
    """The image, scaled down to at most `width` x `height` pixels (None: any height); the aspect ratio is kept."""
    full_height, full_width = image.shape[:2]
    scale = min(width / full_width, 1.0 if height is None else height / full_height)
    return resize(image, scaled_size(image.shape, scale)) if scale < 1 else image


def scaled_size(shape: Sequence[int], scale: float) -> Size:
    """(height, width) of an image of `shape` after scaling, at least one pixel each."""
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def resize(image: ImageArray, size: Size) -> ImageArray:
    """The image, uint8 HxW or HxWx3, resized to `size`, (height, width)."""
    smaller = size[0] < image.shape[0]
    resized = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)
    return np.asarray(resized, dtype=np.uint8)


def resize_labels(label_map: _Labels, size: Size) -> npt.NDArray[np.uint16]:
    """A label map HxW resized to `size`, (height, width); every pixel gets the label of the nearest original pixel."""
    resized = cv2.resize(label_map.astype(np.uint16), size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(resized, dtype=np.uint16)


def _is_plain(source: Path, dimensions: int) -> bool:
    """Whether a browser shows `source` as it was read: the format of its suffix, 8 bits per channel, no EXIF.

    EXIF may turn the image, and tells more than should be passed on. `dimensions`: of the image that was read: 2 for
    grey, 3 for colour. The file must be grey or colour as well.
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
    """Bits per channel of a PNG file."""
    with source.open("rb") as file:
        return file.read(25)[24]  # bit depth in IHDR, which is always the first chunk
