"""Training samples: crops with their label maps, and the regions that the model is prompted for.

A target is a region of the label map; its prompts are a point inside it and a jittered box around it.
"""

from collections.abc import Callable, Sequence

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from thfuse_sam.datasets.prompts import interior_point
from thfuse_sam.metrics.targets import box_ious
from thfuse_sam.sam.geometry import LOGIT_STRIDE, PATCH_SIZE
from thfuse_sam.sam.thermal_points import warm_boxes
from thfuse_sam.training.batches import Batch
from tools.scenes import Scene
from tools.vit_nano.images import (
    FIRST_PERSON,
    PADDING,
    Image,
    Labels,
    Photo,
    degrade,
    fit_to_square,
    jitter_colours,
    random_photo,
    random_scene,
    textured_shapes,
)
from tools.vit_nano.options import NanoSettings
from tools.vit_nano.people import cut_out, is_grey, paste_people

MIN_TARGET_AREA = 300  # pixels below which a region is no target
MIN_PERSON_AREA = 40  # the same for people
CENTRED = 0.75  # of the crops of images with people are taken around one of them
PERSON_PROMPTS = 4  # prompts of one person in a sample at most
FROM_WARM_PLACES = 0.6  # of the boxes of people in grey images are those that the mask generator prompts with
WARM_PLACES = 64  # boxes, as `thermal_points` auto
NO_BOXES = np.zeros((0, 4))
WARM_IOU = 0.25  # of such a box with that of the person
# For shapes, scenes, photos and labelled photos: how many of an image's prompts people get where there are enough, and
# how many images get the flaws of cameras at night.
PERSON_SHARES = (0.0, 0.2, 0.2, 0.5)
DEGRADED = (0.2, 0.2, 0.5, 0.5)
# Regions become targets with a probability proportional to their area to this power: for shapes, scenes, photos and
# labelled photos. A photo's large regions are worth more than its small ones, which are often noise.
AREA_POWERS = (0.0, 0.0, 0.25, 0.25)


class TargetDataset:
    """Samples that are determined by a seed, an epoch and an index.

    A sample holds the crop `images` (3xHxW uint8, RGB) with its `labels` (HxW), the label `ids` of its targets (N),
    their `points` (Nx2) and `boxes` (Nx4) in pixels of the crop, and the crop's `corners` (2): its first row and column
    of patches in the input square.
    """

    def __init__(
        self,
        size: int,
        scenes: Sequence[Scene],
        photos: Sequence[Photo],
        settings: NanoSettings,
        people: Sequence[Sequence[Photo]] = (),
    ) -> None:
        """`size`: side of the model's input square, pixels; `people`: labelled photos of one or more folders, none of
        which is empty; photos of each folder are shown as often. Scenes, photos and folders may be missing.
        """
        self.size, self.count, self.epoch_images = size, settings.prompts, settings.epoch_images
        self.crop = np.array([settings.crop_height or settings.crop_size, settings.crop_size])
        self.scenes, self.photos, self.whole = scenes, photos, settings.whole
        self.people, self.pasted = people, settings.pasted
        self.cutouts = cut_out([photo for folder in people for photo in folder])
        shares = np.array(settings.shares) * (1, bool(scenes), bool(photos), bool(people))
        self.shares = shares / shares.sum()
        self._seed, self._epoch = settings.seed, 0

    def __len__(self) -> int:
        return self.epoch_images

    def set_epoch(self, epoch: int) -> None:
        cv2.setNumThreads(1)  # here, because each process that makes samples calls it
        self._epoch = epoch

    def __getitem__(self, index: int) -> Batch:
        rng = np.random.default_rng((self._seed, self._epoch, index))
        sources: list[Callable[[], tuple[Image, Labels]]] = [
            lambda: textured_shapes(rng, self.size),
            lambda: random_scene(rng, self.scenes, self.whole),
            lambda: random_photo(rng, self.photos, self.whole),
            lambda: random_photo(rng, self.people[int(rng.integers(len(self.people)))], self.whole),
        ]
        while True:
            kind = int(rng.choice(4, p=self.shares))
            image, labels = sources[kind]()
            if kind > 0 and rng.random() < self.pasted:
                image, labels = paste_people(rng, image, labels, self.cutouts)
            if rng.random() < 0.5:
                image, labels = image[:, ::-1], labels[:, ::-1]
            crop, crop_labels, corner = self._random_crop(rng, image, labels)
            grey = is_grey(crop)
            crop = jitter_colours(rng, crop)
            crop = degrade(rng, crop) if rng.random() < DEGRADED[kind] else crop
            warm = warm_boxes(np.ascontiguousarray(crop[..., 0]), WARM_PLACES) if grey else NO_BOXES
            share = PERSON_SHARES[kind]
            targets = sample_targets(rng, crop, crop_labels, self.count, AREA_POWERS[kind], share, warm)
            if targets is None:
                continue
            pixels = crop.transpose(2, 0, 1)
            arrays = dict(zip(("ids", "points", "boxes"), targets, strict=True))
            arrays |= {"images": np.ascontiguousarray(pixels), "labels": crop_labels, "corners": corner}
            return {"name": f"image {index}", **{key: torch.from_numpy(array) for key, array in arrays.items()}}

    def _random_crop(self, rng: np.random.Generator, image: Image, labels: Labels) -> tuple[Image, Labels, np.ndarray]:
        """A crop of the image in SAM's input square, its labels, and its first row and column of patches.

        A crop contains padding only if the image is smaller than the crop, and in some cases on purpose. Most crops of
        an image with people contain one.
        """
        square, square_labels = fit_to_square(image, np.ascontiguousarray(labels), self.size)
        inside = square_labels != PADDING
        sides = np.array([inside.any(1).sum(), inside.any(0).sum()])
        # Some crops reach into the padding by up to a quarter, as the model meets padding at the bottom or right.
        reach = sides + (self.crop // 4 if rng.random() < 0.3 else 0)
        last = np.clip(reach - self.crop, 0, self.size - self.crop) // PATCH_SIZE
        lowest, highest = np.zeros(2, int), last
        person = _any_person(rng, square_labels) if rng.random() < CENTRED else None
        if person is not None:
            # The person's middle comes to lie in the middle 0.7 of the crop.
            lowest = np.clip(np.ceil((person - 0.85 * self.crop) / PATCH_SIZE), 0, last).astype(int)
            highest = np.clip((person - 0.15 * self.crop) // PATCH_SIZE, lowest, last).astype(int)
        corner = rng.integers(lowest, highest + 1)
        (top, left), (height, width) = corner * PATCH_SIZE, self.crop
        window = np.s_[top : top + height, left : left + width]
        return square[window], np.ascontiguousarray(square_labels[window]), corner


def _any_person(rng: np.random.Generator, labels: Labels) -> np.ndarray | None:
    """Row and column of the middle of a random person; None where there is none."""
    people = np.unique(labels[labels >= FIRST_PERSON])
    return np.argwhere(labels == rng.choice(people)).mean(0) if len(people) else None


def sample_targets(
    rng: np.random.Generator,
    image: Image,
    labels: Labels,
    count: int,
    area_power: float = 0.0,
    person_share: float = 0.5,
    warm: np.ndarray = NO_BOXES,
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Label ids (count,), points (count, 2) and boxes (count, 4) in pixels, or None where no region is large enough.

    A third of the points lies anywhere in its region, the others farthest from the region's border; half of those of
    people lie where the person is brightest instead. `FROM_WARM_PLACES` of the boxes of people are those boxes of
    `warm` (Mx4) that overlap with them, where there are any: the mask generator knows no better ones.
    """
    ids, areas = np.unique(labels[labels > 0], return_counts=True)
    person = ids >= FIRST_PERSON
    large = areas >= np.where(person, MIN_PERSON_AREA, MIN_TARGET_AREA)
    if not large.any():
        return None
    weights = areas**area_power
    asked = (
        min(int(count * person_share), PERSON_PROMPTS * int((large & person).sum()))
        if (large & ~person).any()
        else count
    )
    people = _draw(rng, ids[large & person], weights[large & person], asked)
    others = _draw(rng, ids[large & ~person], weights[large & ~person], count - len(people))
    chosen = rng.permutation(np.concatenate([people, others]))
    points, boxes = np.empty((count, 2), np.float32), np.empty((count, 4), np.float32)
    grey = cv2.GaussianBlur(image.mean(2, dtype=np.float32), (0, 0), 2)
    for row, label in enumerate(chosen):
        mask = labels == label
        ys, xs = np.nonzero(mask)
        if row % 3 == 0 or (row % 3 == 1 and label < FIRST_PERSON):
            points[row] = interior_point(mask)
        else:
            pixel = int(grey[ys, xs].argmax()) if row % 3 == 1 else int(rng.integers(len(ys)))
            points[row] = xs[pixel] + 0.5, ys[pixel] + 0.5
        box = np.array([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1], np.float32)
        sides = np.tile(box[2:] - box[:2], 2)
        boxes[row] = box + rng.normal(0, 0.08, 4) * np.minimum(sides, 40)
        if label >= FIRST_PERSON and rng.random() < FROM_WARM_PLACES:
            overlapping = warm[box_ious(box[None], warm)[0] >= WARM_IOU]
            if len(overlapping):
                boxes[row] = overlapping[int(rng.integers(len(overlapping)))]
    return chosen, points, boxes


def _draw(rng: np.random.Generator, ids: np.ndarray, weights: np.ndarray, count: int) -> np.ndarray:
    """`count` of `ids` by their weights; none is drawn twice before all were drawn once."""
    if not len(ids):
        return ids
    rounds = [rng.choice(ids, len(ids), replace=False, p=weights / weights.sum()) for _ in range(-(-count // len(ids)))]
    return np.concatenate([ids[:0], *rounds])[:count]  # empty if the image encoder is trained alone


def target_masks(labels: Tensor, ids: Tensor) -> Tensor:
    """Masks of `ids` (BxN) in `labels` (BxHxW), averaged down to the logits' BxNxH/4xW/4, float in [0, 1]."""
    masks = (labels[:, None] == ids[:, :, None, None]).float()
    return F.avg_pool2d(masks, LOGIT_STRIDE)
