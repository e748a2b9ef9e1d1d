"""What keeps a fused video from flickering, and how much of it is left.

Values that are taken from each frame (the thermal range, the brightness of the result, masks) are averaged over time
with a decay of `seconds`. At a cut they start anew, so that nothing of the former scene is left.
"""

import math
from typing import Any, Generic, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from thfuse_sam.arrays import ImageArray, Mask
from thfuse_sam.thermal import InfraredReading, as_white_hot, fill, limits, missing_pixels, stretch

_Value = TypeVar("_Value", float, npt.NDArray[np.float32])

_THUMBNAIL = (32, 24)  # pixels, in which cuts are looked for: there, movement and noise hardly show
_CUT_LEVELS, _CUT_SHARE = 10.0, 0.5  # a change beyond this many grey levels, and this share of the contrast, is a cut
_STATIC_LEVELS = 2.0  # a pixel is static if its surroundings change by less in both sources
_GRID = 2  # pixels; every second row and column is measured
_SURROUNDINGS = 5  # of these a side


class Smoothed(Generic[_Value]):
    """A value that is averaged over time, with exponentially falling weights.

    Args:
        seconds: time in which a weight falls to 1/e; 0: nothing is averaged.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.value: _Value | None = None

    def restart(self) -> None:
        """Forget what was."""
        self.value = None

    def add(self, value: _Value, step: float) -> _Value:
        """The average with the `value` of a frame, `step` seconds after the last one."""
        if self.value is not None and self._seconds > 0:
            kept = math.exp(-step / self._seconds)
            value = kept * self.value + (1 - kept) * value
        self.value = value
        return value


class CutDetector:
    """Tells frames that show another scene than the frame before, or have another size."""

    def __init__(self) -> None:
        self._before: npt.NDArray[np.float32] | None = None
        self._shape: tuple[int, ...] = ()

    def is_cut(self, grey: ImageArray) -> bool:
        """Whether the next frame, uint8 HxW, is of another scene; the first one is."""
        small = cv2.resize(grey, _THUMBNAIL, interpolation=cv2.INTER_AREA).astype(np.float32)
        before, self._before = self._before, small
        shape, self._shape = self._shape, grey.shape
        if before is None or shape != grey.shape:
            return True
        change = float(np.abs(small - before).mean())
        return change > max(_CUT_LEVELS, _CUT_SHARE * float(small.std() + before.std()))


class ThermalLevels:
    """Grey values of infrared frames; of those of more than 8 bits the range follows the scene slowly.

    Args:
        how: the range may be fixed.
        seconds: see `Smoothed`.
    """

    def __init__(self, how: InfraredReading, seconds: float) -> None:
        self._how, self._nodata = how, [] if how.nodata is None else [how.nodata]
        self._range = Smoothed[npt.NDArray[np.float32]](seconds)

    def grey(self, values: npt.NDArray[Any], step: float, missing: Mask | None = None) -> ImageArray:
        """Numbers HxW as uint8 HxW, in which what is warm is bright. 8-bit frames are not stretched.

        `missing`: pixels without data, bool HxW, which are filled; None: the numbers say it.
        """
        if missing is None and (values.dtype != np.uint8 or self._nodata):
            missing = missing_pixels(values, self._nodata)
        if values.dtype == np.uint8:
            grey = values if missing is None else fill(values, missing)
        else:
            assert missing is not None
            grey = self._stretched(values, missing, step)
        return as_white_hot(grey, self._how.polarity)

    def _stretched(self, values: npt.NDArray[Any], missing: Mask, step: float) -> ImageArray:
        if missing.all():
            return np.zeros(values.shape, np.uint8)
        own = np.array(limits(values[~missing]), np.float32)
        former = self._range.value
        if former is not None and (own[1] < former[0] or own[0] > former[1]):  # another scene
            self._range.restart()
        low, high = self._how.value_range or (float(number) for number in self._range.add(own, step))
        return fill(stretch(values, low, high), missing)


class Brightness:
    """Evens out how the mean of a fused picture changes beyond what its sources do. See `Smoothed` for `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._excess = Smoothed[float](seconds)

    def steadied(
        self, fused: ImageArray, sources: tuple[ImageArray, ImageArray], step: float, is_cut: bool
    ) -> ImageArray:
        """`fused` with its mean moved; all uint8 HxW."""
        if is_cut:
            self._excess.restart()
        excess = cv2.mean(fused)[0] - sum(cv2.mean(source)[0] for source in sources) / 2
        shift = self._excess.add(excess, step) - excess
        return np.asarray(cv2.convertScaleAbs(np.maximum(fused + np.float32(shift), 0)))


class FlickerMeter:
    """By how many grey levels static pixels of a fused video change from frame to frame beyond those of its sources.

    A pixel is static where both sources, averaged over its surroundings, hardly change. Of such pixels the mean
    absolute change of the fused picture is compared with that of the source that changes more. Cuts do not count.
    """

    def __init__(self) -> None:
        self._before: list[npt.NDArray[np.float32]] | None = None
        self._sum, self._frames = 0.0, 0

    @property
    def flicker(self) -> float | None:
        """Grey levels, at least 0; None: no two frames of a scene, or nothing static."""
        return max(0.0, self._sum / self._frames) if self._frames else None

    def add(self, infrared: ImageArray, visible: ImageArray, fused: ImageArray, is_cut: bool) -> None:
        """Count the next frame: uint8 HxW each."""
        before, self._before = (
            self._before,
            [image[::_GRID, ::_GRID].astype(np.float32) for image in (infrared, visible, fused)],
        )
        if before is None or is_cut:
            return
        changes = [now - then for now, then in zip(self._before, before, strict=True)]
        static = np.ones(changes[0].shape, bool)
        for change in changes[:2]:
            static &= np.abs(cv2.blur(change, (_SURROUNDINGS, _SURROUNDINGS))) < _STATIC_LEVELS
        if static.any():
            ir, vi, both = (float(np.abs(change[static]).mean()) for change in changes)
            self._sum += both - max(ir, vi)
            self._frames += 1
