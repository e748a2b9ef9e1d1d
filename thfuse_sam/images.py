"""Reading and writing images: one reader for masks, training, fusion and metrics, so that all see the same pixels.

How values become 8-bit:

=====================  =========================================================================================
stored as              read as
=====================  =========================================================================================
8-bit                  unchanged
1-bit                  0 and 255
16-bit grey, integers  stretched from the image's 0.5 and 99.5 percentiles to 0 and 255; a constant image becomes 0
floats                 stretched in the same way
16-bit colour          visible: the full range becomes 0..255, that of 12 bits where no number is larger;
                       infrared: luma, then stretched as above
alpha                  dropped, so that no pixel is lost under a transparent one
palette                its colours
more than 3 bands      visible: the first three are red, green and blue
=====================  =========================================================================================

Of a stretched image, pixels without data (see `thermal.missing_pixels`) do not count, and get the value of the nearest
other pixel. How an infrared image is read may be changed by an `InfraredReading`.

The EXIF orientation is applied. Of a file with several frames or pages the first one is read.
"""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from thfuse_sam import false_colour
from thfuse_sam.arrays import Array, ImageArray, Mask, Size
from thfuse_sam.errors import OutputError
from thfuse_sam.files import write_atomically
from thfuse_sam.image_files import (
    FORMATS,
    DecodedImage,
    Refusal,
    as_read_error,
    check_pixels,
    colours,
    decode,
    decode_by_opencv,
    decode_file,
    hides_bands,
    is_deep_colour,
    orientation_of,
    pixels_of,
    png_has_metadata_after_pixels,
    reading,
    tiff_orientation,
    tiff_size,
    tiff_tags,
    upright,
    within_read_seconds,
)
from thfuse_sam.thermal import AS_STORED, InfraredReading, as_white_hot, fill, limits, missing_pixels, stretch

Modality = Literal["ir", "vi"]
MODALITIES: tuple[Modality, Modality] = ("ir", "vi")

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")

# Weights of red, green and blue in the luma of BT.601.
LUMA_WEIGHTS = (0.299, 0.587, 0.114)

_LARGEST_OF_12_BITS = 4095
_EXACT_FORMATS = ("PNG", "BMP", "DIB", "TIFF")  # those in which object numbers keep their values
_WRITE_OPTIONS: dict[str, dict[str, Any]] = {
    ".png": {"format": "PNG"},
    ".jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".bmp": {"format": "BMP"},
    ".tif": {"format": "TIFF"},
    ".tiff": {"format": "TIFF"},
    ".webp": {"format": "WEBP", "lossless": True},
}

# A tag of TIFF, and its bits for a smaller copy and for a mask of transparency.
_SUBFILE_TYPE, _NO_FRAME = 254, 1 | 4
_SEVERAL_MASKS = "holds several masks, as bands or as frames; write each into a file of its own"


def read_infrared(path: Path, how: InfraredReading = AS_STORED) -> ImageArray:
    """Read one infrared image as uint8 HxW, 0..255. A colour file gives its luma. Raises ImageReadError."""
    return read_infrared_and_missing(path, how)[0]


@within_read_seconds
def read_infrared_and_missing(path: Path, how: InfraredReading = AS_STORED) -> tuple[ImageArray, Mask | None]:
    """As `read_infrared`, and which pixels have no data (bool HxW; None: all have). Those are filled in the image."""
    with reading(path):
        return infrared_of(decode(path), how)


def infrared_of(stored: DecodedImage, how: InfraredReading) -> tuple[ImageArray, Mask | None]:
    """As `read_infrared_and_missing`, of an image that is decoded. Raises Refusal, and ValueError without a number."""
    grey, missing = _grey(*values_and_missing(stored, how), how.value_range)
    return as_white_hot(grey, how.polarity), missing


@within_read_seconds
def infrared_numbers(path: Path, how: InfraredReading = AS_STORED) -> tuple[Array, Mask] | None:
    """The numbers that an infrared image measured, HxW, and where they mean nothing, bool HxW; None: it is 8-bit.

    Raises ImageReadError.
    """
    with reading(path):
        return numbers_of(decode(path), how)


def numbers_of(stored: DecodedImage, how: InfraredReading = AS_STORED) -> tuple[Array, Mask] | None:
    """As `infrared_numbers`, of an image that is decoded. Raises Refusal."""
    values, missing = values_and_missing(stored, how)
    return None if missing is None or values.dtype == np.uint8 else (values, missing)


@within_read_seconds
def infrared_values_and_missing(path: Path, how: InfraredReading = AS_STORED) -> tuple[Array, Mask | None]:
    """The numbers that an infrared image stores, HxW, and which mean nothing, bool HxW; None: all mean something.

    Raises ImageReadError.
    """
    with reading(path):
        return values_and_missing(decode(path), how)


@within_read_seconds
def read_visible(path: Path) -> ImageArray:
    """Read one visible image as uint8 HxWx3 RGB, 0..255. A grey file is repeated. Raises ImageReadError."""
    with reading(path):
        return visible_of(decode(path))


def decode_visible(content: bytes, source: Path) -> ImageArray:
    """Like `read_visible`, from the bytes of an image that the file `source` embeds. Raises ImageReadError."""
    with as_read_error(source):
        return visible_of(decode_file(io.BytesIO(content)))


@dataclass(frozen=True)
class StoredPixels:
    """What an image file stores, upright: of a palette image the indices, of RGBA the colours under the alpha too."""

    values: Array  # HxW, or HxWx3 RGB
    palette: ImageArray | None  # Kx3 RGB, if `values` are indices
    alpha: Array | None  # HxW
    exact: bool  # whether the format keeps numbers as they are


@within_read_seconds
def read_stored_pixels(path: Path) -> StoredPixels:
    """The numbers that an image file stores, for masks, whose numbers have a meaning. Raises ImageReadError.

    One that holds several, as bands or as frames of one size, is refused.
    """
    with reading(path), path.open("rb") as file:
        try:
            image = Image.open(file, formats=FORMATS)
        except UnidentifiedImageError:
            stored = decode_file(file)
            if stored.values.ndim == 3 and stored.values.shape[2] != 3:
                raise Refusal(_SEVERAL_MASKS) from None
            return StoredPixels(stored.colours, None, None, exact=True)
        check_pixels(image.size)
        if hides_bands(image) or _frames(path, image) > 1:
            raise Refusal(_SEVERAL_MASKS)
        exact, deep_colour = image.format in _EXACT_FORMATS, is_deep_colour(image, file)
        image.load()
        orientation = orientation_of(image)
        palette, alpha = None, None
        if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
            alpha = upright(np.array(image.convert("RGBA").getchannel("A")), orientation)
        if image.mode in ("P", "PA"):
            values = np.array(image.getchannel("P") if image.mode == "PA" else image)
            palette = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
        elif image.mode == "1":
            values = np.array(image).astype(np.uint8)
        else:
            values = colours(decode_by_opencv(file) if deep_colour else pixels_of(image))
        return StoredPixels(upright(values, orientation), palette, alpha, exact)


def read_for_sam(path: Path, modality: Modality, how: InfraredReading = AS_STORED) -> ImageArray:
    """Read the image that SAM sees, uint8 HxWx3 RGB: visible in colour, infrared as grey repeated three times.

    Precomputed masks and masks that are made during training start from the same pixels, and so are equal.
    """
    return read_for_sam_and_missing(path, modality, how)[0]


def read_for_sam_and_missing(
    path: Path, modality: Modality, how: InfraredReading = AS_STORED
) -> tuple[ImageArray, Mask | None]:
    """As `read_for_sam`, and which pixels have no data and so get no mask (bool HxW; None: all have)."""
    if modality == "vi":
        return read_visible(path), None
    infrared, missing = read_infrared_and_missing(path, how)
    return as_rgb(infrared), missing


def image_size(path: Path) -> Size:
    """(height, width) of the upright image, from the file's header without decoding it. Raises ImageReadError."""
    return image_frame(path)[0]


@within_read_seconds
def image_form(path: Path) -> tuple[bool, int]:
    """Whether an image has more than 8 bits a sample, and how many frames of one size it holds, as its header says.

    Raises ImageReadError.
    """
    with reading(path), path.open("rb") as file:
        try:
            image = Image.open(file, formats=FORMATS)
        except UnidentifiedImageError:
            return bool(tiff_tags(file)), 1
        return image.mode[0] in "IF" or is_deep_colour(image, file), _frames(path, image)


def _frames(path: Path, image: Image.Image) -> int:
    """How many frames of one size a TIFF holds; 1 for other formats, whose frames move.

    Smaller copies and masks of transparency are no frames, and what is broken behind the first one does not count.
    """
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return 1
    frames = 1
    # Opened anew, because an error leaves an image unusable.
    with contextlib.suppress(Exception), path.open("rb") as file:
        pages = TiffImagePlugin.TiffImageFile(file)
        for number in range(1, pages.n_frames):
            pages.seek(number)
            tags = pages.tag_v2
            frames += pages.size == image.size and not tags.get(_SUBFILE_TYPE, 0) & _NO_FRAME
    return frames


def image_frame(path: Path) -> tuple[Size, int]:
    """`image_size`, and the EXIF orientation (1..8) that made the image upright. Raises ImageReadError."""
    with reading(path), path.open("rb") as file:
        try:
            image = Image.open(file, formats=FORMATS)
        except UnidentifiedImageError:
            return tiff_size(tags := tiff_tags(file)), tiff_orientation(tags)
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            # Pillow's `size` of a rotated TIFF depends on its version; the tags do not.
            return tiff_size(image.tag_v2), tiff_orientation(image.tag_v2)
        width, height = image.size
        if image.format == "PNG" and png_has_metadata_after_pixels(file):
            image.load()
        orientation = orientation_of(image)
        return ((width, height) if orientation >= 5 else (height, width)), orientation


def size_text(shape: Sequence[int]) -> str:
    """(height, width, ...) as messages show it, width first: "640x480"."""
    return f"{shape[1]}x{shape[0]}"


def luma(rgb: ImageArray) -> ImageArray:
    """BT.601 luma of uint8 HxWx3 RGB, rounded to uint8 HxW. Grey pixels keep their value exactly."""
    thousandths = np.array([round(1000 * weight) for weight in LUMA_WEIGHTS], dtype=np.uint32)
    return ((rgb.astype(np.uint32) @ thousandths + 500) // 1000).astype(np.uint8)


def as_rgb(image: ImageArray) -> ImageArray:
    """uint8 HxW repeated to HxWx3; HxWx3 as it is."""
    return image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2)


def write_image(path: Path, image: ImageArray) -> None:
    """Write uint8 HxW (grey) or HxWx3 (RGB) atomically; the suffix decides the format. Raises OutputError."""
    if image.dtype != np.uint8 or image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        raise ValueError(f"an image to write is uint8 HxW or HxWx3, got {image.dtype} {image.shape}")
    options = _WRITE_OPTIONS.get(path.suffix.lower())
    if options is None:
        raise OutputError(f"{path}: unknown image suffix; use one of {', '.join(IMAGE_SUFFIXES)}")
    picture = Image.fromarray(np.ascontiguousarray(image))
    write_atomically(path, lambda file: picture.save(file, **options))


def write_numbers(path: Path, values: Array) -> None:
    """Write HxW numbers atomically, uint16 or float32, as TIFF or (uint16) PNG by the suffix. Raises OutputError."""
    picture = Image.fromarray(np.ascontiguousarray(values))
    write_atomically(path, lambda file: picture.save(file, **_WRITE_OPTIONS[path.suffix]))


def values_and_missing(stored: DecodedImage, how: InfraredReading) -> tuple[Array, Mask | None]:
    """As `infrared_values_and_missing`, of an image that is decoded. Raises Refusal."""
    values = _infrared_values(stored, how)
    nodata = stored.nodata if how.nodata is None else (*stored.nodata, how.nodata)
    missing = _transparent(stored, how)
    if values.dtype != np.uint8 or nodata:
        missing = missing_pixels(values, nodata) | (False if missing is None else missing)
    return values, missing


def _infrared_values(stored: DecodedImage, how: InfraredReading) -> Array:
    """HxW: the numbers of the infrared image, uint8 where the file has 8 bits. Raises Refusal."""
    if how.channel is not None:
        channels = 1 if stored.values.ndim == 2 else stored.values.shape[2]
        if how.channel >= channels:
            raise Refusal(f"has channels 0 to {channels - 1}; give one of them as `ir_channel`, not {how.channel}")
        return stored.values.reshape(*stored.values.shape[:2], channels)[:, :, how.channel]
    values = stored.colours
    if values.ndim == 2:
        return values
    if values.dtype != np.uint8:
        return np.asarray(values.astype(np.float64) @ np.array(LUMA_WEIGHTS))
    return infrared_of_colours(values, how)


def infrared_of_colours(values: ImageArray, how: InfraredReading) -> ImageArray:
    """An infrared image in colours, uint8 HxWx3 RGB, as its grey values, HxW. Raises Refusal where they have none."""
    if how.colormap is not None:
        numbers, share = false_colour.turn_back(values, how.colormap)
        if share < 0.5:
            raise Refusal(
                f"has colours that are not those of {how.colormap}, but for {share:.0%} of the pixels; give "
                "another `ir_colormap`, or `ir_gray`"
            )
        return numbers
    colormap = None if how.gray else false_colour.recognise(values)
    if colormap is not None:
        raise Refusal(
            f"is drawn in false colours, like {colormap}, which are no temperatures; `ir_colormap` NAME turns them "
            "back, `ir_gray` takes their brightness"
        )
    if not how.gray and (share := false_colour.drawn_on_grey(values)):
        raise Refusal(
            f"is grey but for {share:.1%} of its pixels: infrared and visible images are swapped, or what is hot is "
            "coloured, or marks are drawn; `ir_gray` takes their brightness"
        )
    return luma(values)


def _transparent(stored: DecodedImage, how: InfraredReading) -> Mask | None:
    """Where an image is transparent, if its pixels are either transparent or opaque, which tells no data from data."""
    if not stored.has_alpha or how.channel is not None:
        return None
    alpha = stored.values[:, :, -1]
    opaque = np.iinfo(alpha.dtype).max
    transparent = alpha == 0
    return transparent if transparent.any() and {*np.unique(alpha)} == {0, opaque} else None


def _grey(
    values: Array, missing: Mask | None, value_range: tuple[float, float] | None = None
) -> tuple[ImageArray, Mask | None]:
    """HxW numbers as uint8, `missing` pixels filled, and `missing`, or None if no pixel is."""
    if missing is None or not missing.any():
        missing = None
    if values.dtype == np.uint8:
        return (values if missing is None else fill(values, missing)), missing
    valid = values if missing is None else values[~missing]
    if valid.size == 0:
        raise ValueError("no pixel is a finite number")
    low, high = limits(valid) if value_range is None else value_range
    if valid.max() < low or valid.min() > high:
        raise Refusal(
            f"has numbers from {valid.min():g} to {valid.max():g}, none in `ir_range` {low:g} {high:g}; "
            "give the range in the unit of the image"
        )
    grey = stretch(values, low, high)
    return (grey if missing is None else fill(grey, missing)), missing


def visible_of(stored: DecodedImage) -> ImageArray:
    """As `read_visible`, of an image that is decoded. Raises ValueError without a number."""
    pixels = stored.colours
    if pixels.dtype == np.uint16 and pixels.ndim == 3:
        largest = _LARGEST_OF_12_BITS if pixels.max() <= _LARGEST_OF_12_BITS else 65535
        pixels = ((pixels.astype(np.uint32) * 255 + largest // 2) // largest).astype(np.uint8)
    elif pixels.dtype != np.uint8 and pixels.ndim == 2:
        pixels = _grey(pixels, missing_pixels(pixels, stored.nodata))[0]
    elif pixels.dtype != np.uint8:
        finite = pixels[np.isfinite(pixels)]
        if finite.size == 0:
            raise ValueError("no pixel is a finite number")
        pixels = stretch(pixels, *limits(finite))
    return as_rgb(np.ascontiguousarray(pixels))
