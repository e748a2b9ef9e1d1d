"""What callers give as images and masks: paths, PIL images and arrays, as the arrays that the package works on."""

import contextlib
import dataclasses
import logging
import os
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, get_args

import numpy as np
from PIL import Image

from thfuse_sam.arrays import Array, ImageArray, Mask, Size
from thfuse_sam.datasets.pair_checks import is_colourful
from thfuse_sam.errors import ImageKindError, ImageSizeError, UsageError, did_you_mean, naming, shown
from thfuse_sam.image_files import DecodedImage, Refusal, orientation_of, pixels_of, upright
from thfuse_sam.images import (
    as_rgb,
    infrared_numbers,
    infrared_of,
    luma,
    numbers_of,
    read_infrared_and_missing,
    read_visible,
    size_text,
)
from thfuse_sam.masks.format import MAX_SEGMENTS, read_mask
from thfuse_sam.options.fields import Options
from thfuse_sam.options.shared import Polarity
from thfuse_sam.progress import Progress, is_watched, reporting_to
from thfuse_sam.thermal import InfraredReading, stretch

ImageInput: TypeAlias = str | os.PathLike[str] | Image.Image | Array
MaskInput: TypeAlias = Any  # None, a path, `Masks`, or an array HxW: labels, bool, or float in [0, 1]
ValueRange: TypeAlias = tuple[float, float]
_Options = TypeVar("_Options", bound=Options)

_IMAGE = "a path, a PIL image, or an array of numbers, HxW or HxWx3"

log = logging.getLogger(__name__)


def as_path(path: object, argument: str) -> Path:
    """The path of a file or folder; `argument` names it in errors. Raises UsageError."""
    if isinstance(path, (str, os.PathLike)) and path != "":
        with contextlib.suppress(TypeError):  # a path of bytes
            return Path(path)
    raise UsageError(f"`{argument}` {described(path)}: give a path, as text or pathlib.Path")


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
    """As `as_infrared`, and which pixels have no data and were filled (bool HxW; None: all have)."""
    value_range = _range(value_range)
    if ir_polarity not in get_args(Polarity):
        raise UsageError(f"`ir_polarity` {ir_polarity!r}: give one of {', '.join(get_args(Polarity))}")
    how = InfraredReading(value_range, polarity=ir_polarity)
    try:
        if isinstance(image, (str, os.PathLike)):
            return read_infrared_and_missing(as_path(image, argument), how)
        return infrared_of(_decoded(image, argument, value_range), how)
    except ImageKindError as error:
        raise ImageKindError(_in_arguments(str(error))) from None
    except Refusal as error:
        raise UsageError(_in_arguments(f"`{argument}` {error}")) from None
    except ValueError as error:
        raise UsageError(f"`{argument}`: {error}; give an image of numbers") from None


def as_numbers(image: ImageInput, value_range: ValueRange | None = None) -> tuple[Array, Mask] | None:
    """The numbers HxW of an infrared image, and where they mean nothing (bool HxW); None: it has 8 bits or colours."""
    if isinstance(image, (str, os.PathLike)):
        return infrared_numbers(as_path(image, "ir"), InfraredReading(value_range))
    return numbers_of(_decoded(image, "ir", value_range))


def as_visible(image: ImageInput, argument: str, value_range: ValueRange | None = None) -> ImageArray:
    """A visible image as uint8 HxWx3, RGB; `argument` names it in errors. Raises UsageError and ImageReadError."""
    value_range = _range(value_range)
    if isinstance(image, (str, os.PathLike)):
        return read_visible(as_path(image, argument))
    values = np.ascontiguousarray(_decoded(image, argument, value_range).colours)
    return as_rgb(values if values.dtype == np.uint8 else stretch(values, *value_range))  # type: ignore[misc]


def warn_if_odd(ir: ImageInput, infrared: ImageArray, visible: ImageArray, value_range: ValueRange | None) -> None:
    """Warn where `ir`, read as `infrared` (uint8 HxW), and `visible` (uint8 HxWx3) seem to be swapped, or one image, or
    where one is nearly black.
    """
    for argument, values in (("ir", infrared), ("vi", visible)):
        if values.max() == 1:
            log.warning("`%s` holds only 0 and 1, of 0 to 255: is it a mask, or was it in [0, 1] before?", argument)
    thinned = np.s_[::4, ::4]
    if infrared.shape == visible.shape[:2] and np.ptp(infrared) and np.array_equal(infrared, luma(visible)):
        log.warning("`ir` and `vi` show the same picture: is one given twice?")
    elif not is_colourful(visible[thinned]) and is_colourful(as_visible(ir, "ir", value_range)[thinned]):
        log.warning("`ir` has colours and `vi` has none: are they swapped?")


def as_mask(mask: MaskInput, shape: Size, argument: str) -> Array | None:
    """The mask of an image of (height, width) `shape`, as `masks.format.read_mask` gives it; None stays None.

    Raises UsageError for values that are no mask, ImageSizeError for another size, and MaskReadError.
    """
    if mask is None:
        return None
    if isinstance(mask, (str, os.PathLike)):
        path = as_path(mask, argument)
        with naming(argument, path):
            return read_mask(path, shape)
    values = as_array(mask, argument)
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
    if values.dtype.kind in "ui" and values.max() > MAX_SEGMENTS:
        raise UsageError(f"`{argument}` has labels up to {values.max()}; give labels up to {MAX_SEGMENTS}")
    return values.astype(np.float32) if values.dtype.kind == "f" else values


def given_options(kind: type[_Options], given: Mapping[str, Any], noun: str = "option") -> _Options:
    """Options of `kind` by name; messages call one a `noun`. Raises UsageError, also for an unknown name."""
    known = [field.name for field in dataclasses.fields(kind)]
    for name in given:
        if name not in known:
            remedy = did_you_mean(name, known).rstrip() or f"the known ones are {', '.join(known)}"
            raise UsageError(f"`{name}`: no such {noun}; {remedy}")
    return kind(**given)


def described(value: object) -> str:
    """What a caller gave that is not what was asked for, in few words."""
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    shape = getattr(value, "shape", None)
    return shown(value) if shape is None else f"{type(value).__name__} of shape {tuple(shape)}"


def listening(progress: Progress | None) -> AbstractContextManager[None]:
    """Progress goes to the given function; without one to bars, in a terminal and in notebooks, and nowhere else.

    Raises UsageError.
    """
    if not (progress is None or callable(progress)):
        raise UsageError(f"`progress` {shown(progress)}: give a function that takes the numbers done and total")
    return reporting_to(progress or (None if is_watched() else lambda done, total: None))


def _range(value_range: ValueRange | None) -> ValueRange | None:
    """Raises UsageError."""
    if value_range is None:
        return None
    with contextlib.suppress(TypeError, ValueError):
        low, high = (float(number) for number in value_range)
        if np.isfinite((low, high)).all() and low < high:
            return low, high
    raise UsageError(f"`value_range` {shown(value_range)}: give two numbers, the lower one first")


def _decoded(image: Image.Image | Array, argument: str, value_range: ValueRange | None) -> DecodedImage:
    """An image in memory as if it came from a file. Raises UsageError, also where it needs a `value_range`."""
    if isinstance(image, Image.Image):
        stored = _decoded_pillow(image, argument)
    else:
        values = _native(as_array(image, argument), argument)
        is_image = values.ndim == 2 or (values.ndim == 3 and values.shape[2] in (1, 3, 4))
        if not is_image or not values.size:
            raise UsageError(f"`{argument}` is {_kind(values)}; give {_IMAGE}")
        stored = DecodedImage(values, has_alpha=values.shape[2:] == (4,))
    kind = stored.values.dtype
    if kind != np.uint8 and value_range is None:
        raise UsageError(
            f"`{argument}` is {_kind(stored.values)}: which of its values are black and white? Give `value_range`, "
            f"such as {(0, 65535) if kind.kind in 'ui' else (0.0, 1.0)}, or uint8"
        )
    return stored


def _decoded_pillow(image: Image.Image, argument: str) -> DecodedImage:
    try:
        pixels = pixels_of(image)
    except (OSError, ValueError, SyntaxError) as error:  # a file that is closed or damaged
        raise UsageError(f"`{argument}` cannot be decoded ({shown(error)}); give an open, sound image") from None
    return DecodedImage(upright(pixels, orientation_of(image)), has_alpha=image.mode in ("LA", "RGBA"))


def as_array(value: object, argument: str) -> Array:
    """What a caller gave, as an array of any type. Raises UsageError."""
    if np.ma.is_masked(value):
        raise UsageError(f"`{argument}` is an array with masked values; give numbers for them, with `filled`")
    try:
        return np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:  # such as a tensor on a GPU, or rows of unequal length
        raise UsageError(f"`{argument}` is no array ({shown(error)}); give a NumPy array") from None


def _native(values: Array, argument: str) -> Array:
    """Numbers of a type that every library takes, writable and in one piece; bool as 0 and 255. Raises UsageError."""
    if values.dtype == bool:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype.kind not in "uif":
        raise UsageError(f"`{argument}` is {_kind(values)}; give {_IMAGE}")
    kind = values.dtype.newbyteorder("=")
    if kind.kind == "f":
        kind = np.dtype(np.float32 if kind.itemsize <= 4 else np.float64)
    return np.require(values, kind, ("C", "W"))


def _in_arguments(message: str) -> str:
    """What is said of an infrared image, with the arguments of this package's functions in place of options."""
    kept, *options = re.split("; `ir_(?:colormap|gray)`", message.replace("`ir_range`", "`value_range`"), maxsplit=1)
    return kept + "; give its numbers or grey values, HxW" * bool(options)


def _kind(values: Array) -> str:
    return f"{values.dtype} of shape {values.shape}" if values.ndim else type(values.item()).__name__
