"""People whom someone has labelled in photos: their masks, and cutouts of them that are pasted into other images.

Photos in DIR are labelled by boxes in DIR/../targets/<name of DIR>, as `datasets.targets` reads them, or by instance
masks in DIR/../PedMasks (Penn-Fudan).
"""

import fnmatch
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from thfuse_sam.datasets.named_images import list_images
from thfuse_sam.datasets.targets import read_targets
from thfuse_sam.errors import UsageError
from thfuse_sam.images import image_size, luma, read_stored_pixels, read_visible
from tools.vit_nano.images import FIRST_PERSON, Image, Labels, Photo, photo_regions

Box = tuple[int, int, int, int]  # first column and row, and those after the last
PERSON = ("0", "person")  # names of the class, without and with a list of names


@dataclass(frozen=True)
class LabelledPhoto:
    """A photo with its people: boxes, and the infrared image that shows what is warm in them; or instance masks."""

    path: Path
    boxes: tuple[Box, ...] = ()
    infrared: Path | None = None
    instances: Path | None = None

    def read(self) -> Photo:
        """The photo with its regions and its people."""
        if self.instances is not None:
            people = read_stored_pixels(self.instances).values.astype(np.int16)
        else:
            people = boxed_people(luma(read_visible(self.infrared or self.path)), self.boxes)
        return photo_regions(read_visible(self.path), people)


def find_labelled(folder: Path, held_out: Sequence[str]) -> list[LabelledPhoto]:
    """The labelled photos of a folder without those whose name matches one of the patterns `held_out`.

    Raises UsageError where nothing is labelled or left.
    """
    paths = list_images(folder)
    if (masks := folder.parent / "PedMasks").is_dir():
        labelled = {name: LabelledPhoto(path, instances=masks / f"{name}_mask.png") for name, path in paths.items()}
    else:
        sizes = {name: image_size(path) for name, path in paths.items()}
        targets = read_targets(folder.parent / "targets" / folder.name, sizes).by_name
        labelled = {
            name: LabelledPhoto(
                paths[name],
                tuple(target.box for target in found if target.category in PERSON),
                folder.parent / "ir" / paths[name].name,
            )
            for name, found in targets.items()
        }
    left = [
        photo
        for name, photo in sorted(labelled.items())
        if not any(fnmatch.fnmatch(name, pattern) for pattern in held_out)
    ]
    if not left:
        raise UsageError(f"`held_out`: all labelled photos of {folder} match one of its patterns; give fewer")
    return left


# -------------------------------------------------------------------------------------------- masks from boxes


def boxed_people(infrared: NDArray[np.uint8], boxes: Sequence[Box]) -> NDArray[np.int16]:
    """HxW label map of the people in boxes, numbered from 1; smaller ones lie over larger ones."""
    people = np.zeros(infrared.shape, np.int16)
    by_size = sorted(boxes, key=lambda box: (box[0] - box[2]) * (box[3] - box[1]))
    for number, box in enumerate(by_size, 1):
        left, top, right, bottom = box
        people[top:bottom, left:right][warm_mask(infrared, box)] = number
    return people


def warm_mask(infrared: NDArray[np.uint8], box: Box) -> NDArray[np.bool_]:
    """Which pixels of a box are its person: those warmer than around it, closed; bool of the box's size.

    Coats are hardly warmer than the air, so the threshold is low: Otsu's, but at most a quarter of the way from the
    surroundings to the warm parts. Where that does not fill the box, an upright ellipse is added.
    """
    left, top, right, bottom = box
    height, width = bottom - top, right - left
    smooth = cv2.GaussianBlur(infrared, (0, 0), 0.6)
    margin = max(4, max(height, width) // 4)
    window = np.s_[max(0, top - margin) : bottom + margin, max(0, left - margin) : right + margin]
    outside = np.ones(infrared.shape, bool)
    outside[top:bottom, left:right] = False
    patch, around = smooth[top:bottom, left:right], smooth[window][outside[window]]
    cold = float(np.percentile(around, 40)) if around.size else float(patch.min())
    otsu, _ = cv2.threshold(np.ascontiguousarray(patch), 0, 255, cv2.THRESH_OTSU)
    threshold = min(otsu, cold + max(0.25 * (float(np.percentile(patch, 80)) - cold), 3.0))
    size = (max(3, width // 4) | 1, max(3, height // 5) | 1)
    padded = np.pad((patch > threshold).astype(np.uint8), max(size))
    closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, size))
    mask = closed[max(size) : -max(size), max(size) : -max(size)] > 0
    y, x = (np.mgrid[:height, :width] + 0.5) / np.array([height, width])[:, None, None] * 2 - 1
    if not 0.2 <= mask.mean() <= 0.85:
        return x * x + y * y <= 1
    ys, xs = np.nonzero(mask)
    if (np.ptp(ys) + 1) * (np.ptp(xs) + 1) < 0.75 * mask.size:
        mask |= (x / 0.6) ** 2 + y * y <= 1
    return _large_pieces(mask)


def _large_pieces(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask without pieces of less than 0.15 of the largest one."""
    _, pieces, statistics, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    areas = statistics[:, cv2.CC_STAT_AREA]
    return mask & (areas >= 0.15 * areas[1:].max())[pieces]


# ----------------------------------------------------------------------------------------------------- cutouts


@dataclass(frozen=True)
class Cutout:
    """A person cut out of a photo."""

    pixels: Image
    mask: NDArray[np.bool_]
    grey: bool


MIN_CUTOUT = 24  # rows of a person that is worth pasting
PASTED_HEIGHTS = (0.03, 0.5)  # of the image's height
MAX_PASTED = 5  # people in an image
PAINTED = 0.5  # of the grey images get people whose warmth is made up
HIDDEN = 0.3  # of the pasted people are partly hidden
WARMER = (12.0, 130.0)  # grey levels of such people's heads above what is around them
_FIRST_PASTED = FIRST_PERSON + 5000


def cut_out(photos: Sequence[Photo]) -> list[Cutout]:
    """All people of the photos that are large enough."""
    return [cutout for photo in photos for cutout in _cutouts(photo)]


def _cutouts(photo: Photo) -> Iterator[Cutout]:
    assert photo.people is not None
    grey = is_grey(photo.image)
    for number in np.unique(photo.people[photo.people > 0]):
        ys, xs = np.nonzero(photo.people == number)
        window = np.s_[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1]
        if np.ptp(ys) + 1 >= MIN_CUTOUT:
            yield Cutout(photo.image[window].copy(), photo.people[window] == number, grey)


def is_grey(image: Image) -> bool:
    return bool((image[::8, ::8] == image[::8, ::8, :1]).all())


def paste_people(
    rng: np.random.Generator, image: Image, labels: Labels, cutouts: Sequence[Cutout]
) -> tuple[Image, Labels]:
    """The image with up to `MAX_PASTED` people more, some of them partly hidden, and its labels.

    In a grey image they look as infrared cameras see them: cut out of such an image, or painted by `_warm_look`.
    """
    image, labels = image.copy(), labels.copy()
    grey = is_grey(image)
    painted = grey and rng.random() < PAINTED
    fitting = [cutout for cutout in cutouts if painted or cutout.grey == grey]
    place: Box | None = None
    for number in range(int(rng.integers(1, MAX_PASTED + 1)) if fitting else 0):
        cutout = fitting[int(rng.integers(len(fitting)))]
        place = left, top, right, bottom = _place(rng, image, cutout, place)
        flip = slice(None, None, -1 if rng.random() < 0.5 else None)
        size, smaller = (right - left, bottom - top), bottom - top < cutout.mask.shape[0]
        method = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
        pixels = cv2.resize(cutout.pixels, size, interpolation=method)[:, flip].astype(np.float32)
        cover = cv2.resize(cutout.mask.astype(np.float32), size, interpolation=method)[:, flip].copy()
        if rng.random() < HIDDEN:
            _hide(rng, cover)
        window = np.s_[top:bottom, left:right]
        if painted:
            pixels = _warm_look(rng, pixels, float(np.median(image[window])))
        labels[window][cover > 0.5] = _FIRST_PASTED + number
        soft = cv2.GaussianBlur(cover, (0, 0), 0.5)[..., None]
        mixed = soft * pixels * rng.uniform(0.7, 1.3) + (1 - soft) * image[window]
        image[window] = np.clip(mixed, 0, 255).astype(np.uint8)
    return image, labels


def _place(rng: np.random.Generator, image: Image, cutout: Cutout, last: Box | None) -> Box:
    """Where a person comes: anywhere, far ones as often as near ones, or beside or before the `last` one."""
    rows, columns = image.shape[:2]
    beside = last if rng.random() < 0.5 else None
    wanted = rows * np.exp(rng.uniform(*np.log(PASTED_HEIGHTS)))
    if beside is not None:
        wanted = (beside[3] - beside[1]) * rng.uniform(0.85, 1.15)
    ratio = min(wanted / cutout.mask.shape[0], 1.5, 0.9 * columns / cutout.mask.shape[1])
    height, width = (max(4, round(side * ratio)) for side in cutout.mask.shape)
    top, left = rng.integers(rows - height + 1), rng.integers(columns - width + 1)
    if beside is not None:
        middle = (beside[0] + beside[2]) / 2 + rng.choice([-1, 1]) * width * rng.uniform(0.4, 1.2)
        top = np.clip(beside[3] - height + rng.normal(0, 0.05) * height, 0, rows - height)
        left = np.clip(middle - width / 2, 0, columns - width)
    return int(left), int(top), int(left) + width, int(top) + height


def _hide(rng: np.random.Generator, cover: np.ndarray) -> None:
    """Set to 0 what something before the person hides: the legs, or one side."""
    height, width = cover.shape
    if rng.random() < 0.6:
        cover[int(height * rng.uniform(0.5, 0.9)) :] = 0
    elif rng.random() < 0.5:
        cover[:, : int(width * rng.uniform(0.1, 0.45))] = 0
    else:
        cover[:, int(width * rng.uniform(0.55, 0.9)) :] = 0


def _warm_look(rng: np.random.Generator, pixels: NDArray[np.float32], ground: float) -> NDArray[np.float32]:
    """Grey values HxWx3 of a person who is warmer than the grey value `ground`: head, coat and legs by themselves."""
    head, coat, legs = rng.uniform([0.7, 0.1, 0.2], 1.1)
    height = pixels.shape[0]
    rows = np.interp(np.linspace(0, 1, height), [0.1, 0.2, 0.45, 0.6, 0.9], [head, coat, coat, legs, legs * 0.8])
    texture = pixels.mean(2) - pixels.mean()
    contrast = np.exp(rng.uniform(*np.log(WARMER)))
    level = ground + contrast * rows[:, None] + rng.uniform(-0.3, 0.3) * texture
    return np.repeat(np.clip(level, 0, 255)[..., None], 3, 2).astype(np.float32)
