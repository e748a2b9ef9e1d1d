"""The outlines of segments: where the labels of neighbouring pixels differ."""

from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from thfuse_sam.arrays import Array, Mask

if TYPE_CHECKING:
    from torch import Tensor

_Labels = TypeVar("_Labels", Array, "Tensor")


def outlines(labels: _Labels) -> _Labels:
    """Pixels that have a pixel of another label above, below, left or right of them.

    Both sides of a border are marked, so that outlines turn and flip with the image. `labels`: integers ...xHxW, an
    array or a tensor. Returns bool ...xHxW, an array or a tensor as `labels` is.
    """
    result = labels != labels  # False everywhere
    below = labels[..., 1:, :] != labels[..., :-1, :]
    right = labels[..., :, 1:] != labels[..., :, :-1]
    result[..., 1:, :] |= below
    result[..., :-1, :] |= below
    result[..., :, 1:] |= right
    result[..., :, :-1] |= right
    return result


def thin_outlines(label_map: npt.NDArray[np.integer]) -> Mask:
    """Outlines to draw: one pixel wide, inside the segments.

    Where two segments meet, only the smaller label's side is marked. `label_map`: integers HxW, 0 is "no segment".
    Returns bool HxW; False wherever the label is 0.
    """
    level = np.where(label_map == 0, np.inf, label_map)  # a pixel is marked where a neighbour's level is higher
    result = np.zeros(label_map.shape, dtype=bool)
    result[1:] |= level[1:] < level[:-1]
    result[:-1] |= level[:-1] < level[1:]
    result[:, 1:] |= level[:, 1:] < level[:, :-1]
    result[:, :-1] |= level[:, :-1] < level[:, 1:]
    return result
