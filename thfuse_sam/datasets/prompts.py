"""Prompts for annotated objects, as SAM takes them: boxes, points, earlier masks, and points that correct a mask.

Coordinates are (x, y) in pixels of the image, with the middle of the first pixel at (0.5, 0.5); a box reaches from the
left edge of its first column to the right edge of its last one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from thfuse_sam.datasets.segmentation.sample import SegmentationSample, mask_box
from thfuse_sam.errors import UsageError

FOREGROUND, BACKGROUND, PADDING = 1, 0, -1  # labels of points

MAX_JITTER = 20.0  # pixels by which a box side moves at most
_JITTER = 0.1  # share of the box's width or height by which a side moves at most
_EARLIER_MASK_LOGIT = 8.0  # size of the logits in a simulated earlier mask

Mask = npt.NDArray[np.bool_]
Points = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Prompts:
    """Prompts of N objects of one image.

    Objects may have different kinds of prompts; the model takes one kind at a time, so go through `groups()`.

    Attributes:
        points: float32 NxPx2, (x, y) in pixels; P may be 0.
        point_labels: int32 NxP; 1 foreground, 0 background, -1 padding.
        boxes: float32 Nx4, (x0, y0, x1, y1) in pixels, NaN for an object without a box; None where none has one.
        masks: float32 NxHxW, logits of an earlier mask at the image's size, NaN for an object without one; None where
            none has one.
    """

    points: Points
    point_labels: npt.NDArray[np.int32]
    boxes: npt.NDArray[np.float32] | None = None
    masks: npt.NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.points)

    def groups(self) -> Iterator[tuple[npt.NDArray[np.intp], "Prompts"]]:
        """(indices, prompts) of the objects that have the same kind: no padded points, no NaN."""
        counts = (self.point_labels != PADDING).sum(1)
        has_box = np.zeros(len(self), bool) if self.boxes is None else ~np.isnan(self.boxes[:, 0])
        has_mask = np.zeros(len(self), bool) if self.masks is None else ~np.isnan(self.masks[:, 0, 0])
        kinds = list(zip(counts.tolist(), has_box.tolist(), has_mask.tolist(), strict=True))
        for kind in sorted(set(kinds)):
            indices = np.flatnonzero([own == kind for own in kinds])
            yield indices, self._take(indices, *kind)

    def _take(self, indices: npt.NDArray[np.intp], count: int, with_box: bool, with_mask: bool) -> "Prompts":
        real = self.point_labels[indices] != PADDING
        return Prompts(
            self.points[indices][real].reshape(len(indices), count, 2),
            self.point_labels[indices][real].reshape(len(indices), count),
            self.boxes[indices] if with_box and self.boxes is not None else None,
            self.masks[indices] if with_mask and self.masks is not None else None,
        )


@dataclass(frozen=True)
class PromptMix:
    """How often an object is given each kind of prompt: weights of at least 0, of which one is above 0.

    Raises UsageError for weights that cannot work.
    """

    box: float = 0.0  # a jittered box
    point: float = 0.0  # the interior point
    random: float = 0.0  # one point anywhere inside
    points: float = 0.0  # `num_points` points anywhere inside
    negative: float = 0.0  # one point inside, `num_points` points outside but near
    mask: float = 0.0  # a distorted mask, as an earlier step would give it, and one point inside
    num_points: int = 1

    def __post_init__(self) -> None:
        weights = self.weights()
        for name, weight in weights.items():
            if not 0 <= weight < float("inf"):
                raise UsageError(f"prompt weight {name}={weight}: give a number of at least 0")
        if not any(weights.values()):
            raise UsageError(f"all prompt weights are 0; give one of {', '.join(weights)} a weight above 0")
        if self.num_points < 1:
            raise UsageError(f"num_points {self.num_points}: give at least 1")

    @classmethod
    def from_selection(cls, point_selection: str, num_points: int = 1) -> "PromptMix":
        """The mix that `point_selection` center, random or bbox asks for. Raises UsageError."""
        if point_selection == "center":
            # The interior point is one; further points lie anywhere inside.
            return cls(point=1.0, num_points=num_points)
        if point_selection == "random":
            return cls(points=1.0, num_points=num_points)
        if point_selection == "bbox":
            return cls(box=1.0, num_points=num_points)
        raise UsageError(f"`point_selection` {point_selection}: unknown; use center, random or bbox")

    def weights(self) -> dict[str, float]:
        """The weight of each kind."""
        return {name: value for name, value in asdict(self).items() if name != "num_points"}


def sample_prompts(
    sample: SegmentationSample, object_ids: Sequence[int], mix: PromptMix, rng: np.random.Generator
) -> Prompts:
    """A prompt for each of `object_ids` (N), of a kind drawn from `mix`.

    Boxes and earlier masks come from the whole object, points inside from its part that no other object covers.
    """
    names = list(mix.weights())
    weights = np.array(list(mix.weights().values()))
    kinds = rng.choice(len(names), len(object_ids), p=weights / weights.sum())
    prompts = []
    for kind, object_id in zip(kinds, object_ids, strict=True):
        mask, shown = sample.mask(object_id), sample.labels == object_id
        # A point on the object in front would ask for that one.
        prompts.append(_prompt(names[kind], mask, shown if shown.any() else mask, mix, rng))
    return _stack(prompts)


def interior_point(mask: Mask) -> tuple[float, float]:
    """The pixel of a bool HxW mask farthest from its border, as (x, y) of the pixel's centre.

    The centre of mass can lie outside a bent or hollow object; this point cannot. Raises ValueError: empty mask.
    """
    if not mask.any():
        raise ValueError("an empty mask has no interior point")
    left, top, right, bottom = mask_box(mask).astype(int)
    padded = np.pad(mask[top:bottom, left:right], 1).astype(np.uint8)
    distance = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
    y, x = np.unravel_index(int(distance.argmax()), distance.shape)
    return float(x) + left + 0.5, float(y) + top + 0.5


def jittered_box(mask: Mask, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """The box around a mask, each side moved by up to 10 % of the box's own length or 20 pixels, kept in the image.

    Returns:
        float32 (x0, y0, x1, y1), at least one pixel wide and high.
    """
    box = mask_box(mask)
    sides = np.tile(box[2:] - box[:2], 2)
    moved = box + rng.uniform(-1, 1, 4) * np.minimum(_JITTER * sides, MAX_JITTER)
    height, width = mask.shape
    moved = moved.clip(0, [width, height, width, height])
    # Only boxes of a few pixels could be turned inside out; the jitter is a tenth of a side.
    return np.asarray(moved, np.float32)


def random_points(region: Mask, count: int, rng: np.random.Generator) -> Points:
    """`count` pixels of a region (bool HxW, not empty), float32 Kx2; different ones while there are enough."""
    pixels = np.flatnonzero(region)
    chosen = rng.choice(pixels, count, replace=len(pixels) < count)
    y, x = np.unravel_index(chosen, region.shape)
    return np.stack([x, y], 1).astype(np.float32) + np.float32(0.5)


def next_points(
    predicted: npt.NDArray[np.bool_], target: npt.NDArray[np.bool_], rng: np.random.Generator
) -> tuple[Points, npt.NDArray[np.int32]]:
    """One correcting point for each object, drawn evenly from where its predicted mask is wrong.

    A point on a missed part is foreground, one on a part too much is background. (A. Kirillov et al., "Segment
    Anything", ICCV 2023, training algorithm.)

    Args:
        predicted: bool NxHxW.
        target: bool NxHxW.

    Returns:
        points: float32 Nx1x2, (x, y) in pixels of these masks.
        labels: int32 Nx1; 1 or 0, or -1 (padding) for an object without an error.
    """
    points = np.zeros((len(predicted), 1, 2), np.float32)
    labels = np.full((len(predicted), 1), PADDING, np.int32)
    for index, (mask, wanted) in enumerate(zip(predicted, target, strict=True)):
        wrong = mask != wanted
        if not wrong.any():
            continue
        points[index] = random_points(wrong, 1, rng)
        x, y = points[index, 0].astype(int)
        labels[index] = FOREGROUND if wanted[y, x] else BACKGROUND
    return points, labels


def _no_points() -> Points:
    return np.zeros((0, 2), np.float32)


@dataclass(frozen=True)
class _ObjectPrompt:
    """The prompt of one object."""

    inside: Points = field(default_factory=_no_points)  # Kx2, on the object
    outside: Points = field(default_factory=_no_points)  # Lx2, on the background
    box: npt.NDArray[np.float32] | None = None  # (x0, y0, x1, y1)
    mask: npt.NDArray[np.float32] | None = None  # HxW, logits of an earlier mask


def _prompt(kind: str, mask: Mask, shown: Mask, mix: PromptMix, rng: np.random.Generator) -> _ObjectPrompt:
    """A prompt of one object, of which `shown` is the part for points."""
    if kind == "box":
        return _ObjectPrompt(box=jittered_box(mask, rng))
    if kind == "point":
        inner = np.array([interior_point(shown)], np.float32)
        more = random_points(shown, mix.num_points - 1, rng) if mix.num_points > 1 else _no_points()
        return _ObjectPrompt(np.concatenate([inner, more]))
    if kind == "points":
        return _ObjectPrompt(random_points(shown, mix.num_points, rng))
    inside = random_points(shown, 1, rng)
    if kind == "mask":
        return _ObjectPrompt(inside, mask=_earlier_mask(mask, rng))
    if kind == "negative" and (near := _surroundings(mask)).any():  # else the object fills the image
        return _ObjectPrompt(inside, random_points(near, mix.num_points, rng))
    return _ObjectPrompt(inside)


def _surroundings(mask: Mask) -> Mask:
    """Outside the mask, but within its box made larger by half on each side: where a mask goes wrong."""
    left, top, right, bottom = mask_box(mask)
    x_margin, y_margin = max(4.0, (right - left) / 2), max(4.0, (bottom - top) / 2)
    near = np.zeros_like(mask)
    near[max(0, int(top - y_margin)) : int(bottom + y_margin), max(0, int(left - x_margin)) : int(right + x_margin)] = 1
    return near & ~mask


def _earlier_mask(mask: Mask, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Logits (float32 HxW) of the mask grown or shrunk and shifted by up to a tenth of its size."""
    left, top, right, bottom = mask_box(mask)
    reach = _JITTER * min(float(right - left), float(bottom - top), 10 * MAX_JITTER)
    radius = round(rng.uniform(0, reach))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    change = cv2.dilate if rng.random() < 0.5 else cv2.erode
    changed = change(mask.astype(np.uint8), kernel)
    if not changed.any():  # a thin object does not survive shrinking
        changed = mask.astype(np.uint8)
    shift = rng.uniform(-reach, reach, 2).round().astype(np.float32)
    moved = cv2.warpAffine(changed, np.array([[1, 0, shift[0]], [0, 1, shift[1]]], np.float32), mask.shape[::-1])
    return np.where(moved > 0, _EARLIER_MASK_LOGIT, -_EARLIER_MASK_LOGIT).astype(np.float32)


def _stack(prompts: Sequence[_ObjectPrompt]) -> Prompts:
    most = max((len(prompt.inside) + len(prompt.outside) for prompt in prompts), default=0)
    points = np.zeros((len(prompts), most, 2), np.float32)
    labels = np.full((len(prompts), most), PADDING, np.int32)
    for row, prompt in enumerate(prompts):
        foreground, count = len(prompt.inside), len(prompt.inside) + len(prompt.outside)
        points[row, :count] = np.concatenate([prompt.inside, prompt.outside])
        labels[row, :foreground], labels[row, foreground:count] = FOREGROUND, BACKGROUND
    return Prompts(
        points, labels, _rows([prompt.box for prompt in prompts]), _rows([prompt.mask for prompt in prompts])
    )


def _rows(arrays: Sequence[npt.NDArray[np.float32] | None]) -> npt.NDArray[Any] | None:
    """The arrays stacked, NaN for None; None where all are."""
    shape = next((array.shape for array in arrays if array is not None), None)
    if shape is None:
        return None
    return np.stack([np.full(shape, np.nan, np.float32) if array is None else array for array in arrays])
