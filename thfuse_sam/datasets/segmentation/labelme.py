"""Polygons drawn with LabelMe (versions 3.16 to 5), one JSON file an image::

    annotations/0001.json  images/0001.jpg     JSON apart from the images
    0001.json  0001.jpg                        or beside them, in any number of folders

A file either embeds its image (`imageData`) or names it (`imagePath`, relative to itself). Shapes are `polygon`,
`rectangle` (two opposite corners), `circle` (its centre and a point on it) and `mask`. Shapes of one label and one
`group_id` are one object. `__ignore__` and `_background_` are no objects.
"""

import base64
import binascii
import io
import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from thfuse_sam.datasets.pairs import list_images
from thfuse_sam.datasets.segmentation.entries import Found, resolve_inside
from thfuse_sam.datasets.segmentation.raster import Point, circle_mask, polygon_mask, rectangle_mask
from thfuse_sam.datasets.segmentation.sample import SegmentationSample
from thfuse_sam.errors import ImageReadError, SampleError
from thfuse_sam.images import IMAGE_SUFFIXES, read_visible

ANNOTATIONS_FOLDER, IMAGES_FOLDER = "annotations", "images"
NO_OBJECT = ("__ignore__", "_background_")  # labels that LabelMe itself treats apart

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
            return circle_mask(*_two(self), shape)
        if self.kind == "mask":
            return self._stored_mask(shape)
        if self.kind == "rectangle" and len(self.points) != 4:
            return rectangle_mask(_two(self), shape)
        return polygon_mask(self.points, shape)

    def _stored_mask(self, shape: tuple[int, int]) -> Mask:
        """The PNG pasted at the first corner; both corners belong to it."""
        (left, top), (right, bottom) = ((round(x), round(y)) for x, y in _two(self))
        height, width = bottom - top + 1, right - left + 1
        if left < 0 or top < 0 or right >= shape[1] or bottom >= shape[0] or height < 1 or width < 1:
            raise ValueError("a mask lies outside the image")
        with Image.open(io.BytesIO(base64.b64decode(self.mask or "", validate=True)), formats=("PNG",)) as image:
            if (image.height, image.width) != (height, width):
                raise ValueError(f"a mask is {image.width}x{image.height}, its corners say {width}x{height}")
            stored = np.array(image.convert("L")) > 0
        whole = np.zeros(shape, bool)
        whole[top : bottom + 1, left : right + 1] = stored
        if not whole.any():
            raise ValueError("a mask is empty")
        return whole


@dataclass(frozen=True)
class LabelMeEntry:
    """One LabelMe file."""

    name: str
    json_path: Path
    image_path: Path  # the JSON file itself where it embeds the image
    size: tuple[int, int] | None  # (height, width) as annotated; None where the file does not say
    shapes: tuple[Shape, ...]

    def read(self) -> SegmentationSample:
        embedded = self.image_path == self.json_path
        image = _embedded_image(self.json_path) if embedded else read_visible(self.image_path)
        shape = (image.shape[0], image.shape[1])
        if self.size is not None and self.size != shape:
            raise SampleError(
                f"{self.json_path}: annotated at {self.size[1]}x{self.size[0]}, its image is {shape[1]}x{shape[0]} "
                "(width x height); bring the image to the annotated size"
            )
        masks: dict[int, Mask] = {}
        categories: dict[int, str] = {}
        numbers: dict[Any, int] = {}
        for index, outline in enumerate(self.shapes):
            if outline.label in NO_OBJECT:
                continue
            key = index if outline.group is None else (outline.label, outline.group)
            number = numbers.setdefault(key, len(numbers) + 1)
            try:
                drawn = outline.draw(shape)
            # What the mask of a shape holds is decoded by Pillow, whose plugins raise nearly every built-in exception.
            except Exception as error:
                raise SampleError(f"{self.json_path}: shape {index} '{outline.label[:80]}': {error}") from error
            masks[number] = masks[number] | drawn if number in masks else drawn
            categories[number] = outline.label
        if not masks:
            raise SampleError(f"{self.json_path}: no object is labelled; label one or remove the file")
        return SegmentationSample.from_masks(self.name, image, masks, categories)


def is_labelme(content: Any) -> bool:
    """Whether parsed JSON looks like a LabelMe file."""
    return isinstance(content, dict) and isinstance(content.get("shapes"), list)


def json_files(root: Path) -> list[Path]:
    """The JSON files that may be LabelMe's: those in `annotations/`, else all below `root`; none hidden."""
    folder = root / ANNOTATIONS_FOLDER
    folder = folder if folder.is_dir() and (root / IMAGES_FOLDER).is_dir() else root
    files = (path for path in folder.rglob("*.json") if path.is_file())
    return sorted(path for path in files if not any(part.startswith(".") for part in path.relative_to(root).parts))


def find_labelme(root: Path) -> Found:
    """Entries of a folder of LabelMe files. Raises PairError: two images with one name."""
    apart = root / IMAGES_FOLDER if (root / ANNOTATIONS_FOLDER).is_dir() else None
    files = json_files(root)
    # Names start where the files' folders part, so that "images/" above all of them is no part of a name.
    base = Path(os.path.commonpath([path.parent for path in files])) if files else root
    entries: list[LabelMeEntry] = []
    problems: list[str] = []
    used: set[Path] = set()
    for path in files:
        try:
            entry = _entry(root, base, path, apart)
        except SampleError as error:
            problems.append(str(error))
            used.update(_same_stem(path, apart or path.parent))  # one line for a pair is enough
            continue
        entries.append(entry)
        used.add(entry.image_path)
        if entry.image_path == entry.json_path:
            used.update(_same_stem(path, apart or path.parent))
    problems += _images_without_annotation(apart, {path.parent for path in files}, used)
    return Found(entries, problems)


def _images_without_annotation(apart: Path | None, folders: set[Path], used: set[Path]) -> list[str]:
    images = list(list_images(apart).values()) if apart is not None else []
    if apart is None:
        # Only beside JSON files: programs put masks and pictures of other kinds into further folders.
        found = (path for folder in sorted(folders) for path in sorted(folder.iterdir()))
        images = [path for path in found if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")]
    known = {path.absolute() for path in used}
    return [f"{image}: no LabelMe file belongs to it" for image in images if image.absolute() not in known]


def _same_stem(json_path: Path, folder: Path) -> list[Path]:
    candidates = (folder / (json_path.stem + suffix) for lower in IMAGE_SUFFIXES for suffix in (lower, lower.upper()))
    return [path for path in candidates if path.is_file()]


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise SampleError(f"{path}: not readable as JSON ({error}); mend or remove it") from error
    if not is_labelme(content):
        raise SampleError(f"{path}: no LabelMe file, it has no list of shapes; remove it")
    return dict(content)


def _entry(root: Path, base: Path, path: Path, apart: Path | None) -> LabelMeEntry:
    content = _load(path)
    shapes = []
    for index, shape in enumerate(content["shapes"]):
        try:
            shapes.append(_shape(shape))
        except (ValueError, OverflowError) as error:
            raise SampleError(f"{path}: shape {index}: {error}") from None
    name = path.relative_to(base).as_posix()[: -len(path.suffix)]
    image = path if content.get("imageData") else _image_file(root, path, content, apart)
    size = (content.get("imageHeight"), content.get("imageWidth"))
    return LabelMeEntry(name, path, image, size if all(isinstance(side, int) for side in size) else None, tuple(shapes))  # type: ignore[arg-type]


def _image_file(root: Path, path: Path, content: dict[str, Any], apart: Path | None) -> Path:
    named = content.get("imagePath")
    if not isinstance(named, str):
        raise SampleError(f"{path}: has neither imageData nor imagePath; name its image")
    found = resolve_inside(root, path.parent, named, path)
    if found.is_file() and found.suffix.lower() != ".json":
        return found
    # Files moved into `annotations/` and `images/` keep the old path.
    beside = [apart / found.name] if apart is not None else []
    for candidate in [*beside, *_same_stem(path, apart or path.parent)]:
        if candidate.is_file():
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


def _two(shape: Shape) -> tuple[Point, Point]:
    if len(shape.points) != 2:
        raise ValueError(f"a {shape.kind} has {len(shape.points)} points, it needs 2")
    return shape.points[0], shape.points[1]


def embedded_bytes(path: Path) -> bytes:
    """The image file that a LabelMe file embeds. Raises SampleError."""
    try:
        return base64.b64decode(_load(path)["imageData"], validate=True)
    except (binascii.Error, TypeError, ValueError, KeyError) as error:
        raise SampleError(f"{path}: its imageData is damaged ({error}); save the file again") from error


def _embedded_image(path: Path) -> npt.NDArray[np.uint8]:
    """The pixels of the embedded image, uint8 HxWx3 RGB."""
    content = embedded_bytes(path)
    with tempfile.TemporaryDirectory() as folder:
        # The one reader of images reads files.
        file = Path(folder) / "embedded"
        file.write_bytes(content)
        try:
            return read_visible(file)
        except ImageReadError as error:
            raise SampleError(f"{path}: its imageData is no readable image; save the file again") from error
