"""What the numbers and colours of a mask image mean: one object, classes, or objects.

Where the file or its folder makes that certain it is read so; otherwise it is refused, naming what was found.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from thfuse_sam.arrays import Array, Mask
from thfuse_sam.images import StoredPixels, luma, upright
from thfuse_sam.options.shared import AnnotationReading

Kind = Literal["binary", "classes", "instances", "alpha"]

VOID = 255  # in maps of classes and objects: neither object nor background; so is 65535
_VOID_COLOUR = 0xE0E0C0  # VOID in the colours of Pascal VOC
_VOC_COLOURS = ((0, 0, 0), (128, 0, 0), (0, 128, 0))  # the first colours of Pascal VOC's palette
_FEW_LEVELS = 8  # in a mask with no more levels, any flat region between 0 and the largest is a class or an object
_SMALL = 64  # in a mask with only smaller values, several values are classes or objects, not grey levels
_MAX_COLOURS = 1000  # an image with more colours is a photo, no map
_MAX_NUMBER = 65535
_FLAT = 0.1  # fraction of the largest value by which levels in a flat region of a JPEG differ at most
_HUE, _LEAST_OF_HUE = 0.25, 0.02  # share of the largest value by which another colour differs; share of its pixels
_SHOWN_VALUES = 6


@dataclass(frozen=True)
class MaskValues:
    """The objects of a mask image."""

    labels: npt.NDArray[np.int32]  # HxW; 0 is no object
    names: dict[int, str] = field(default_factory=dict)  # class name by label
    ignored: Mask | None = None  # HxW

    def turned(self, orientation: int) -> "MaskValues":
        """The mask with an EXIF orientation undone."""
        ignored = None if self.ignored is None else upright(self.ignored, orientation)
        return MaskValues(upright(self.labels, orientation), self.names, ignored)


def mask_values(pixels: StoredPixels, kind: Kind | None, reading: AnnotationReading) -> MaskValues:
    """The objects in a mask file; `kind` is what its folder says.

    Raises ValueError: the kind is not certain, or the file cannot be of this kind.
    """
    if reading.mask_values:
        codes = _codes(pixels)
        inside = np.isin(codes, [_code(value) for value in reading.mask_values])
        ignored = np.zeros_like(inside) if reading.ignore_value is None else codes == reading.ignore_value
        return _one_object(inside & ~ignored, ignored)
    chosen = kind if reading.mask_kind == "auto" else reading.mask_kind
    chosen = chosen or _certain_kind(pixels)
    if chosen in ("classes", "instances"):
        return _numbered(pixels, reading.ignore_value, named=chosen == "classes")
    values = pixels.alpha if chosen == "alpha" else _grey(pixels)
    if values is None:
        raise ValueError("has no alpha channel; give another `mask_kind`")
    ignored = np.zeros(values.shape, bool) if reading.ignore_value is None else values == reading.ignore_value
    return _one_object(over_half(np.where(ignored, 0, values)), ignored)


def over_half(values: Array) -> Mask:
    """Where a binary mask exceeds half of its largest value.

    Half, because JPEG leaves small values around a mask: if every value above 0 counted, the mask would grow.
    """
    numbers = np.nan_to_num(values.astype(np.float64))
    inside: Mask = numbers * 2 > numbers.max(initial=0.0)
    return inside


def _one_object(inside: Mask, ignored: Mask) -> MaskValues:
    return MaskValues(inside.astype(np.int32), {}, ignored if ignored.any() else None)


def _numbered(pixels: StoredPixels, ignore_value: int | None, *, named: bool) -> MaskValues:
    """One object for each number or colour but 0 and black; `named`: it is the class of the object."""
    if not pixels.exact:
        raise ValueError("JPEG does not keep numbers exactly, nor does WebP; use PNG, BMP or TIFF")
    if np.issubdtype(pixels.values.dtype, np.floating) and (pixels.values % 1).any():
        raise ValueError("holds fractions, which are no numbers of classes or objects; give another `mask_kind`")
    if pixels.values.ndim == 3 and _is_grey(pixels):  # numbers that were written three times
        pixels = replace(pixels, values=pixels.values[..., 0])
    codes = _codes(pixels)
    codes = np.where(pixels.alpha == 0, 0, codes) if pixels.alpha is not None and pixels.alpha.any() else codes
    values = np.unique(codes)
    is_colour = pixels.values.ndim == 3
    if not is_colour and (values[0] < 0 or values[-1] > _MAX_NUMBER):
        raise ValueError(f"numbers objects outside 0 to {_MAX_NUMBER}; renumber them")
    if is_colour and len(values) > _MAX_COLOURS:
        raise ValueError(f"has {len(values)} colours, which are no classes or objects; give `mask_kind`")
    void = ignore_value
    if void is None:
        # A file that counts beyond 255 means an object by it.
        void = _VOID_COLOUR if is_colour else values[-1] if values[-1] in (VOID, _MAX_NUMBER) else -1
    ignored = codes == void
    shown = values[(values != 0) & (values != void)]
    if is_colour:
        numbers = np.zeros(codes.shape, np.int32)
        for number, value in enumerate(shown, 1):
            numbers[codes == value] = number
        names = {number: _text(int(value), is_colour) for number, value in enumerate(shown, 1)}
    else:
        numbers = np.where(ignored, 0, codes).astype(np.int32)
        names = {int(value): _text(int(value), is_colour) for value in shown}
    return MaskValues(numbers, names if named else {}, ignored if ignored.any() else None)


def _certain_kind(pixels: StoredPixels) -> Kind:
    """The kind that the file itself shows. Raises ValueError if several are possible."""
    if pixels.alpha is not None and pixels.alpha.min() != pixels.alpha.max():
        opaque = over_half(pixels.alpha)
        for shown in (np.unique(_codes(pixels)[where]) for where in (opaque, ~opaque)):
            if 1 < len(shown) <= _SMALL:
                raise ValueError(f"has an alpha channel and {len(shown)} colours; say by `mask_kind` what counts")
        return "alpha"
    grey, values = _is_grey(pixels), np.unique(_codes(pixels))
    if not grey and not pixels.exact and _has_hues(pixels.values):
        _refuse("several colours")
    if not grey and pixels.exact:
        if pixels.palette is not None and tuple(map(tuple, pixels.palette[:3].tolist())) == _VOC_COLOURS:
            return "classes"
        has_black = not (pixels.palette[0].any() if pixels.palette is not None else values[0])
        if len(values) > 2 or not has_black:
            _refuse(f"{len(values)} colours ({_texts(values, pixels.values.ndim == 3)})")
        return "binary"
    levels = _grey(pixels)
    values = np.unique(levels)
    if pixels.exact and len(values) == 2 and values[0] != 0:
        _refuse(f"the values {_texts(values)} and no 0")
    if len(values) > 2 and _has_chosen_levels(levels, values, pixels.exact):
        _refuse(f"{_texts(values)}: {len(values)} values up to {values[-1]:g}")
    return "binary"


def _refuse(found: str) -> None:
    remedy = "say by `mask_kind` what they are, or by `mask_values` which of them are the object"
    raise ValueError(f"has {found}, so it is no binary mask; {remedy}")


def _has_chosen_levels(levels: Array, values: Array, exact: bool) -> bool:
    """Whether levels between 0 and the largest are classes or objects, and not soft borders of one object."""
    largest = float(values[-1])
    if exact and (len(values) == 3 or (np.issubdtype(levels.dtype, np.integer) and largest < _SMALL)):
        return True
    # Along a soft border the levels change from pixel to pixel; a class or an object is flat.
    kernel = np.ones((3, 3) if exact else (5, 5), np.uint8)
    numbers = levels.astype(np.float32)
    flat = cv2.dilate(numbers, kernel) - cv2.erode(numbers, kernel) <= (0 if exact else _FLAT * largest)
    if exact and len(values) <= _FEW_LEVELS:
        return bool((flat & (levels > 0) & (levels < largest)).any())
    between = (levels > largest / 4) & (levels < largest * 3 / 4)
    beside_flat = cv2.dilate((flat & between).astype(np.uint8), kernel) > 0
    return int(np.count_nonzero(beside_flat & between)) * 2 > int(np.count_nonzero(between))


def _has_hues(rgb: Array) -> bool:
    """Whether the bright regions of a mask in colours have several, by more than compression makes of one."""
    brightest = rgb.max(axis=2)
    bright = over_half(brightest).astype(np.uint8)
    inner = cv2.erode(bright, np.ones((5, 5), np.uint8))
    shown = rgb[(inner if inner.any() else bright) > 0].astype(np.float32)
    differs = np.abs(shown - np.median(shown, axis=0)).max(axis=1) > _HUE * float(brightest.max())
    return bool(differs.mean() > _LEAST_OF_HUE)


def _is_grey(pixels: StoredPixels) -> bool:
    if pixels.palette is not None:
        used = pixels.palette[np.minimum(np.unique(pixels.values), len(pixels.palette) - 1)]
        return bool((used == used[:, :1]).all())
    return pixels.values.ndim == 2 or bool((pixels.values == pixels.values[..., :1]).all())


def _grey(pixels: StoredPixels) -> Array:
    """The pixels as one channel of brightness, HxW; numbers of one channel as they are."""
    values = pixels.values
    if pixels.palette is not None:
        values = pixels.palette[np.minimum(values, len(pixels.palette) - 1)]
    if values.ndim == 2:
        return np.nan_to_num(values)
    return luma(values) if values.dtype == np.uint8 else values.max(axis=2)


def _codes(pixels: StoredPixels) -> npt.NDArray[np.int64]:
    """One number for each value or colour: the values themselves, or 0xRRGGBB."""
    values = np.nan_to_num(pixels.values).astype(np.int64)
    if values.ndim == 2:
        return values
    return (values // 257 if pixels.values.dtype == np.uint16 else values) @ np.array([1 << 16, 1 << 8, 1])


def _code(text: str) -> int:
    """The number of a value or colour as it is typed."""
    numbers = [int(word) for word in text.split(",")]
    return numbers[0] if len(numbers) == 1 else numbers[0] << 16 | numbers[1] << 8 | numbers[2]


def _text(value: int, is_colour: bool = False) -> str:
    return f"{value >> 16},{value >> 8 & 255},{value & 255}" if is_colour else f"{value:g}"


def _texts(values: Sequence[Any] | Array, is_colour: bool = False) -> str:
    shown = " ".join(_text(value, is_colour) for value in values[:_SHOWN_VALUES])
    return shown if len(values) <= _SHOWN_VALUES else f"{shown} ..."
