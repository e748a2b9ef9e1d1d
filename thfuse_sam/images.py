"""Reading and writing images: one reader for masks, training, fusion and metrics, so that all see the same pixels.

Pillow decodes, because it reports a truncated file where OpenCV fills the rest with grey and says nothing. OpenCV
only helps with what Pillow cuts down or does not know: 16-bit colour, and TIFF of 64-bit or colour floats.

How values become 8-bit:

=====================  =========================================================================================
stored as              read as
=====================  =========================================================================================
8-bit                  unchanged
1-bit                  0 and 255
16-bit grey, integers  stretched from the image's 0.5 and 99.5 percentiles to 0 and 255; a constant image becomes 0
floats                 stretched in the same way, by the finite pixels; NaN becomes 0
16-bit colour          visible: the full 16-bit range becomes 0..255; infrared: luma, then stretched as above
alpha                  dropped, so that no pixel is lost under a transparent one
palette                its colours
=====================  =========================================================================================

The EXIF orientation is applied. Of a file with several frames or pages the first one is read.
"""

import contextlib
import functools
import io
import os
import stat
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from thfuse_sam.errors import ImageReadError, OutputError
from thfuse_sam.files import write_atomically
from thfuse_sam.time_limit import within

Modality = Literal["ir", "vi"]
MODALITIES: tuple[Modality, Modality] = ("ir", "vi")

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")

# A file that claims more than this is refused before it is decoded: a few kilobytes can ask for gigabytes.
MAX_PIXELS = 89_478_485

# Weights of red, green and blue in the luma of BT.601.
LUMA_WEIGHTS = (0.299, 0.587, 0.114)

_STRETCH_PERCENTILES = (0.5, 99.5)

# A disk or a network that no longer answers must not stop a run for ever.
READ_SECONDS = 120.0

_TOO_LARGE = f"more than {MAX_PIXELS // 1_000_000} megapixels; scale the image down"
# What an error says about a file that cannot be read; of any other error, its own text is shown.
_REASONS: dict[type[Exception], str] = {
    FileNotFoundError: "no such file; check the path",
    PermissionError: "permission denied; make the file readable",
    Image.DecompressionBombError: _TOO_LARGE,
    Image.DecompressionBombWarning: _TOO_LARGE,
    UnidentifiedImageError: "not an image of a known format; use PNG, JPEG, BMP or TIFF",
    MemoryError: "memory does not suffice for the image, or it is damaged; close other programs",
}

# Formats that are recognised by a file's content, whatever its suffix says. Pillow's other decoders are not let near
# files from unknown sources.
_FORMATS = ("PNG", "JPEG", "BMP", "DIB", "TIFF", "GIF", "WEBP")
_EXACT_FORMATS = ("PNG", "BMP", "DIB", "TIFF")  # those in which object numbers keep their values
_WRITE_OPTIONS: dict[str, dict[str, Any]] = {
    ".png": {"format": "PNG"},
    ".jpg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".jpeg": {"format": "JPEG", "quality": 95, "subsampling": 0},
    ".bmp": {"format": "BMP"},
    ".tif": {"format": "TIFF"},
    ".tiff": {"format": "TIFF"},
}
# Tags of TIFF, and of EXIF, which shares them.
_WIDTH, _HEIGHT, _BITS_PER_SAMPLE, _ORIENTATION = 256, 257, 258, 274
_STRIP_OFFSETS, _ROWS_PER_STRIP, _STRIP_BYTES = 273, 278, 279

ImageArray = npt.NDArray[np.uint8]
_T = TypeVar("_T")


def _within_read_seconds(read: Callable[[Path], _T]) -> Callable[[Path], _T]:
    """Let `read` raise ImageReadError if it takes longer than READ_SECONDS."""

    @functools.wraps(read)
    def read_in_time(path: Path) -> _T:
        try:
            return within(READ_SECONDS, lambda: read(path))
        except TimeoutError as error:
            raise ImageReadError(
                f"{path}: not read within {READ_SECONDS:g} s; does its disk or network still answer?"
            ) from error

    return read_in_time


@_within_read_seconds
def read_infrared(path: Path) -> ImageArray:
    """Read one infrared image as uint8 HxW, 0..255. A colour file gives its luma. Raises ImageReadError."""
    with reading(path):
        pixels = _decode(path)
        if pixels.dtype == np.uint8:
            return pixels if pixels.ndim == 2 else luma(pixels)
        if pixels.ndim == 3:
            pixels = pixels.astype(np.float64) @ np.array(LUMA_WEIGHTS)
        return _stretch(pixels)


@_within_read_seconds
def read_visible(path: Path) -> ImageArray:
    """Read one visible image as uint8 HxWx3 RGB, 0..255. A grey file is repeated. Raises ImageReadError."""
    with reading(path):
        return _to_rgb(_decode(path))


def decode_visible(content: bytes, source: Path) -> ImageArray:
    """Like `read_visible`, from the bytes of an image that the file `source` embeds. Raises ImageReadError."""
    with _as_read_error(source):
        return _to_rgb(_decode_file(io.BytesIO(content)))


@dataclass(frozen=True)
class StoredPixels:
    """What an image file stores, upright: of a palette image the indices, of RGBA the colours under the alpha too."""

    values: npt.NDArray[Any]  # HxW, or HxWx3 RGB
    palette: npt.NDArray[np.uint8] | None  # Kx3 RGB, if `values` are indices
    alpha: npt.NDArray[Any] | None  # HxW
    exact: bool  # whether the format keeps numbers as they are


@_within_read_seconds
def read_stored_pixels(path: Path) -> StoredPixels:
    """The numbers that an image file stores, for masks, whose numbers have a meaning. Raises ImageReadError."""
    with reading(path), path.open("rb") as file:
        try:
            image = Image.open(file, formats=_FORMATS)
        except UnidentifiedImageError:
            return StoredPixels(_decode_unknown_tiff(file), None, None, exact=True)
        _check_pixels(image.size)
        exact, deep_colour = image.format in _EXACT_FORMATS, _is_deep_colour(image, file)
        image.load()
        orientation = _orientation(image)
        palette, alpha = None, None
        if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
            alpha = np.array(image.convert("RGBA").getchannel("A"))
        if deep_colour:
            values = _decode_by_opencv(file)
        elif image.mode in ("P", "PA"):
            values = np.array(image.getchannel("P") if image.mode == "PA" else image)
            palette = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
        else:
            values = np.array(image).astype(np.uint8) if image.mode == "1" else _pixels(image)
        upright_alpha = None if alpha is None else upright(alpha, orientation)
        return StoredPixels(upright(values, orientation), palette, upright_alpha, exact)


def read_for_sam(path: Path, modality: Modality) -> ImageArray:
    """Read the image that SAM sees, uint8 HxWx3 RGB: visible in colour, infrared as grey repeated three times.

    Precomputed masks and masks that are made during training start from the same pixels, and so are equal.
    """
    return as_rgb(read_infrared(path)) if modality == "ir" else read_visible(path)


def image_size(path: Path) -> tuple[int, int]:
    """(height, width) of the upright image, from the file's header without decoding it. Raises ImageReadError."""
    return image_frame(path)[0]


def image_frame(path: Path) -> tuple[tuple[int, int], int]:
    """`image_size`, and the EXIF orientation (1..8) that made the image upright. Raises ImageReadError."""
    with reading(path), path.open("rb") as file:
        try:
            image = Image.open(file, formats=_FORMATS)
        except UnidentifiedImageError:
            return _tiff_size(tags := _tiff_tags(file)), _tiff_orientation(tags)
        if isinstance(image, TiffImagePlugin.TiffImageFile):
            # Pillow's `size` of a rotated TIFF depends on its version; the tags do not.
            return _tiff_size(image.tag_v2), _tiff_orientation(image.tag_v2)
        width, height = image.size
        if image.format == "PNG" and _png_has_metadata_after_pixels(file):
            image.load()
        orientation = _orientation(image)
        return ((width, height) if orientation >= 5 else (height, width)), orientation


def upright(pixels: npt.NDArray[Any], orientation: int) -> npt.NDArray[Any]:
    """Undo an EXIF orientation: 2-4 are flips and a half turn, 5-8 swap height and width."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


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


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Like `_as_read_error`; in addition refuses pipes, devices and empty files before they are opened."""
    with _as_read_error(path):
        status = path.stat()
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            # Opening a pipe would wait for a writer.
            raise ImageReadError(f"{path}: a pipe or device, not an image; give the path of a file")
        if stat.S_ISREG(status.st_mode) and status.st_size == 0:
            raise ImageReadError(f"{path}: the file is empty; replace or remove it")
        yield


@contextlib.contextmanager
def _as_read_error(path: Path) -> Iterator[None]:
    """Turn whatever a damaged file makes the decoders raise into one ImageReadError that names the file."""
    try:
        yield
    except ImageReadError:
        raise
    # Pillow's plugins raise nearly every built-in exception on malformed content; any of them means "unreadable".
    except Exception as error:
        reason = next((reason for kind, reason in _REASONS.items() if isinstance(error, kind)), None)
        if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises where a folder may not be searched
            reason = "a folder, not an image; give the path of a file"
        elif reason is None:
            details = " ".join(str(error).split()) or type(error).__name__
            reason = f"damaged or truncated image ({details}); replace or remove it"
        raise ImageReadError(f"{path}: {reason}") from error


def _check_pixels(size: tuple[int, int]) -> None:
    """Refuse an image of more than MAX_PIXELS; the order of its two sides does not matter."""
    if size[0] * size[1] > MAX_PIXELS:
        raise Image.DecompressionBombError


def _decode(path: Path) -> npt.NDArray[Any]:
    """The upright pixels as stored, HxW or HxWx3 RGB; 1-bit becomes uint8, alpha and palette are resolved."""
    with path.open("rb") as file:
        return _decode_file(file)


def _decode_file(file: IO[bytes]) -> npt.NDArray[Any]:
    """`_decode` of an open file."""
    try:
        image = Image.open(file, formats=_FORMATS)
    except UnidentifiedImageError:
        return _decode_unknown_tiff(file)
    _check_pixels(image.size)
    deep_colour = _is_deep_colour(image, file)
    image.load()  # raises on a truncated file
    # Pillow turns a TIFF upright while loading and then reports orientation 1; OpenCV turns TIFF only.
    orientation = _orientation(image)
    pixels = _decode_by_opencv(file) if deep_colour else _pixels(image)
    return upright(pixels, orientation)


def _pixels(image: Image.Image) -> npt.NDArray[Any]:
    """The pixels of a loaded image, not turned upright: HxW or HxWx3 RGB in the stored type, 1-bit as uint8."""
    if image.mode == "1":
        return np.where(np.asarray(image), np.uint8(255), np.uint8(0))
    if image.mode in ("L", "RGB", "I", "F") or image.mode.startswith("I;16"):
        return np.array(image)
    if image.mode in ("LA", "La"):
        return np.array(image.convert("L"))
    if image.mode in ("P", "PA"):
        # By way of RGBA, because a palette with transparent entries does not convert to RGB without a warning.
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def _is_deep_colour(image: Image.Image, file: IO[bytes]) -> bool:
    """Whether the file holds more than 8 bits a sample in a mode that Pillow cuts down to 8."""
    if image.mode not in ("RGB", "RGBA", "RGBX", "LA"):
        return False
    if image.format == "PNG":
        position = file.tell()
        file.seek(24)  # bit depth in IHDR, which is always the first chunk
        bit_depth = file.read(1)[0]
        file.seek(position)
        return bit_depth == 16
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return max(image.tag_v2.get(_BITS_PER_SAMPLE, (8,))) > 8
    return False


def _decode_by_opencv(file: IO[bytes]) -> npt.NDArray[Any]:
    """The pixels in their stored type, HxW or HxWx3 RGB; alpha is dropped."""
    file.seek(0)
    pixels = cv2.imdecode(np.frombuffer(file.read(), dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ValueError("the pixels cannot be decoded")
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        return pixels.reshape(pixels.shape[:2])
    return np.ascontiguousarray(pixels[:, :, 2::-1])  # BGR or BGRA to RGB


def _decode_unknown_tiff(file: IO[bytes]) -> npt.NDArray[Any]:
    """Read a TIFF of a sample type that Pillow does not know (64-bit or colour floats). OpenCV turns it upright."""
    tags = _tiff_tags(file)
    _check_pixels(_tiff_size(tags))
    # OpenCV fills rows that the file does not hold with zeros.
    starts, lengths = tags.get(_STRIP_OFFSETS, ()), tags.get(_STRIP_BYTES, ())
    ends = [int(start) + int(length) for start, length in zip(starts, lengths, strict=True)]
    rows = len(starts) * int(tags.get(_ROWS_PER_STRIP, tags[_HEIGHT]))
    if max(ends, default=0) > file.seek(0, os.SEEK_END) or (starts and rows < int(tags[_HEIGHT])):
        raise ValueError("the file does not hold all of its rows")
    return _decode_by_opencv(file)


def _tiff_tags(file: IO[bytes]) -> TiffImagePlugin.ImageFileDirectory_v2:
    """The tags of the first page; UnidentifiedImageError where the file is no TIFF."""
    file.seek(0)
    header = file.read(8)
    if header[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        raise UnidentifiedImageError("unknown image format")
    if b"+" in header[:4]:
        header += file.read(8)
    tags = TiffImagePlugin.ImageFileDirectory_v2(header)
    file.seek(tags.next)
    tags.load(file)
    return tags


def _tiff_size(tags: TiffImagePlugin.ImageFileDirectory_v2) -> tuple[int, int]:
    """(height, width) of the upright image."""
    width, height = int(tags[_WIDTH]), int(tags[_HEIGHT])
    return (width, height) if _tiff_orientation(tags) >= 5 else (height, width)


def _tiff_orientation(tags: TiffImagePlugin.ImageFileDirectory_v2) -> int:
    value = tags.get(_ORIENTATION, 1)
    return value if value in range(1, 9) else 1


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8; 1 where there is none or it is unreadable."""
    try:
        # PngImageFile.getexif decodes the whole image; the base class's method uses what has been read already.
        value = Image.Image.getexif(image).get(_ORIENTATION, 1)
    # Broken metadata is common in the wild and no reason to refuse a picture that decodes.
    except (OSError, ValueError, LookupError, TypeError, SyntaxError, OverflowError, struct.error):
        return 1
    return value if value in range(1, 9) else 1


def _png_has_metadata_after_pixels(file: IO[bytes]) -> bool:
    """Whether an EXIF or text chunk follows the pixel data, where a header-only look does not see it."""
    position = file.tell()
    file.seek(8)
    pixels_seen = metadata_follows = False
    while not metadata_follows and len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        pixels_seen |= kind == b"IDAT"
        metadata_follows = pixels_seen and kind in (b"eXIf", b"iTXt", b"zTXt", b"tEXt")
        file.seek(length + 4, os.SEEK_CUR)
    file.seek(position)
    return metadata_follows


def _stretch(values: npt.NDArray[Any]) -> ImageArray:
    """Scale numbers of any range to uint8 0..255 by robust percentiles over all channels; NaN becomes 0."""
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        raise ValueError("no pixel is a finite number")
    low, high = (float(value) for value in np.percentile(finite, _STRETCH_PERCENTILES))
    if high <= low:  # nearly all pixels are equal: a few small hot spots must not vanish
        low, high = float(finite.min()), float(finite.max())
    if high <= low:
        return np.zeros(values.shape, dtype=np.uint8)
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = (values.astype(np.float64) - low) * (255.0 / (high - low))
    return np.rint(np.nan_to_num(scaled, nan=0.0).clip(0.0, 255.0)).astype(np.uint8)


def _to_rgb(pixels: npt.NDArray[Any]) -> ImageArray:
    """Decoded pixels as a visible image, uint8 HxWx3."""
    if pixels.dtype == np.uint16 and pixels.ndim == 3:
        pixels = ((pixels.astype(np.uint32) + 128) // 257).astype(np.uint8)
    elif pixels.dtype != np.uint8:
        pixels = _stretch(pixels)
    return as_rgb(pixels)
