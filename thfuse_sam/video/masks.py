"""Masks of key frames, carried to the frames between them by optical flow."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from thfuse_sam.arrays import ImageArray
from thfuse_sam.masks.format import LabelMap

# Where something of a frame lies in an earlier one: float32 HxWx2, x and y in pixels.
Places = npt.NDArray[np.float32]


def places_before(grey: ImageArray, before: ImageArray) -> Places:
    """Where each pixel of `grey` lies in the frame `before`, by dense inverse search flow: uint8 HxW both.

    Source: T. Kroeger, R. Timofte, D. Dai, L. Van Gool, "Fast optical flow using dense inverse search", ECCV 2016.
    """
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST).calc(grey, before, np.empty(0))
    height, width = grey.shape
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    return np.asarray(flow + np.dstack([x, y]), np.float32)


def moved(values: npt.NDArray[np.float32], places: Places) -> npt.NDArray[np.float32]:
    """Values of an earlier frame, float32 HxW or HxWxC, where they are now; 0 where they came from outside."""
    moved_values: npt.NDArray[np.float32] = _remapped(values, places, cv2.INTER_LINEAR)
    return moved_values


@dataclass(frozen=True, eq=False)
class FrameMask:
    """The mask of one frame of one stream."""

    labels: LabelMap  # HxW, 0 is no segment
    places: Places | None  # where each pixel was in the frame before; None: this is the first frame, or another scene
    carried: bool  # whether it comes from an earlier frame


class CarriedMasks:
    """Masks of one stream: made on key frames, moved with the picture on the others.

    Args:
        make_label_map: maps an image uint8 HxWx3, RGB, and the infrared image HxW of the scene to a label map HxW.
    """

    def __init__(self, make_label_map: Callable[[ImageArray, ImageArray], LabelMap]) -> None:
        self._make = make_label_map
        self._before: ImageArray | None = None
        self._key_labels: LabelMap | None = None
        self._key_places: Places | None = None  # where each pixel of the last frame lies in the last key frame

    def mask(
        self, image: ImageArray, grey: ImageArray, infrared: ImageArray, *, is_key: bool, is_cut: bool
    ) -> FrameMask:
        """The mask of the next frame: `image` as SAM sees it, uint8 HxWx3, and in `grey`, uint8 HxW."""
        places = None if is_cut or self._before is None else places_before(grey, self._before)
        self._before = grey
        if is_key or is_cut or self._key_labels is None:
            self._key_labels, self._key_places = self._make(image, infrared), None
            return FrameMask(self._key_labels, places, carried=False)
        assert places is not None
        # Composed, and not moved step by step: labels cannot be interpolated, and would wear off.
        self._key_places = places if self._key_places is None else _composed(self._key_places, places)
        labels = _remapped(self._key_labels, self._key_places, cv2.INTER_NEAREST)
        return FrameMask(labels, places, carried=True)


def _composed(key_places: Places, places: Places) -> Places:
    composed: Places = _remapped(key_places, places, cv2.INTER_LINEAR, outside=-1e4)  # what came in has no segment
    return composed


def _remapped(values: npt.NDArray[Any], places: Places, interpolation: int, outside: float = 0.0) -> Any:
    border = cv2.BORDER_CONSTANT
    return cv2.remap(values, places, None, interpolation, borderMode=border, borderValue=(outside,) * 4)  # type: ignore[call-overload]
