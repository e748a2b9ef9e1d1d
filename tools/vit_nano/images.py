"""What `vit_nano` learns from: images and their label maps, from three sources.

Textured shapes teach borders, rendered scenes teach objects, and photos teach how real cameras see. An image is uint8
HxWx3 RGB, its label map int32 HxW, where 0 is no region and people have labels from `FIRST_PERSON` on.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from tools.scenes import Scene

Image = NDArray[np.uint8]
Labels = NDArray[np.int32]

PADDING = -1  # label of padded pixels
PHOTO_SCALES = (100, 300, 800)  # Felzenszwalb's `scale`: larger means larger regions
PHOTO_LONGEST_SIDE = 640  # pixels
DARK = 40  # mean grey level of an image that is not darkened further
FIRST_PERSON = 10_000  # the lowest label of a person


# ----------------------------------------------------------------------------------------------------- shapes


def textured_shapes(rng: np.random.Generator, size: int) -> tuple[Image, Labels]:
    """Overlapping ellipses, polygons and rectangles with textures of their own on a textured ground.

    Returns:
        image: uint8, size x size x 3, RGB.
        labels: int32, size x size; 0 is the ground, which is no region.
    """
    image: np.ndarray = (
        rng.uniform(0, 255, 3).astype(np.float32)
        + _noise(rng, size, int(rng.choice([4, 16, 64]))) * rng.uniform(0, 40)
        + _noise(rng, size, 2) * rng.uniform(0, 10)
    )
    labels = np.zeros((size, size), np.int32)
    for label in range(1, int(rng.integers(4, 16)) + 1):
        shape = _random_shape(rng, size)
        labels[shape] = label
        colour = rng.uniform(0, 255, 3).astype(np.float32)
        texture = colour + _noise(rng, size, int(rng.choice([3, 8, 32]))) * rng.uniform(0, 35)
        image[shape] = texture[shape]
    if rng.random() < 0.5:
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.5))
    image += rng.standard_normal((size, size, 1), dtype=np.float32) * rng.uniform(0, 8)
    return np.clip(image, 0, 255).astype(np.uint8), labels


def _noise(rng: np.random.Generator, size: int, cell: int) -> np.ndarray:
    """Smooth noise with standard deviation about 1, size x size x 3, in cells of `cell` pixels."""
    cells = max(2, size // cell)
    return cv2.resize(
        rng.standard_normal((cells, cells, 3), dtype=np.float32), (size, size), interpolation=cv2.INTER_CUBIC
    )


def _random_shape(rng: np.random.Generator, size: int) -> NDArray[np.bool_]:
    """Mask size x size of an ellipse, a polygon or a rectangle."""
    mask = np.zeros((size, size), np.uint8)
    centre = rng.integers(0, size, 2)
    radius = rng.choice([0.04, 0.07, 0.12, 0.2, 0.3]) * size * rng.uniform(0.7, 1.3) + 3
    kind = rng.random()
    if kind < 0.35:
        axes = (int(radius), int(radius * rng.uniform(0.3, 1)))
        cv2.ellipse(mask, tuple(map(int, centre)), axes, rng.uniform(0, 180), 0, 360, 1, -1)
    elif kind < 0.7:
        corners = int(rng.integers(3, 9))
        angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
        radii = radius * rng.uniform(0.5, 1, corners)
        points = centre + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
        cv2.fillPoly(mask, [points.astype(np.int32)], 1)
    else:
        sides = (radius * 2, radius * rng.uniform(0.2, 2))
        box = cv2.boxPoints((tuple(map(float, centre)), sides, rng.uniform(0, 90)))
        cv2.fillPoly(mask, [box.astype(np.int32)], 1)
    return mask.astype(bool)


# ------------------------------------------------------------------------------------------- scenes and photos


@dataclass(frozen=True)
class Photo:
    """A photo with its regions at several scales."""

    image: Image
    regions: NDArray[np.int16]  # scales x H x W, region numbers from 0
    people: NDArray[np.int16] | None = None  # HxW, labelled people from 1; None: nobody has labelled any


def photo_regions(image: Image, people: NDArray[np.int16] | None = None) -> Photo:
    """Graph-based segmentation of a photo at `PHOTO_SCALES` (Felzenszwalb and Huttenlocher, IJCV 2004).

    It is done at half the photo's size, which is several times as fast. A photo whose longest side is above
    `PHOTO_LONGEST_SIDE` is made smaller first, and its `people` with it.
    """
    # Only this training needs scikit-image (the extra `nano`).
    from skimage.segmentation import felzenszwalb

    ratio = PHOTO_LONGEST_SIDE / max(image.shape[:2])
    if ratio < 1:
        image = cv2.resize(image, None, fx=ratio, fy=ratio, interpolation=cv2.INTER_AREA).astype(np.uint8)
        if people is not None:
            people = cv2.resize(people, image.shape[1::-1], interpolation=cv2.INTER_NEAREST).astype(np.int16)
    half = cv2.resize(cv2.bilateralFilter(image, 7, 30, 5), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    regions = [
        cv2.resize(
            felzenszwalb(half, scale=scale, sigma=0.6, min_size=20 + scale // 8).astype(np.int16),
            image.shape[1::-1],
            interpolation=cv2.INTER_NEAREST,
        )
        for scale in PHOTO_SCALES
    ]
    return Photo(image, np.stack(regions), people)


def random_scene(rng: np.random.Generator, scenes: Sequence[Scene], whole: float) -> tuple[Image, Labels]:
    """A scene in one modality: whole with the probability `whole`, else a crop of it."""
    scene = scenes[int(rng.integers(len(scenes)))]
    if rng.random() < 0.5:
        image, labels = scene.visible, scene.visible_labels
    else:
        image, labels = np.repeat(scene.infrared[..., None], 3, 2), scene.infrared_labels
    window = _random_window(rng, image.shape[0], image.shape[1], whole)
    shift = np.zeros(int(labels.max()) + 1, np.int32)
    for label, name in scene.names.items():
        if name in ("person", "cyclist") and label < len(shift):
            shift[label] = FIRST_PERSON
    shown = labels[window].astype(np.int32)
    return image[window], shown + shift[shown]


def random_photo(rng: np.random.Generator, photos: Sequence[Photo], whole: float) -> tuple[Image, Labels]:
    """A photo with its regions at one scale: whole with the probability `whole`, else a crop of it."""
    photo = photos[int(rng.integers(len(photos)))]
    regions = photo.regions[int(rng.integers(len(photo.regions)))]
    window = _random_window(rng, photo.image.shape[0], photo.image.shape[1], whole)
    labels = regions.astype(np.int32) + 1
    if photo.people is not None:
        labels = np.where(photo.people > 0, FIRST_PERSON + photo.people.astype(np.int32), labels)
    return photo.image[window], labels[window]


def _random_window(rng: np.random.Generator, height: int, width: int, whole: float) -> tuple[slice, slice]:
    """Rows and columns of at least 0.6 of either side."""
    if rng.random() < whole:
        return np.s_[:height, :width]
    side_y, side_x = (int(rng.integers(int(0.6 * side), side + 1)) for side in (height, width))
    y, x = int(rng.integers(height - side_y + 1)), int(rng.integers(width - side_x + 1))
    return np.s_[y : y + side_y, x : x + side_x]


# ------------------------------------------------------------------------------------------------ augmentation


def jitter_colours(rng: np.random.Generator, image: Image) -> Image:
    """Random brightness, contrast, gamma, greyness and inversion (warm things are dark in some infrared cameras)."""
    values: np.ndarray = image.astype(np.float32)
    if rng.random() < 0.35:
        values[:] = values.mean(2, keepdims=True)
        if rng.random() < 0.2:
            values = 255 - values
    values = values * rng.uniform(0.6, 1.4) + rng.uniform(-min(25, values.mean() / 3), 25)
    if rng.random() < 0.3:
        values = 255 * (np.clip(values, 0, 255) / 255) ** rng.uniform(0.6, 1.6)
    return np.clip(values, 0, 255).astype(np.uint8)


def degrade(rng: np.random.Generator, image: Image) -> Image:
    """What cameras do at night, each by chance: blur, low contrast, darkness, and noise, fine or coarse."""
    values: np.ndarray = image.astype(np.float32)
    height, width = image.shape[:2]
    if rng.random() < 0.25:
        values = cv2.GaussianBlur(values, (0, 0), rng.uniform(0.4, 1.4))
    if rng.random() < 0.2:
        values = values.mean() + (values - values.mean()) * rng.uniform(0.35, 0.8)
    if rng.random() < 0.35 and values.mean() > DARK:
        values = values * rng.uniform(0.25, 0.7)
    if rng.random() < 0.4:
        step = int(rng.integers(1, 3))  # a coarse sensor whose image was enlarged
        noise: np.ndarray = rng.standard_normal((-(-height // step), -(-width // step)), dtype=np.float32)
        noise = cv2.resize(noise, (width, height), interpolation=cv2.INTER_LINEAR)
        values = values + noise[..., None] * rng.uniform(1, 9)
    return np.clip(values, 0, 255).astype(np.uint8)


def fit_to_square(image: Image, labels: Labels, size: int) -> tuple[Image, Labels]:
    """Resize the longest side to `size` and pad at the bottom or right, as SAM does; padding is labelled `PADDING`."""
    height, width = image.shape[:2]
    ratio = size / max(height, width)
    new_height, new_width = int(height * ratio + 0.5), int(width * ratio + 0.5)
    square = np.zeros((size, size, 3), np.uint8)
    square[:new_height, :new_width] = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_AREA)
    square_labels = np.full((size, size), PADDING, np.int32)
    square_labels[:new_height, :new_width] = cv2.resize(
        labels.astype(np.float32), (new_width, new_height), interpolation=cv2.INTER_NEAREST
    )
    return square, square_labels
