"""Aligning in Python."""

import os
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from thfuse_sam.align.placement import Placer, resample
from thfuse_sam.align.rig import CALIBRATE
from thfuse_sam.api.inputs import ImageInput, ValueRange, as_infrared, as_numbers, as_path, as_visible, warn_if_odd
from thfuse_sam.arrays import Array, ImageArray, Mask
from thfuse_sam.commands.align import build_placer
from thfuse_sam.errors import renaming
from thfuse_sam.options.align import VISIBLE, AlignKind, AlignmentOptions


@dataclass(frozen=True, eq=False)
class Aligned:
    """A pair of images in one frame. Made by `align`.

    Attributes:
        ir: the infrared image HxW, uint8; of images of more than 8 bits their numbers, uint16 or float32.
        vi: the visible image, uint8 HxWx3, RGB.
        seen: bool HxW, where the infrared camera sees the scene; elsewhere `ir` is 0, of float32 NaN.
        matrix: float64 3x3, takes pixels (x, y, 1) of the infrared image as given to those of the visible one.
        confident: whether the images agree on it. If not, the infrared image was only resampled.
        offset: by how much the corners have moved beside resampling, share of the width.

    Example:
        >>> import numpy as np
        >>> import thfuse_sam as th
        >>> aligned = th.align(np.zeros((24, 32), np.uint8), np.zeros((48, 64, 3), np.uint8))
        >>> aligned.confident, aligned.offset
        (False, 0.0)
    """

    ir: Array = field(repr=False)
    vi: ImageArray = field(repr=False)
    seen: Mask = field(repr=False)
    matrix: npt.NDArray[np.float64]
    confident: bool
    offset: float


def align(
    ir: ImageInput,
    vi: ImageInput,
    kind: AlignKind | None = None,
    *,
    rig: str | os.PathLike[str] | None = None,
    size: str = VISIBLE,
    value_range: ValueRange | None = None,
) -> Aligned:
    """Bring an infrared image onto the visible image of the same scene, as `thfuse align` does.

    To fuse such a pair, give `align` or `rig` to `fuse`.

    Args:
        ir: infrared: a path, a PIL image, or an array HxW or HxWx3.
        vi: visible, likewise and of any size; colours are RGB.
        kind: "size" (only resampled), "shift", "similarity" (also turned and scaled) or "homography"; None:
            "similarity", unless there is a `rig`.
        rig: a file that `thfuse align --calibrate` wrote.
        size: of the result: "visible", "infrared" or a size such as "640x480".
        value_range: the values that become black and white where both images are compared, of arrays of other types
            than uint8 and of infrared files of more than 8 bits.

    Raises:
        UsageError: an argument cannot be, or the rig is of images of other sizes.
        ImageReadError: a file cannot be read.

    Example:
        >>> import numpy as np
        >>> import thfuse_sam as th
        >>> aligned = th.align(np.full((24, 32), 7000, np.uint16), np.zeros((48, 64)), "size", value_range=(0, 9000))
        >>> aligned.ir.shape, aligned.ir.dtype, aligned.vi.shape
        ((48, 64), dtype('uint16'), (48, 64, 3))
    """
    with renaming(align="kind"):
        placer = pair_placer(kind if kind or rig else "similarity", rig, size)
    assert placer is not None
    infrared, visible = as_infrared(ir, "ir", value_range), as_visible(vi, "vi", value_range)
    warn_if_odd(ir, infrared, visible, value_range)
    placement, numbers = placer.place(infrared, visible), as_numbers(ir, value_range)
    seen, alignment = placement.sees("ir"), placement.alignment
    return Aligned(
        np.where(seen, resample(infrared, placement.ir, placement.size), np.uint8(0))
        if numbers is None
        else placement.numbers(*numbers),
        resample(visible, placement.vi, placement.size, border=0),
        seen,
        alignment.applied,
        alignment.confident,
        alignment.offset if alignment.confident else 0.0,
    )


def pair_placer(align: AlignKind | None, rig: str | os.PathLike[str] | None, size: str = VISIBLE) -> Placer | None:
    """What places the images of a pair; None: nothing is asked for. Raises UsageError."""
    with renaming({CALIBRATE: "the command line, see docs/alignment.md"}):  # no function makes one
        return build_placer(AlignmentOptions(align=align, rig=None if rig is None else as_path(rig, "rig"), size=size))
