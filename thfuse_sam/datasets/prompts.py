"""Prompts for annotated objects, as SAM takes them: boxes, points, earlier masks, and points that correct a mask.

Coordinates are (x, y) in pixels of the image, with the middle of the first pixel at (0.5, 0.5); a box reaches from the
left edge of its first column to the right edge of its last one.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import cv2
import numpy as np
import numpy.typing as npt

from thfuse_sam.arrays import Mask
from thfuse_sam.datasets.segmentation.sample import SegmentationSample, mask_box
from thfuse_sam.errors import UsageError

FOREGROUND, BACKGROUND, PADDING = 1, 0, -1  # labels of points

MAX_JITTER = 20.0  # pixels by which a box side moves at most
_JITTER = 0.1  # fraction of the box's width or height by which a side moves at most
_EARLIER_MASK_LOGIT = 8.0  # a simulated earlier mask has this logit inside, its negative outside

Points = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ObjectPrompt:
    """The prompt of one object, in pixels of the image; None for each kind of prompt that is not given."""

    points: npt.NDArray[np.floating] | None = None  # Px2: x, y
    labels: npt.NDArray[np.int32] | None = None  # P: 1 foreground, 0 background
    box: npt.NDArray[np.floating] | None = None  # x0, y0, x1, y1
    mask: npt.NDArray[np.float32] | None = None  # HxW, logits of a mask that an earlier step predicted

    @classmethod
    def by_points(
        cls, inside: Points, outside: Points | None = None, mask: npt.NDArray[np.float32] | None = None
    ) -> "ObjectPrompt":
        """Points on the object (float32 Kx2), others on the background (Lx2), and an earlier mask."""
        points = inside if outside is None else np.concatenate([inside, outside])
        labels = np.full(len(points), BACKGROUND, np.int32)
        labels[: len(inside)] = FOREGROUND
        return cls(points, labels, mask=mask)

    @property
    def kind(self) -> tuple[int, bool, bool]:
        """(number of points, has a box, has a mask): the model takes objects of one kind together."""
        return 0 if self.points is None else len(self.points), self.box is not None, self.mask is not None


@dataclass(frozen=True)
class PromptMix:
    """How often an object is given each kind of prompt: weights of 0 or more. Raises UsageError if all are 0."""

    box: float = 0.0  # a jittered box
    point: float = 0.0  # the interior point, and `num_points` - 1 points anywhere inside
    random: float = 0.0  # one point anywhere inside
    points: float = 0.0  # `num_points` points anywhere inside
    negative: float = 0.0  # one point inside, `num_points` points outside but near
    mask: float = 0.0  # a distorted mask, as an earlier step would give it, and one point inside
    num_points: int = 1

    def __post_init__(self) -> None:
        weights = self.weights()
        if not any(weights.values()):
            raise UsageError(f"all prompt weights are 0; give one of {', '.join(weights)} a weight above 0")

    @classmethod
    def from_selection(cls, point_selection: str, num_points: int = 1) -> "PromptMix":
        """The mix that `point_selection` center, random or bbox asks for."""
        kinds = {"center": "point", "random": "points", "bbox": "box"}
        return cls(num_points=num_points, **{kinds[point_selection]: 1.0})

    def weights(self) -> dict[str, float]:
        """The weight of each kind."""
        return {name: value for name, value in asdict(self).items() if name != "num_points"}


def sample_prompts(
    sample: SegmentationSample, object_ids: Sequence[int], mix: PromptMix, rng: np.random.Generator
) -> list[ObjectPrompt]:
    """A prompt for each of `object_ids`, of a kind drawn from `mix`.

    Boxes and earlier masks are made from the whole object, points inside it from the part that no other object covers.
    """
    names = list(mix.weights())
    weights = np.array(list(mix.weights().values()))
    kinds = rng.choice(len(names), len(object_ids), p=weights / weights.sum())
    prompts = []
    for kind, object_id in zip(kinds, object_ids, strict=True):
        mask, visible = sample.mask(object_id), sample.labels == object_id
        # A point on an object in front of this one would be a prompt for the object in front.
        prompts.append(_prompt(names[kind], mask, visible if visible.any() else mask, sample.ignored, mix, rng))
    return prompts


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

    Returns float32 (x0, y0, x1, y1), at least four fifths as wide and as high as that box.
    """
    box = mask_box(mask)
    sides = np.tile(box[2:] - box[:2], 2)
    moved = box + rng.uniform(-1, 1, 4) * np.minimum(_JITTER * sides, MAX_JITTER)
    height, width = mask.shape
    moved = moved.clip(0, [width, height, width, height])
    # Each side moves by at most a tenth of the box, so the sides never change places.
    return np.asarray(moved, np.float32)


def random_points(region: Mask, count: int, rng: np.random.Generator) -> Points:
    """Centres (x, y) of `count` pixels of a region (bool HxW, not empty): float32 Kx2; all different if possible."""
    pixels = np.flatnonzero(region)
    chosen = rng.choice(pixels, count, replace=len(pixels) < count)
    y, x = np.unravel_index(chosen, region.shape)
    return np.stack([x, y], 1).astype(np.float32) + np.float32(0.5)


def next_points(predicted: Mask, target: Mask, rng: np.random.Generator) -> tuple[Points, npt.NDArray[np.int32]]:
    """One correcting point for each object, drawn evenly from where its predicted mask is wrong.

    A point in a missed part of the object is foreground, one in a wrongly included part is background. (A. Kirillov et
    al., "Segment Anything", ICCV 2023, training algorithm.)

    Args:
        predicted, target: bool NxHxW.

    Returns:
        points: float32 Nx1x2, (x, y) in pixels of these masks.
        labels: int32 Nx1; 1 or 0, or -1 (padding) for an object without an error.
    """
    points = np.zeros((len(predicted), 1, 2), np.float32)
    labels = np.full((len(predicted), 1), PADDING, np.int32)
    for index, (mask, target_mask) in enumerate(zip(predicted, target, strict=True)):
        wrong = mask != target_mask
        if not wrong.any():
            continue
        points[index] = random_points(wrong, 1, rng)
        x, y = points[index, 0].astype(int)
        labels[index] = FOREGROUND if target_mask[y, x] else BACKGROUND
    return points, labels


def _prompt(
    kind: str, mask: Mask, visible: Mask, ignored: Mask | None, mix: PromptMix, rng: np.random.Generator
) -> ObjectPrompt:
    """A prompt of one object; its points lie in `visible`, the part that no other object covers.

    No point lies in `ignored`, which is neither object nor background.
    """
    if kind == "box":
        return ObjectPrompt(box=jittered_box(mask, rng))
    if kind == "point":
        inside = np.array([interior_point(visible)], np.float32)
        if mix.num_points > 1:
            inside = np.concatenate([inside, random_points(visible, mix.num_points - 1, rng)])
        return ObjectPrompt.by_points(inside)
    if kind == "points":
        return ObjectPrompt.by_points(random_points(visible, mix.num_points, rng))
    inside = random_points(visible, 1, rng)
    if kind == "mask":
        return ObjectPrompt.by_points(inside, mask=_earlier_mask(mask, rng))
    if kind == "negative" and (near := _surroundings(mask, ignored)).any():  # else the object fills the image
        return ObjectPrompt.by_points(inside, random_points(near, mix.num_points, rng))
    return ObjectPrompt.by_points(inside)


def _surroundings(mask: Mask, ignored: Mask | None) -> Mask:
    """The background inside the mask's box, enlarged on each side by half its length (4 pixels at least)."""
    left, top, right, bottom = mask_box(mask)
    x_margin, y_margin = max(4.0, (right - left) / 2), max(4.0, (bottom - top) / 2)
    near = np.zeros_like(mask)
    near[max(0, int(top - y_margin)) : int(bottom + y_margin), max(0, int(left - x_margin)) : int(right + x_margin)] = 1
    return near & ~mask if ignored is None else near & ~mask & ~ignored


def _earlier_mask(mask: Mask, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Logits (float32 HxW) of the mask, grown or shrunk, and shifted, by up to a tenth of its size or 20 pixels."""
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
