"""Target measures: whether labelled objects stand out in a fused image as in the infrared one, and are found by masks.

Not part of `METRICS`, because they need labels.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from thfuse_sam.arrays import Array, Mask
from thfuse_sam.metrics.arrays import Grey, grey_values

ALL = "all"  # a row over every class, or over every size
SIZES = (ALL, "large", "small")
LARGE = 1500  # px; boxes of a larger area are large targets
SMALLEST_FOUND = 150  # px; masks are not asked for targets whose box has a smaller area
SMALLEST_CONTRAST = 15  # grey levels; targets that stand out less in the infrared image are left out
WELL_KEPT, BADLY_KEPT = 0.8, 0.4  # shares of the contrast
FOUND_IOU = 0.5
_FRAME = 0.35  # width of the frame around a box, as a fraction of the box's longer side
_SMALLEST_FRAME = 6  # px; the frame's least width
_FEWEST_PIXELS = 20  # inside and around a target


@dataclass(frozen=True)
class Target:
    """A labelled object.

    Attributes:
        category: name of its class.
        box: left, top, right, bottom in pixels, inside the image; the last two are the first column and row outside.
        mask: bool, height x width of the box; None where only the box is labelled.
    """

    category: str
    box: tuple[int, int, int, int]
    mask: Mask | None = None

    @property
    def area(self) -> int:
        """Pixels of the box."""
        left, top, right, bottom = self.box
        return (right - left) * (bottom - top)


@dataclass(frozen=True)
class TargetScore:
    """What was measured of one target."""

    category: str
    is_large: bool
    contrast_kept: float  # contrast in the fused image divided by that in the infrared one; nan: not measured
    found: bool | None  # whether a mask has its box; None: not asked


@dataclass(frozen=True)
class TargetRow:
    """The targets of one class and size; shares are nan where there is no target."""

    category: str
    size: str  # one of SIZES
    targets: int  # whose contrast was measured
    contrast_kept: float  # mean; less than nothing counts as nothing
    well_kept: float  # share with at least 80 % of the contrast
    badly_kept: float  # share with less than 40 %
    boxes: int  # that masks were asked for
    found: float  # share found by a mask


def measure_targets(
    targets: Sequence[Target], fused: Grey, infrared: Grey, ir_labels: npt.NDArray[np.integer] | None = None
) -> list[TargetScore]:
    """Measure the targets of one image.

    The contrast of a target is the mean inside of it (of its mask, or of the brighter half of its box) less the mean of
    a frame around its box. It is measured where it is at least 15 grey levels in the infrared image. A target is found
    if the box of a segment and its own have an intersection over union of at least 0.5.

    Args:
        fused, infrared: uint8 HxW.
        ir_labels: HxW, the infrared image's label map, 0 is no segment; None: masks are not asked.
    """
    fused_values, infrared_values = grey_values(fused=fused, infrared=infrared)
    segments = None if ir_labels is None else label_boxes(ir_labels)
    scores = []
    for target in targets:
        contrast = target_contrast(infrared_values, target)
        kept = target_contrast(fused_values, target) / contrast if contrast >= SMALLEST_CONTRAST else math.nan
        is_asked = segments is not None and target.area >= SMALLEST_FOUND
        ious = box_ious(segments, np.array([target.box])) if is_asked and segments is not None else None
        found = None if ious is None else bool((ious >= FOUND_IOU).any())
        scores.append(TargetScore(target.category, target.area > LARGE, kept, found))
    return scores


def target_contrast(image: npt.NDArray[np.number], target: Target) -> float:
    """Contrast of a target in an image HxW, in the image's levels; nan: too few pixels inside or around it."""
    left, top, right, bottom = target.box
    margin = max(_SMALLEST_FRAME, int(_FRAME * max(right - left, bottom - top)))
    rows = slice(max(0, top - margin), bottom + margin)
    columns = slice(max(0, left - margin), right + margin)
    patch = image[rows, columns]
    frame = np.ones(patch.shape, bool)
    frame[top - rows.start : bottom - rows.start, left - columns.start : right - columns.start] = False
    if target.mask is None:
        box = np.sort(patch[~frame])
        enough, inside = len(box) >= _FEWEST_PIXELS, box[len(box) // 2 :]
    else:
        inside = image[top:bottom, left:right][target.mask]
        enough = len(inside) >= _FEWEST_PIXELS
    outside = patch[frame]
    return float(inside.mean() - outside.mean()) if enough and len(outside) >= _FEWEST_PIXELS else math.nan


def label_boxes(labels: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """The boxes around the segments of a label map HxW: int64 Nx4, (left, top, right, bottom), by ascending label."""
    rows, columns = np.nonzero(labels)
    _, segment, counts = np.unique(labels[rows, columns], return_inverse=True, return_counts=True)
    if not len(counts):
        return np.zeros((0, 4), np.int64)
    starts = np.cumsum(counts) - counts
    rows, columns = (values[np.argsort(segment, kind="stable")] for values in (rows, columns))
    lows = (np.minimum.reduceat(values, starts) for values in (columns, rows))
    highs = (np.maximum.reduceat(values, starts) + 1 for values in (columns, rows))
    return np.stack([*lows, *highs], axis=1)


def target_rows(scores: Iterable[TargetScore]) -> list[TargetRow]:
    """Rows for all targets and for each class if there are several; of each for all sizes, large and small ones.

    A class or size of which nothing was measured has no row; the first one, over all targets, is always there.
    """
    scores = list(scores)
    categories = sorted({score.category for score in scores})
    shown = [ALL, *categories] if len(categories) > 1 else categories
    rows = [_row(scores, category, size) for category in shown for size in SIZES]
    return rows[:1] + [row for row in rows[1:] if row.targets or row.boxes]


def _row(scores: Sequence[TargetScore], category: str, size: str) -> TargetRow:
    chosen = [
        score
        for score in scores
        if category in (ALL, score.category) and size in (ALL, "large" if score.is_large else "small")
    ]
    kept = np.array([score.contrast_kept for score in chosen if not math.isnan(score.contrast_kept)])
    found = np.array([score.found for score in chosen if score.found is not None], float)
    means = (np.clip(kept, 0, None), kept >= WELL_KEPT, kept < BADLY_KEPT)
    shares = (float(values.mean()) if len(values) else math.nan for values in (*means, found))
    contrast, well, badly, share_found = shares
    return TargetRow(category, size, len(kept), contrast, well, badly, len(found), share_found)


def box_ious(boxes: Array, others: Array) -> npt.NDArray[np.float64]:
    """IoU of N with M boxes (x0, y0, x1, y1): ...xNx4 and ...xMx4 -> float64 ...xNxM."""
    x0, y0, x1, y1 = (boxes[..., :, None, side] for side in range(4))
    u0, v0, u1, v1 = (others[..., None, :, side] for side in range(4))
    width, height = np.minimum(x1, u1) - np.maximum(x0, u0), np.minimum(y1, v1) - np.maximum(y0, v0)
    common = np.maximum(width, 0) * np.maximum(height, 0)
    return np.asarray(common / ((x1 - x0) * (y1 - y0) + (u1 - u0) * (v1 - v0) - common))
