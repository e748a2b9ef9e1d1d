"""Polygons drawn with LabelMe (versions 3.16 to 5), one JSON file an image::

    annotations/0001.json  images/0001.jpg     JSON apart from the images
    0001.json  0001.jpg                        or beside them, in any number of folders

A file either embeds its image (`imageData`) or names it (`imagePath`, relative to itself). Shapes are `polygon`,
`rectangle` (two opposite corners), `circle` (its centre and a point on it) and `mask`. Shapes of one label and one
`group_id` are one object. `__ignore__` and `_background_` are no objects.
"""

import base64
import binascii
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from thfuse_sam.datasets.pairs import list_images
from thfuse_sam.datasets.segmentation.formats.annotation_files import read_json, resolve_inside
from thfuse_sam.datasets.segmentation.formats.listing import Entry, Format, Listing
from thfuse_sam.datasets.segmentation.formats.mask_images import decode_png_mask
from thfuse_sam.datasets.segmentation.formats.raster import Point, circle_mask, polygon_mask, rectangle_mask
from thfuse_sam.datasets.segmentation.sample import SegmentationSample
from thfuse_sam.errors import ImageReadError, SampleError
from thfuse_sam.images import IMAGE_SUFFIXES, decode_visible, read_visible

_ANNOTATIONS, _IMAGES = "annotations", "images"
_FILES_TO_TELL = 10  # JSON files, at most, that are looked into to tell the format
_NO_OBJECT = ("__ignore__", "_background_")  # labels that LabelMe itself treats apart

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Shape:
    """One outline of a LabelMe file."""

    label: str
    kind: str  # polygon, rectangle, circle or mask
    points: tuple[Point, ...]  # (x, y) in pixels
    group: int | str | None  # shapes of one label and group are one object
    mask: str | None  # base64 of a PNG; for kind mask

    def draw(self, shape: tuple[int, int]) -> Mask:
        """The shape as a bool mask of (height, width) `shape`. Raises ValueError."""
        if self.kind == "circle":
            return circle_mask(*self._two_points(), shape)
        if self.kind == "mask":
            return self._stored_mask(shape)
        if self.kind == "rectangle" and len(self.points) != 4:
            return rectangle_mask(self._two_points(), shape)
        return polygon_mask(self.points, shape)

    def _stored_mask(self, shape: tuple[int, int]) -> Mask:
        """The PNG pasted at the first corner; both corners belong to it."""
        (left, top), (right, bottom) = ((round(x), round(y)) for x, y in self._two_points())
        height, width = bottom - top + 1, right - left + 1
        if left < 0 or top < 0 or right >= shape[1] or bottom >= shape[0] or height < 1 or width < 1:
            raise ValueError("a mask lies outside the image")
        whole = np.zeros(shape, bool)
        content = base64.b64decode(self.mask or "", validate=True)
        whole[top : bottom + 1, left : right + 1] = decode_png_mask(content, (height, width))
        if not whole.any():
            raise ValueError("a mask is empty")
        return whole

    def _two_points(self) -> tuple[Point, Point]:
        if len(self.points) != 2:
            raise ValueError(f"a {self.kind} has {len(self.points)} points, it needs 2")
        return self.points[0], self.points[1]


def detect(root: Path) -> bool:
    """Whether one of the folder's first JSON files is LabelMe's."""
    for path in _json_files(root)[:_FILES_TO_TELL]:
        try:
            _load(path)
        except SampleError:
            continue
        return True
    return False


def _json_files(root: Path) -> list[Path]:
    """The JSON files that may be LabelMe's: those in `annotations/`, else all below `root`; none hidden."""
    folder = root / _ANNOTATIONS
    folder = folder if folder.is_dir() and (root / _IMAGES).is_dir() else root
    files = (path for path in folder.rglob("*.json") if path.is_file())
    return sorted(path for path in files if not any(part.startswith(".") for part in path.relative_to(root).parts))


def find(root: Path) -> Listing:
    """Entries of a folder of LabelMe files. Raises PairError: two images with one name."""
    apart = root / _IMAGES if (root / _ANNOTATIONS).is_dir() else None
    files = _json_files(root)
    # Names start where the files' folders part, so that "images/" above all of them is no part of a name.
    base = Path(os.path.commonpath([path.parent for path in files])) if files else root
    entries: list[Entry] = []
    problems: list[str] = []
    annotated: set[Path] = set()  # images that a file belongs to
    for path in files:
        try:
            entry = _entry(root, base, path, apart)
        except SampleError as error:
            problems.append(str(error))
            annotated.update(_same_stem(path, apart or path.parent))  # one line for a pair is enough
            continue
        entries.append(entry)
        annotated.add(entry.image_path)
        if entry.image_path == path:
            annotated.update(_same_stem(path, apart or path.parent))
    problems += _images_without_annotation(apart, {path.parent for path in files}, annotated)
    return Listing(entries, problems)


def read(
    name: str, image_path: Path, json_path: Path, size: tuple[int, int] | None, shapes: Sequence[Shape]
) -> SegmentationSample:
    """An image and the objects that are drawn on it.

    Args:
        name: of the sample.
        image_path: its image; the JSON file itself where that embeds the image.
        json_path: the LabelMe file, named in errors.
        size: (height, width) as annotated; None where the file does not say.
        shapes: all of the file.

    Raises ImageReadError, and SampleError: an image of another size, a shape without area, or no object.
    """
    image = _embedded_image(json_path) if image_path == json_path else read_visible(image_path)
    shape = (image.shape[0], image.shape[1])
    if size is not None and size != shape:
        raise SampleError(
            f"{json_path}: annotated at {size[1]}x{size[0]}, its image is {shape[1]}x{shape[0]} "
            "(width x height); bring the image to the annotated size"
        )
    masks: dict[int, Mask] = {}
    categories: dict[int, str] = {}
    numbers: dict[Any, int] = {}
    for index, outline in enumerate(shapes):
        if outline.label in _NO_OBJECT:
            continue
        key = index if outline.group is None else (outline.label, outline.group)
        number = numbers.setdefault(key, len(numbers) + 1)
        try:
            mask = outline.draw(shape)
        except (ValueError, TypeError, OverflowError) as error:
            raise SampleError(f"{json_path}: shape {index} '{outline.label[:80]}': {error}") from error
        masks[number] = masks[number] | mask if number in masks else mask
        categories[number] = outline.label
    if not masks:
        raise SampleError(f"{json_path}: no object is labelled; label one or remove the file")
    return SegmentationSample.from_masks(name, image, masks, categories)


def _images_without_annotation(apart: Path | None, folders: set[Path], annotated: set[Path]) -> list[str]:
    if apart is not None:
        images = list(list_images(apart).values())
    else:
        # Only beside JSON files: programs put masks and pictures of other kinds into further folders.
        files = (path for folder in sorted(folders) for path in sorted(folder.iterdir()))
        images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")]
    known = {path.absolute() for path in annotated}
    return [f"{image}: no LabelMe file belongs to it" for image in images if image.absolute() not in known]


def _same_stem(json_path: Path, folder: Path) -> list[Path]:
    candidates = (folder / (json_path.stem + suffix) for lower in IMAGE_SUFFIXES for suffix in (lower, lower.upper()))
    return [path for path in candidates if path.is_file()]


def _load(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise SampleError(f"{path}: no LabelMe file, it has no list of shapes; remove it")
    return content


def _entry(root: Path, base: Path, path: Path, apart: Path | None) -> Entry:
    """The entry of the LabelMe file `path`.

    Args:
        root: of the data set, which no path may leave.
        base: the folder below which names start.
        path: the file.
        apart: the folder of images, where that is not the file's own.
    """
    content = _load(path)
    shapes = []
    for index, shape in enumerate(content["shapes"]):
        try:
            shapes.append(_shape(shape))
        except (ValueError, OverflowError) as error:
            raise SampleError(f"{path}: shape {index}: {error}") from None
    name = path.relative_to(base).as_posix().removesuffix(path.suffix)
    image = path if content.get("imageData") else _image_file(root, path, content, apart)
    height, width = content.get("imageHeight"), content.get("imageWidth")
    size = (height, width) if isinstance(height, int) and isinstance(width, int) else None
    return Entry(name, image, partial(read, name, image, path, size, tuple(shapes)))


def _image_file(root: Path, path: Path, content: dict[str, Any], apart: Path | None) -> Path:
    named = content.get("imagePath")
    if not isinstance(named, str):
        raise SampleError(f"{path}: has neither imageData nor imagePath; name its image")
    image = resolve_inside(root, path.parent, named, path)
    if image.is_file() and image.suffix.lower() != ".json":
        return image
    # Files that were moved into `annotations/` and `images/` keep the old path.
    if apart is not None and (apart / image.name).is_file():
        return apart / image.name
    for candidate in _same_stem(path, apart or path.parent):
        return candidate
    raise SampleError(f"{path}: its image {named!r} is missing; put it there")


def _shape(shape: Any) -> Shape:
    if not isinstance(shape, dict) or not isinstance(shape.get("label"), str):
        raise ValueError("has no label")
    kind = shape.get("shape_type") or "polygon"  # older versions drew nothing else
    if kind not in ("polygon", "rectangle", "circle", "mask"):
        raise ValueError(f"is a {kind!r}, which has no area; use polygon, rectangle or circle")
    points = shape.get("points")
    if not isinstance(points, list) or not all(_is_point(point) for point in points):
        raise ValueError("its points are no list of [x, y]")
    group = shape.get("group_id")
    if group is not None and not isinstance(group, int | str):
        raise ValueError("its group_id is no number")
    return Shape(shape["label"], kind, tuple((float(x), float(y)) for x, y in points), group, shape.get("mask"))


def _is_point(point: Any) -> bool:
    return isinstance(point, list) and len(point) == 2 and all(type(value) in (int, float) for value in point)


def embedded_bytes(path: Path) -> bytes:
    """The image file that a LabelMe file embeds. Raises SampleError."""
    try:
        return base64.b64decode(_load(path)["imageData"], validate=True)
    except (binascii.Error, TypeError, ValueError, KeyError) as error:
        raise SampleError(f"{path}: its imageData is damaged ({error}); save the file again") from error


def _embedded_image(path: Path) -> npt.NDArray[np.uint8]:
    """The pixels of the embedded image, uint8 HxWx3 RGB."""
    try:
        return decode_visible(embedded_bytes(path), path)
    except ImageReadError as error:
        raise SampleError(f"{path}: its imageData is no readable image; save the file again") from error


FORMAT = Format("LabelMe", "annotations/*.json + images/ (LabelMe), or *.json beside images", detect, find)
