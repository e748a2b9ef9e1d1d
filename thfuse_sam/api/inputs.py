"""What callers give as images and masks: paths, PIL images and arrays, as the arrays that the package works on."""

import contextlib
import dataclasses
import os
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from thfuse_sam.errors import ImageSizeError, UsageError, shown
from thfuse_sam.images import (
    ImageArray,
    as_rgb,
    infrared_numbers,
    luma,
    read_infrared_and_missing,
    read_visible,
    size_text,
)
from thfuse_sam.masks.format import read_mask
from thfuse_sam.options.fields import Options
from thfuse_sam.options.shared import Polarity
from thfuse_sam.progress import Progress, is_watched, reporting_to
from thfuse_sam.thermal import InfraredReading, Mask, as_white_hot, missing_pixels, stretch

ImageInput: TypeAlias = str | os.PathLike[str] | Image.Image | npt.NDArray[Any]
MaskInput: TypeAlias = Any  # None, a path, `Masks`, or an array HxW: labels, bool, or float in [0, 1]
ValueRange: TypeAlias = tuple[float, float]
_Options = TypeVar("_Options", bound=Options)


def as_path(path: object, argument: str) -> Path:
    """The path of a file or folder; `argument` names it in errors. Raises UsageError."""
    if not isinstance(path, (str, os.PathLike)):
        raise UsageError(f"`{argument}` {shown(path)}: give a path")
    return Path(path)


def as_infrared(
    image: ImageInput, argument: str, value_range: ValueRange | None = None, ir_polarity: Polarity = "white-hot"
) -> ImageArray:
    """An infrared image as uint8 HxW, in which what is warm is bright; `argument` names it in errors.

    Raises UsageError and ImageReadError.
    """
    return as_infrared_and_missing(image, argument, value_range, ir_polarity)[0]


def as_infrared_and_missing(
    image: ImageInput, argument: str, value_range: ValueRange | None = None, ir_polarity: Polarity = "white-hot"
) -> tuple[ImageArray, Mask | None]:
    """As `as_infrared`, and which pixels of a file have no data (bool HxW; None: all have)."""
    _require_range(value_range)
    if ir_polarity not in get_args(Polarity):
        raise UsageError(f"`ir_polarity` {ir_polarity!r}: give one of {', '.join(get_args(Polarity))}")
    if isinstance(image, (str, os.PathLike)):
        return read_infrared_and_missing(Path(image), InfraredReading(value_range, polarity=ir_polarity))
    values = _values(image, argument, value_range)
    return as_white_hot(luma(values) if values.ndim == 3 else values, ir_polarity), None


def as_numbers(image: ImageInput, value_range: ValueRange | None = None) -> tuple[npt.NDArray[Any], Mask] | None:
    """The numbers HxW of an infrared image, and where they mean nothing (bool HxW); None: it has 8 bits or colours."""
    if isinstance(image, (str, os.PathLike)):
        return infrared_numbers(Path(image), InfraredReading(value_range))
    values = _pixels(image) if isinstance(image, Image.Image) else np.asarray(image)
    has_numbers = values.ndim == 2 and values.dtype.kind in "uif" and values.dtype != np.uint8
    return (values, missing_pixels(values, ())) if has_numbers else None


def as_visible(image: ImageInput, argument: str, value_range: ValueRange | None = None) -> ImageArray:
    """A visible image as uint8 HxWx3, RGB; `argument` names it in errors. Raises UsageError and ImageReadError."""
    _require_range(value_range)
    if isinstance(image, (str, os.PathLike)):
        return read_visible(Path(image))
    return as_rgb(_values(image, argument, value_range))


def as_mask(mask: MaskInput, shape: tuple[int, int], argument: str) -> npt.NDArray[Any] | None:
    """The mask of an image of (height, width) `shape`, as `masks.format.read_mask` gives it; None stays None.

    Raises UsageError for values that are no mask, ImageSizeError for another size, and MaskReadError.
    """
    if mask is None:
        return None
    if isinstance(mask, (str, os.PathLike)):
        return read_mask(Path(mask), shape)
    values = np.asarray(mask)
    if values.ndim != 2 or values.dtype.kind not in "buif":
        raise UsageError(f"`{argument}` is {_kind(values)}; give labels, bool, or float in [0, 1], HxW")
    if values.shape != shape:
        raise ImageSizeError(
            f"`{argument}` is {size_text(values.shape)} and its image {size_text(shape)} (width x height); "
            "give the masks of this pair"
        )
    if not (
        values.dtype == bool or (values.size and values.min() >= 0 and (values.dtype.kind != "f" or values.max() <= 1))
    ):
        raise UsageError(f"`{argument}` has values that no mask has; give labels from 0, bool, or float in [0, 1]")
    return values.astype(np.float32) if values.dtype.kind == "f" else values


def given_options(kind: type[_Options], given: Mapping[str, Any], noun: str = "option") -> _Options:
    """Options of `kind` by name; messages call one a `noun`. Raises UsageError, also for an unknown name."""
    known = [field.name for field in dataclasses.fields(kind)]
    for name in given:
        if name not in known:
            raise UsageError(f"`{name}`: no such {noun}; the known ones are {', '.join(known)}")
    return kind(**given)


def listening(progress: Progress | None) -> AbstractContextManager[None]:
    """Progress goes to the given function; without one to bars, in a terminal and in notebooks, and nowhere else."""
    return reporting_to(progress or (None if is_watched() else lambda done, total: None))


def _require_range(value_range: ValueRange | None) -> None:
    if value_range is None:
        return
    with contextlib.suppress(TypeError, ValueError):
        low, high = value_range
        if np.isfinite((low, high)).all() and low < high:
            return
    raise UsageError(f"`value_range` {shown(value_range)}: give two numbers, the lower one first")


def _values(image: Image.Image | npt.NDArray[Any], argument: str, value_range: ValueRange | None) -> ImageArray:
    """uint8 HxW or HxWx3 of an image in memory."""
    values = _pixels(image) if isinstance(image, Image.Image) else np.asarray(image)
    if values.ndim == 3 and values.shape[2] in (1, 4):
        values = values[..., 0] if values.shape[2] == 1 else values[..., :3]  # without alpha, as files are read
    if values.ndim not in (2, 3) or (values.ndim == 3 and values.shape[2] != 3) or not values.size:
        raise UsageError(f"`{argument}` is {_kind(values)}; give an image HxW or HxWx3")
    if values.dtype == bool:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind not in "uif":
        raise UsageError(f"`{argument}` is {_kind(values)}; give numbers")
    if values.dtype == np.uint8:
        return np.require(values, requirements=("C", "W"))  # PyTorch takes no arrays that are read-only
    if value_range is None:
        raise UsageError(
            f"`{argument}` is {_kind(values)}: which of its values are black and white? Give `value_range`, such as "
            f"{(0, 65535) if values.dtype.kind in 'ui' else (0.0, 1.0)}, or uint8"
        )
    return stretch(values, *value_range)


def _pixels(image: Image.Image) -> npt.NDArray[Any]:
    image = ImageOps.exif_transpose(image)
    is_plain = image.mode in ("1", "L", "RGB", "I", "F") or image.mode.startswith("I;16")
    return np.asarray(image if is_plain else image.convert("RGB"))


def _kind(values: npt.NDArray[Any]) -> str:
    return f"{values.dtype} of shape {values.shape}" if values.ndim else type(values.item()).__name__
