"""Outlines drawn with LabelMe (versions 3.16 to 5) or X-AnyLabeling, one JSON file for each image::

    annotations/0001.json  images/0001.jpg     JSON apart from the images
    0001.json  0001.jpg                        or beside them, in any number of folders

A file either embeds its image (`imageData`) or names it (`imagePath`, relative to itself). Shapes are `polygon`,
`rectangle` (two opposite corners, or four), `rotation` (four corners), `circle` (its centre and a point on it), `mask`,
and `line` and `linestrip` if they are given a width. Shapes of one label and one `group_id` are one object.
"""

import base64
import binascii
import io
import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from thfuse_sam.arrays import Mask, Size, size_of
from thfuse_sam.datasets.named_images import list_images
from thfuse_sam.datasets.segmentation.formats.annotation_files import (
    ImageFinder,
    as_id,
    as_size,
    base_name,
    is_number,
    is_taken,
    quote,
    read_json,
)
from thfuse_sam.datasets.segmentation.formats.listing import Entry, Listing, files_below, image_folder
from thfuse_sam.datasets.segmentation.formats.objects import ImageObjects, require_size
from thfuse_sam.datasets.segmentation.formats.outlines import (
    CLIPPED,
    Point,
    circle_mask,
    line_mask,
    polygon_mask,
    require_pixels,
)
from thfuse_sam.datasets.segmentation.sample import SegmentationSample
from thfuse_sam.errors import ImageReadError, SampleError
from thfuse_sam.images import IMAGE_SUFFIXES, decode_visible, size_text
from thfuse_sam.masks.source_images import images_named
from thfuse_sam.options.shared import AnnotationReading

_ANNOTATIONS, _IMAGES = "annotations", "images"
_FILES_TO_CHECK = 10  # JSON files that are read at most to recognise the format


def find(root: Path, reading: AnnotationReading) -> Listing | None:
    """Entries of a folder, None if none of its first JSON files is LabelMe's.

    Raises PairError: two images with one name.
    """
    folder = root / _ANNOTATIONS
    files = files_below(folder if folder.is_dir() and (root / _IMAGES).is_dir() else root, ".json")
    if not any(is_taken(_load, file) for file in files[:_FILES_TO_CHECK]):
        return None
    is_beside = any(True for _ in images_named(files[0].parent, files[0].stem))
    apart = None if is_beside else image_folder(root)
    # Names start below the folder that all files have in common: an "images/" above all of them is no part of a name.
    base = Path(os.path.commonpath([path.parent for path in files]))
    finder = ImageFinder(root)
    entries: list[Entry] = []
    problems: list[str] = []
    annotated: dict[Path, Path] = {}  # image -> the file that it belongs to
    for path in files:
        try:
            content = _load(path)
            image = path if content.get("imageData") else _image_file(finder, path, content, apart)
        except SampleError as error:
            problems.append(str(error))
            image = path
        else:
            name = path.relative_to(base).as_posix().removesuffix(path.suffix)
            if image in annotated and image.stem != path.stem:  # a copy of the other's file
                problems.append(f"{path}: its imagePath is the image of {annotated[image]}; correct it")
            else:
                entries.append(Entry(name, image, partial(read, name, image, path, content, reading)))
        # The image of a bad file does not count as unannotated, nor does one beside the file that embeds it.
        own = images_named(apart or path.parent, path.stem) if image == path else [image]
        annotated |= dict.fromkeys(own, path)
    problems += _images_without_annotation(apart, {path.parent for path in files}, annotated.keys())
    return Listing(entries, problems)


def read(
    name: str, image_path: Path, json_path: Path, content: Mapping[str, Any], reading: AnnotationReading
) -> SegmentationSample:
    """An image and the objects that are drawn on it.

    `image_path` is the JSON file itself if that embeds the image; `content` is that of the file. Raises
    ImageReadError, and SampleError: an image of another size.
    """
    try:
        size = as_size(content.get("imageHeight"), content.get("imageWidth"))
    except ValueError as error:
        raise SampleError(f"{json_path}: {error}") from error
    if image_path == json_path:
        try:
            image = decode_visible(embedded_bytes(json_path), json_path)
        except ImageReadError as error:
            raise SampleError(f"{json_path}: its imageData is no readable image; save the file again") from error
        require_size(json_path, image.shape[:2], size, json_path)
        objects = ImageObjects(name, image, size_of(image))
    else:
        objects = ImageObjects.on(name, image_path, size, json_path, reading)
    for index, outline in enumerate(content["shapes"]):
        label = outline.get("label") if isinstance(outline, dict) else outline
        where = f"{json_path}: shape {index} '{quote(label)}'"
        draw = partial(_draw, outline, reading.line_width)
        group = outline.get("group_id") if isinstance(outline, dict) else None
        objects.add(where, draw, label, key=None if group is None else (label, as_id(group)))
    return objects.sample()


def embedded_bytes(path: Path) -> bytes:
    """The image file that a LabelMe file embeds. Raises SampleError."""
    try:
        # Without line breaks, and without what precedes the data in addresses ("data:image/png;base64,").
        return base64.b64decode("".join(_load(path)["imageData"].split()).rpartition(",")[2], validate=True)
    except (binascii.Error, AttributeError, TypeError, ValueError, KeyError) as error:
        raise SampleError(f"{path}: its imageData is damaged ({error}); save the file again") from error


def _load(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        raise SampleError(f"{path}: no LabelMe file, it has no list of shapes; remove it")
    return content


def _image_file(finder: ImageFinder, path: Path, content: dict[str, Any], apart: Path | None) -> Path:
    """The image of the file `path`: the one that it names, else one of the same name in `apart` or beside it."""
    named = content.get("imagePath")
    image = refused = None
    if isinstance(named, str):
        try:
            image = finder.find(named, [path.parent] if apart is None else [path.parent, apart], path)
        except SampleError as error:
            if Path(base_name(named)).stem != path.stem:
                raise
            refused = error  # a path of another machine, to an image that may have been converted since
    if image is not None and image.suffix.lower() != ".json":
        return image
    image = next(images_named(apart or path.parent, path.stem), None)
    if image is None:
        raise refused or SampleError(f"{path}: its image {named!r} is missing; put it there")
    return image


def _images_without_annotation(apart: Path | None, folders: set[Path], annotated: Iterable[Path]) -> list[str]:
    if apart is not None:
        images = list(list_images(apart).values())
    else:
        # Only beside JSON files: programs put masks and pictures of other kinds into further folders.
        files = (path for folder in sorted(folders) for path in sorted(folder.iterdir()))
        images = [path for path in files if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")]
    known = {path.absolute() for path in annotated}
    return [f"{image}: no LabelMe file belongs to it" for image in images if image.absolute() not in known]


def _draw(outline: Any, line_width: int | None, shape: Size, reasons: list[str]) -> Mask:
    """A shape of the file as a mask, which may be empty. Raises ValueError, TypeError, OverflowError."""
    if not isinstance(outline, dict) or not isinstance(outline.get("label"), str):
        raise ValueError("needs a label that is text")
    if outline.get("group_id") is not None and as_id(outline["group_id"]) is None:
        raise ValueError("its group_id is no number")
    kind = outline.get("shape_type") or "polygon"  # older versions drew nothing else
    points = _points(outline.get("points"))
    if kind in ("polygon", "rotation", "quadrilateral") or (kind == "rectangle" and len(points) == 4):
        require_pixels([points])
        return polygon_mask([points], shape, reasons)
    if kind in ("line", "linestrip"):
        if line_width is None:
            raise ValueError(f"is a {kind}, which has no area; give `line_width`, or draw a polygon")
        return line_mask(points, line_width, shape, reasons)
    if kind not in ("rectangle", "circle", "mask"):
        raise ValueError(f"is a {kind!r}, which is not drawn as an area; use polygon, rectangle or circle")
    if len(points) != 2:
        raise ValueError(f"a {kind} has {len(points)} points, it needs 2")
    if kind == "rectangle":
        (x0, y0), (x1, y1) = points
        return polygon_mask([[(x0, y0), (x1, y0), (x1, y1), (x0, y1)]], shape, reasons)
    if kind == "circle":
        return circle_mask(points[0], points[1], shape, reasons)
    return _stored_mask(base64.b64decode(outline.get("mask") or "", validate=True), points, shape, reasons)


def _points(points: Any) -> list[Point]:
    """The points (x, y) in pixels of a shape of the file. Raises ValueError."""
    is_list = isinstance(points, list) and all(isinstance(point, list) and len(point) == 2 for point in points)
    if not is_list or not all(map(is_number, itertools.chain(*points))):
        raise ValueError("its points are no list of [x, y]")
    return [(float(x), float(y)) for x, y in points]


def _stored_mask(png: bytes, corners: Sequence[Point], shape: Size, reasons: list[str]) -> Mask:
    """The mask in a PNG pasted at the first corner; the other belongs to it, or is the next. Raises ValueError."""
    (left, top), (right, bottom) = ((round(x), round(y)) for x, y in corners)
    part = _decode_png_mask(png, (bottom - top + 1, right - left + 1))
    whole = np.zeros(shape, bool)
    rows, columns = slice(max(top, 0), max(top + part.shape[0], 0)), slice(max(left, 0), max(left + part.shape[1], 0))
    height, width = whole[rows, columns].shape
    if (height, width) != part.shape:
        reasons.append(CLIPPED)
    whole[rows, columns] = part[max(-top, 0) :, max(-left, 0) :][:height, :width]
    return whole


def _decode_png_mask(content: bytes, shape: Size) -> Mask:
    """A mask of (height, width) `shape`, or a pixel less, from the bytes of a PNG, True where it is not black.

    Raises ValueError: no readable PNG, or of another size.
    """
    try:
        with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
            size = (image.height, image.width)
            # Compared before decoding, which makes an array of whatever size the header claims.
            fits = all(whole - 1 <= own <= whole for own, whole in zip(size, shape, strict=True))
            pixels = np.array(image.convert("L")) if fits else None
    # Pillow's plugins raise nearly every built-in exception on malformed content.
    except Exception as error:
        raise ValueError(f"a mask is no readable PNG ({error})") from error
    if pixels is None:
        raise ValueError(f"a mask is {size_text(size)}, its corners say {size_text(shape)} (width x height)")
    return pixels > 0
