"""Image files as arrays of the numbers that they store: decoding, orientation, what is refused.

Pillow decodes, because it reports a truncated file where OpenCV fills the rest with grey and says nothing. OpenCV only
helps with what Pillow cuts down or does not know: 16-bit colour, and TIFF of 64-bit or colour floats. TIFF of more
bands, or with its bands one after the other, is decoded as grey images, see `_decode_bands`.
"""

import contextlib
import functools
import io
import os
import stat
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import cv2
import numpy as np
from PIL import Image, TiffImagePlugin, UnidentifiedImageError

from thfuse_sam.arrays import Array, Size
from thfuse_sam.errors import ImageKindError, ImageReadError
from thfuse_sam.files import told_by_head
from thfuse_sam.time_limit import within

# A file that claims more than this is refused before it is decoded: a few kilobytes can ask for gigabytes.
MAX_PIXELS = 89_478_485

# A disk or a network that no longer answers must not stop a run for ever.
READ_SECONDS = 120.0

_TOO_LARGE = f"more than {MAX_PIXELS // 1_000_000} megapixels; scale the image down"
# What an error says about a file that cannot be read; of any other error, its own text is shown.
_REASONS: dict[type[Exception], str] = {
    FileNotFoundError: "no such file; check the path",
    PermissionError: "permission denied; make the file readable",
    Image.DecompressionBombError: _TOO_LARGE,
    Image.DecompressionBombWarning: _TOO_LARGE,
    UnidentifiedImageError: "not an image of a known format; use PNG, JPEG, BMP, TIFF or WebP",
    MemoryError: "memory does not suffice for the image, or it is damaged; close other programs",
}

# Formats that are recognised by a file's content, whatever its suffix says. Pillow's other decoders are not let near
# files from unknown sources.
FORMATS = ("PNG", "JPEG", "BMP", "DIB", "TIFF", "GIF", "WEBP")
# Tags of TIFF, and of EXIF, which shares them.
_WIDTH, _HEIGHT, _BITS_PER_SAMPLE, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION = 256, 257, 258, 259, 262, 274
_STRIP_OFFSETS, _SAMPLES, _ROWS_PER_STRIP, _STRIP_BYTES, _PLANAR, _PREDICTOR = 273, 277, 278, 279, 284, 317
_TILE_WIDTH, _TILE_OFFSETS, _TILE_BYTES, _SAMPLE_FORMAT, _GDAL_NODATA = 322, 324, 325, 339, 42113
# Those that say where the pixels lie and how they are stored.
_DATA_TAGS = (
    _WIDTH, _HEIGHT, _COMPRESSION, 266, _STRIP_OFFSETS, _ROWS_PER_STRIP, _STRIP_BYTES, _PREDICTOR, _TILE_WIDTH, 323,
    _TILE_OFFSETS, _TILE_BYTES,
)  # fmt: skip
_SIGNED, _GREY, _SEPARATE, _DIFFERENCES, _FLOAT_DIFFERENCES, _JPEG_KINDS = 2, 1, 2, 2, 3, (6, 7)  # values of these tags

_T = TypeVar("_T")


@dataclass(frozen=True)
class DecodedImage:
    """What an image file stores, upright."""

    values: Array  # HxW, or HxWxC in the file's order: RGB, RGBA, or its bands; 1-bit as uint8 0 and 255
    has_alpha: bool = False  # whether the last channel is transparency
    nodata: tuple[float, ...] = ()  # numbers that mean "nothing measured", as a GeoTIFF says

    @property
    def colours(self) -> Array:
        return colours(self.values)


def colours(values: Array) -> Array:
    """HxW or HxWxC without alpha and other channels: HxW, or HxWx3."""
    if values.ndim == 2:
        return values
    return values[:, :, :3] if values.shape[2] >= 3 else values[:, :, 0]


class Refusal(ValueError):
    """Why a sound file is not read, in words that follow its path in the message."""


def within_read_seconds(read: Callable[..., _T]) -> Callable[..., _T]:
    """Let `read`, whose first argument is a path, raise ImageReadError if it takes longer than READ_SECONDS."""

    @functools.wraps(read)
    def read_in_time(path: Path, *arguments: Any, **named: Any) -> _T:
        try:
            return within(READ_SECONDS, lambda: read(path, *arguments, **named))
        except TimeoutError as error:
            raise ImageReadError(
                f"{path}: not read within {READ_SECONDS:g} s; does its disk or network still answer?"
            ) from error

    return read_in_time


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Like `as_read_error`; in addition refuses pipes, devices and empty files before they are opened."""
    with as_read_error(path):
        status = path.stat()
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            # Opening a pipe would wait for a writer.
            raise ImageReadError(f"{path}: a pipe or device, not an image; give the path of a file")
        if stat.S_ISREG(status.st_mode) and status.st_size == 0:
            raise ImageReadError(f"{path}: the file is empty; replace or remove it")
        yield


@contextlib.contextmanager
def as_read_error(path: Path) -> Iterator[None]:
    """Turn whatever a damaged file makes the decoders raise into one ImageReadError that names the file."""
    try:
        yield
    except ImageReadError:
        raise
    except Refusal as error:
        raise ImageKindError(f"{path}: {error}") from None
    # Pillow's plugins raise nearly every built-in exception on malformed content; any of them means "unreadable".
    except Exception as error:
        reason = next((reason for kind, reason in _REASONS.items() if isinstance(error, kind)), None)
        if os.path.isdir(path):  # noqa: PTH112 - Path.is_dir raises where a folder may not be searched
            reason = "a folder, not an image; give the path of a file"
        elif isinstance(error, UnidentifiedImageError):
            reason = _other_kind(path) or reason
        elif reason is None:
            details = " ".join(str(error).split()) or type(error).__name__
            reason = f"damaged or truncated image ({details}); replace or remove it"
        raise ImageReadError(f"{path}: {reason}") from error


def _other_kind(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            kind = told_by_head(file.read(512))
    except OSError:
        return None
    return kind and f"not an image but {kind}"


def check_pixels(size: Size) -> None:
    """Refuse an image of more than MAX_PIXELS; the order of its two sides does not matter."""
    if size[0] * size[1] > MAX_PIXELS:
        raise Image.DecompressionBombError


def decode(path: Path) -> DecodedImage:
    """What the file stores. Raises whatever the decoders raise, to be turned into ImageReadError by `reading`."""
    with path.open("rb") as file:
        return decode_file(file)


def decode_file(file: IO[bytes]) -> DecodedImage:
    """`decode` of an open file."""
    try:
        image = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        return _decode_unknown_tiff(file)
    check_pixels(image.size)
    nodata: tuple[float, ...] = ()
    is_signed = False
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        nodata = _nodata(image.tag_v2)
        is_signed = image.tag_v2.get(_SAMPLE_FORMAT, ())[:1] == (_SIGNED,)
        if image.tag_v2.get(_COMPRESSION, 1) not in _JPEG_KINDS and (hides_bands(image) or _is_separate(image.tag_v2)):
            return DecodedImage(_decode_bands(file, image.tag_v2), nodata=nodata)
    deep_colour = is_deep_colour(image, file)
    has_alpha = image.mode in ("LA", "RGBA")
    image.load()  # raises on a truncated file
    # Pillow turns a TIFF upright while loading and then reports orientation 1; OpenCV turns TIFF only.
    orientation = orientation_of(image)
    pixels = decode_by_opencv(file) if deep_colour else pixels_of(image)
    if is_signed and image.mode == "L":
        pixels = pixels.view(np.int8).astype(np.int16)  # Pillow takes them for numbers from 0 to 255
    return DecodedImage(upright(pixels, orientation), has_alpha, nodata)


def decode_page(page: Image.Image) -> DecodedImage:
    """`decode` of a page of an open TIFF; of colours Pillow keeps 8 bits."""
    nodata = _nodata(page.tag_v2) if isinstance(page, TiffImagePlugin.TiffImageFile) else ()
    return DecodedImage(pixels_of(page), page.mode in ("LA", "RGBA"), nodata)


def pixels_of(image: Image.Image) -> Array:
    """The pixels of a loaded image, not turned upright: HxW or HxWxC in the stored type, 1-bit as uint8."""
    if image.mode == "1":
        return np.where(np.asarray(image), np.uint8(255), np.uint8(0))
    if image.mode in ("L", "RGB", "I", "F", "LA", "RGBA") or image.mode.startswith("I;16"):
        return np.array(image)
    if image.mode == "La":
        return np.array(image.convert("L"))
    if image.mode in ("P", "PA"):
        # By way of RGBA, because a palette with transparent entries does not convert to RGB without a warning.
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def is_deep_colour(image: Image.Image, file: IO[bytes]) -> bool:
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


def decode_by_opencv(file: IO[bytes]) -> Array:
    """The pixels in their stored type, HxW, or HxWx3 or HxWx4 in the order RGBA."""
    file.seek(0)
    pixels = cv2.imdecode(np.frombuffer(file.read(), dtype=np.uint8), cv2.IMREAD_UNCHANGED)
    if pixels is None:
        raise ValueError("the pixels cannot be decoded")
    if pixels.ndim == 2 or pixels.shape[2] == 1:
        return pixels.reshape(pixels.shape[:2])
    return np.ascontiguousarray(pixels[:, :, [2, 1, 0, 3][: pixels.shape[2]]])  # from BGR or BGRA


def _decode_unknown_tiff(file: IO[bytes]) -> DecodedImage:
    """Read a TIFF of a kind that Pillow does not know: 64-bit or colour floats, several grey bands."""
    tags = tiff_tags(file)
    check_pixels(tiff_size(tags))
    samples, bits = int(tags.get(_SAMPLES, 1)), max(tags.get(_BITS_PER_SAMPLE, (8,)))
    if samples not in (1, 3, 4) or bits not in (32, 64) or tags.get(_PLANAR) == _SEPARATE:
        return DecodedImage(_decode_bands(file, tags), nodata=_nodata(tags))
    # OpenCV turns it upright. It fills rows that the file does not hold with zeros.
    starts, lengths = tags.get(_STRIP_OFFSETS, ()), tags.get(_STRIP_BYTES, ())
    ends = [int(start) + int(length) for start, length in zip(starts, lengths, strict=True)]
    rows = len(starts) * int(tags.get(_ROWS_PER_STRIP, tags[_HEIGHT]))
    if max(ends, default=0) > file.seek(0, os.SEEK_END) or (starts and rows < int(tags[_HEIGHT])):
        raise ValueError("the file does not hold all of its rows")
    return DecodedImage(decode_by_opencv(file), nodata=_nodata(tags))


def _decode_bands(file: IO[bytes], tags: TiffImagePlugin.ImageFileDirectory_v2) -> Array:
    """The bands of a TIFF, HxWxC upright, whatever their number, type and order in the file.

    Another directory, put behind the content, lets the same data be read as grey images: one for each band that is
    stored on its own, or else one in which the samples of a pixel are neighbours in a row. Raises Refusal.
    """
    samples, separate = int(tags.get(_SAMPLES, 1)), tags.get(_PLANAR) == _SEPARATE
    bits, kinds = tags.get(_BITS_PER_SAMPLE, (1,)), tags.get(_SAMPLE_FORMAT, (1,))
    predictor = tags.get(_PREDICTOR, 1)
    if (
        samples < 2
        or len({*bits}) > 1
        or len({*kinds}) > 1
        or tags.get(_COMPRESSION, 1) in _JPEG_KINDS
        or (predictor == _FLOAT_DIFFERENCES and not separate)
    ):
        raise Refusal(f"a TIFF of {samples} bands stored in a way that is not supported; save it as plain RGB or grey")
    check_pixels((int(tags[_WIDTH]) * max(1, samples // 4), int(tags[_HEIGHT])))
    file.seek(0)
    content, grey = file.read(), {_SAMPLES: 1, _PLANAR: 1, _PHOTOMETRIC: _GREY, _BITS_PER_SAMPLE: bits[0]}
    if _SAMPLE_FORMAT in tags:
        grey[_SAMPLE_FORMAT] = kinds[0]
    if separate:
        bands = []
        for band in range(samples):
            own: dict[int, Any] = dict(grey)
            for tag in {_STRIP_OFFSETS, _STRIP_BYTES, _TILE_OFFSETS, _TILE_BYTES} & set(tags):
                count = len(tags[tag]) // samples
                own[tag] = tags[tag][band * count : (band + 1) * count]
            bands.append(_decode_as_grey(content, tags, own))
        values = np.stack(bands, axis=2)
    else:
        grey |= {tag: int(tags[tag]) * samples for tag in (_WIDTH, _TILE_WIDTH) if tag in tags}
        row = _decode_as_grey(content, tags, {**grey, _PREDICTOR: 1})
        values = row.reshape(row.shape[0], -1, samples)
        if predictor == _DIFFERENCES:  # of each sample to that of the pixel at its left, in wrapping arithmetic
            values = np.cumsum(values, axis=1, dtype=values.dtype)
    return upright(values, tiff_orientation(tags))


def _decode_as_grey(content: bytes, tags: TiffImagePlugin.ImageFileDirectory_v2, changes: dict[int, Any]) -> Array:
    """HxW: what a TIFF holds if its directory has `changes`; not turned upright."""
    numbers = {tag: tags[tag] for tag in _DATA_TAGS if tag in tags} | changes
    entries = {tag: value if isinstance(value, tuple) else (value,) for tag, value in numbers.items()}
    order = "<" if content[:2] == b"II" else ">"
    # A directory of the classic and of the big form: counts and offsets of 4 or of 8 bytes.
    size, code, kind = (8, "Q", 16) if b"+" in content[:4] else (4, "I", 4)
    content += b"\0" * (len(content) % 2)
    directory = struct.pack(order + ("Q" if size == 8 else "H"), len(entries))
    lists, behind = b"", len(content) + len(directory) + len(entries) * (4 + 2 * size) + size
    for tag, values in sorted(entries.items()):
        packed = struct.pack(f"{order}{len(values)}{code}", *(int(value) for value in values))
        if len(packed) > size:
            packed, lists = struct.pack(order + code, behind + len(lists)), lists + packed
        directory += struct.pack(f"{order}HH{code}", tag, kind, len(values)) + packed
    start = struct.pack(order + code, len(content))
    file = io.BytesIO(content[:size] + start + content[2 * size :] + directory + b"\0" * size + lists)
    try:
        image = Image.open(file, formats=("TIFF",))
    except UnidentifiedImageError:
        return decode_by_opencv(file)
    image.load()
    return np.array(image)


def _is_separate(tags: TiffImagePlugin.ImageFileDirectory_v2) -> bool:
    """Whether bands are stored one after the other, which Pillow does not know in every type."""
    return int(tags.get(_SAMPLES, 1)) > 1 and tags.get(_PLANAR) == _SEPARATE


def hides_bands(image: Image.Image) -> bool:
    """Whether an image has bands besides those that Pillow shows."""
    shown = 3 if image.mode == "RGBX" else len(image.getbands())
    return isinstance(image, TiffImagePlugin.TiffImageFile) and int(image.tag_v2.get(_SAMPLES, 1)) > shown


def _nodata(tags: TiffImagePlugin.ImageFileDirectory_v2) -> tuple[float, ...]:
    """The number that stands for "nothing measured" in a GeoTIFF, as GDAL notes it in a text."""
    with contextlib.suppress(ValueError, AttributeError, IndexError):
        return (float(str(tags.get(_GDAL_NODATA, "")).strip("\0 ").split()[0]),)
    return ()


def tiff_tags(file: IO[bytes]) -> TiffImagePlugin.ImageFileDirectory_v2:
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


def tiff_size(tags: TiffImagePlugin.ImageFileDirectory_v2) -> Size:
    """(height, width) of the upright image."""
    width, height = int(tags[_WIDTH]), int(tags[_HEIGHT])
    return (width, height) if tiff_orientation(tags) >= 5 else (height, width)


def tiff_orientation(tags: TiffImagePlugin.ImageFileDirectory_v2) -> int:
    """EXIF orientation 1..8."""
    value = tags.get(_ORIENTATION, 1)
    return value if value in range(1, 9) else 1


def orientation_of(image: Image.Image) -> int:
    """EXIF orientation 1..8; 1 where there is none or it is unreadable."""
    try:
        # PngImageFile.getexif decodes the whole image; the base class's method uses what has been read already.
        value = Image.Image.getexif(image).get(_ORIENTATION, 1)
    # Broken metadata is common in the wild and no reason to refuse a picture that decodes.
    except (OSError, ValueError, LookupError, TypeError, SyntaxError, OverflowError, struct.error):
        return 1
    return value if value in range(1, 9) else 1


def png_has_metadata_after_pixels(file: IO[bytes]) -> bool:
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


def upright(pixels: Array, orientation: int) -> Array:
    """Undo an EXIF orientation: 2-4 are flips and a half turn, 5-8 swap height and width."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
