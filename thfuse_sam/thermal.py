"""The numbers of thermal images: which of them mean "nothing measured", and how the others become grey values."""

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from thfuse_sam.arrays import Array, ImageArray, Mask

# Percentiles that become 0 and 255 unless a range is given.
STRETCH_PERCENTILES = (0.5, 99.5)
WHITE_HOT, BLACK_HOT = "white-hot", "black-hot"
# The lowest number is "nothing measured" if it stands in one block at the border and is farther from the next one than
# this share of the range of all others; for the smallest number of a type less is enough.
_GAP, _GAP_OF_TYPE = 1.0, 0.05
_GAP_ANYWHERE = 50.0  # as _GAP, of a number that is no measurement wherever it stands, such as -9999 among degrees
_LEAST_SHARE, _MOST_SHARE = 0.001, 0.9  # of all pixels, such a block
# Of integer types; decoders may have widened the type, and programs fill images of floats with them, too.
_SMALLEST, _LARGEST = (0, -(2**15), -(2**31)), (2**15 - 1, 2**16 - 1, 2**31 - 1)
_LEAST_SHARE_LARGEST = 0.01  # of pixels of such a number, which a hot object may reach, too
_NO_NUMBER = 1e20  # programs write the largest float, of which files keep 3.4e38
_LEAST_AT_BORDER = 0.5  # share of the pixels of that number that are connected with the border

_Number = TypeVar("_Number", bound=np.generic)


@dataclass(frozen=True)
class InfraredReading:
    """How the numbers in an infrared file become grey values."""

    value_range: tuple[float, float] | None = None  # numbers that become 0 and 255; None: percentiles of each image
    nodata: float | None = None  # a number that means "nothing measured", besides those that are recognised
    colormap: str | None = None  # the file is drawn in this one of `false_colour.COLORMAPS`
    gray: bool = False  # take the luma of a file in colours, whatever they mean
    channel: int | None = None  # number of the channel with the infrared, from 0; None: it is alone
    polarity: str = WHITE_HOT  # BLACK_HOT: what is warm is dark in the file; it becomes bright

    @classmethod
    def of_settings(cls, kept: Mapping[str, Any]) -> "InfraredReading":
        """The inverse of `settings`. Entries of other names and of other types are left."""
        found = {name: kept.get(f"ir_{name}") for name in _TYPES}
        own: dict[str, Any] = {name: value for name, value in found.items() if isinstance(value, _TYPES[name])}
        value_range = kept.get("ir_range")
        return cls(as_range(value_range.split()) if isinstance(value_range, str) else None, **own)

    def settings(self) -> dict[str, Any]:
        """What differs from the defaults, by the name of its option; a range as "LOW HIGH"."""
        own = {item.name: getattr(self, item.name) for item in fields(self)}
        own = {key: value for key, value in own.items() if value != getattr(AS_STORED, key)}
        if self.value_range is not None:
            own["range"] = "{:.10g} {:.10g}".format(*own.pop("value_range"))
        return {f"ir_{key}": value for key, value in own.items()}


AS_STORED = InfraredReading()
_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "nodata": (int, float),
    "colormap": str,
    "gray": bool,
    "channel": int,
    "polarity": str,
}


def as_range(value: Any) -> tuple[float, float] | None:
    """A range as it was kept in a file, as two numbers; None if it is none."""
    with contextlib.suppress(TypeError, ValueError, OverflowError):
        low, high = value
        return float(low), float(high)
    return None


def missing_pixels(values: Array, nodata: Iterable[float]) -> Mask:
    """Where HxW numbers mean "nothing measured": NaN, infinity and beyond 1e20, those of `nodata`, the lowest number if
    it is very far from all others, and a block of the lowest number, or of the largest of an integer type, at the
    border. Of 8-bit images only those of `nodata`.
    """
    missing = ~np.isfinite(values)
    if values.dtype.kind == "f":
        missing |= np.abs(values) > _NO_NUMBER
    for number in nodata:
        if not np.isnan(number):
            missing |= values == np.float64(number).astype(np.float32 if values.dtype == np.float32 else np.float64)
    if values.dtype != np.uint8 and not missing.all():
        missing |= _lowest_apart(values, values[~missing])
        if values.dtype.kind in "iu" and values.max() in _LARGEST and not missing.all():
            missing |= _lowest_apart(~values, ~values[~missing], _LEAST_SHARE_LARGEST, _GAP)  # ~ reverses the order
    return missing


def _lowest_apart(
    values: Array, valid: Array, least_share: float = _LEAST_SHARE, gap_of_type: float = _GAP_OF_TYPE
) -> Mask:
    nothing = np.zeros(values.shape, bool)
    lowest = valid.min()
    others = valid[valid > lowest]
    if not least_share * values.size <= valid.size - others.size <= _MOST_SHARE * values.size or not others.size:
        return nothing
    span = float(np.percentile(others, STRETCH_PERCENTILES[1])) - float(others.min())
    gap = float(others.min()) - float(lowest)
    if span <= 0 or gap <= span * (gap_of_type if lowest in _SMALLEST else _GAP):
        return nothing
    lowest_pixels = values == lowest
    if gap > span * _GAP_ANYWHERE:
        return lowest_pixels
    connected = np.count_nonzero(connected_with_border(lowest_pixels))
    return lowest_pixels if connected >= _LEAST_AT_BORDER * np.count_nonzero(lowest_pixels) else nothing


def fill(grey: npt.NDArray[_Number], missing: Mask) -> npt.NDArray[_Number]:
    """HxW with each missing pixel replaced by the nearest other one; as it is if every pixel is missing."""
    if not missing.any() or missing.all():
        return grey
    return np.where(missing, grey.ravel()[nearest_places(missing)], grey)


def nearest_places(missing: Mask) -> npt.NDArray[np.intp]:
    """For each pixel HxW the place, in the flattened image, of the nearest one that is not missing; there is one."""
    # Distances are to pixels of 0, the labels are those of the nearest one.
    is_missing = missing.astype(np.uint8)
    labels = cv2.distanceTransformWithLabels(is_missing, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)[1]
    places = np.zeros(int(labels.max()) + 1, np.intp)
    places[labels[~missing]] = np.flatnonzero(~missing)
    return places[labels]


def connected_with_border(mask: Mask) -> Mask:
    """The parts of a mask HxW that touch the border of the image."""
    labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[1]
    at_border = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    return np.isin(labels, at_border[at_border > 0])


def as_white_hot(grey: ImageArray, polarity: str) -> ImageArray:
    """Grey values, uint8 of any shape, in which what is warm is bright."""
    return 255 - grey if polarity == BLACK_HOT else grey


def limits(valid: Array) -> tuple[float, float]:
    """The numbers that become 0 and 255: robust percentiles of `valid`, which holds at least one finite number."""
    low, high = (float(value) for value in np.percentile(valid, STRETCH_PERCENTILES))
    if high <= low:  # nearly all pixels are equal: a few small hot spots must not vanish
        low, high = float(valid.min()), float(valid.max())
    return low, high


def stretch(values: Array, low: float, high: float) -> ImageArray:
    """Numbers of any type and shape as uint8: `low` becomes 0, `high` 255; NaN becomes 0."""
    if high <= low:
        return np.zeros(values.shape, dtype=np.uint8)
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = (values.astype(np.float64) - low) * (255.0 / (high - low))
    return np.rint(np.nan_to_num(scaled, nan=0.0).clip(0.0, 255.0)).astype(np.uint8)
