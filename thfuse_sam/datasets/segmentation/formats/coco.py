"""COCO instance annotations: one JSON file with polygons or run-length encoded masks for a whole folder::

    annotations.json                     images/*.jpg
    annotations/instances_train.json     train/*.jpg, images/train/*.jpg or images/*.jpg    COCO, CVAT, Datumaro
    result.json                          images/*.jpg                                       Label Studio
    labels.json                          data/*.jpg                                         FiftyOne
    _annotations.coco.json               *.jpg beside it                                    Roboflow
    sa_1.json, sa_2.json, ...            sa_1.jpg, sa_2.jpg, ... beside them                SA-1B, one file an image

Regions of crowds are neither object nor background. Images without an object are left out: COCO lists them on purpose.
(T.-Y. Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014.)
"""

import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from thfuse_sam.arrays import Array, Mask, Size
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
from thfuse_sam.datasets.segmentation.formats.listing import WITHOUT_OBJECTS, Entry, Listing, files_below
from thfuse_sam.datasets.segmentation.formats.objects import ImageObjects, is_background, is_ignored
from thfuse_sam.datasets.segmentation.formats.outlines import NO_OUTLINE, Point, polygon_mask, require_pixels
from thfuse_sam.datasets.segmentation.sample import SegmentationSample, mask_box
from thfuse_sam.errors import SampleError, UsageError
from thfuse_sam.masks.rle import decode_rle, encode_rle
from thfuse_sam.masks.source_images import images_named
from thfuse_sam.options.shared import AnnotationReading

CROWD = "regions of crowds and what is marked to be ignored, ignored (as objects: `use_crowds`)"
ALL_CROWDS = "marked as crowds, as all of the file are, and taken as objects"
ELSEWHERE = "whose outline and bbox are not in the same place, taken as outlined"
UNKNOWN_CATEGORY = "of a category that is not listed, without a class name"

_FILE_NAMES = ("annotations.json", "_annotations.coco.json", "coco.json")
_FOLDER, _PREFIX = "annotations", "instances"
_LISTS = ("images", "annotations")  # the lists that a COCO file must have
_FILES_TO_CHECK = 4  # JSON files of other names that are read at most to find one of COCO
_LEAST_OVERLAP, _ROUNDING = 0.5, 3.0  # of an outline's box and the bbox (IoU); pixels by which small ones may differ
_IGNORED = "ignore"  # category of the regions that `CocoAnnotations.ignore` adds

Id = int | str


def annotation_file(root: Path) -> Path | None:
    """The COCO file of a folder, None if it has none. Raises UsageError if it has several."""
    files = annotation_files(root)
    if len(files) > 1:
        names = ", ".join(str(path.relative_to(root)) for path in files)
        raise UsageError(f"{root}: several COCO files ({names}); give the one to use in place of the folder")
    return files[0] if files else None


def annotation_files(root: Path) -> list[Path]:
    """The COCO files of a folder."""
    folders = [folder for folder in (root, root / _FOLDER) if folder.is_dir()]
    paths = [path for folder in folders for path in sorted(folder.iterdir()) if path.suffix.lower() == ".json"]
    files = [path for path in paths if path.is_file() and not path.name.startswith(".")]
    names = [path.name.casefold() for path in files]
    usual = [path for path, name in zip(files, names, strict=True) if name in _FILE_NAMES or name.startswith(_PREFIX)]
    # Tools have names of their own; a folder of many JSON files is of another format.
    return usual or [path for path in files if len(files) <= _FILES_TO_CHECK and is_taken(_load, path)]


def find(root: Path, reading: AnnotationReading) -> Listing | None:
    """Entries of a folder's COCO file, None if it has none. Raises UsageError: several files, or as `find_in`."""
    file = annotation_file(root)
    return None if file is None else find_in(file, reading)


def find_in(file: Path, reading: AnnotationReading) -> Listing:
    """Entries of a COCO file. Raises UsageError: no COCO file, or unreadable."""
    content = _load(file)
    # If the file lies in a folder `annotations/`, the images lie beside that folder.
    root = file.parent.parent if file.parent.name == _FOLDER else file.parent
    folders = _image_folders(root, file)
    finder = ImageFinder(root)
    meaning = _Meaning.of(content, reading, file)
    annotations, problems = _by_image(content, file)
    without_objects = sum(not own for own in annotations.values())
    images: dict[Path, tuple[str, Size | None, list[dict[str, Any]]]] = {}
    for image in content["images"]:
        number = as_id(image.get("id")) if isinstance(image, dict) else None
        if number is None:
            problems.append(f"{file}: an image has no number as id: {quote(image)}")
        elif own := annotations.pop(number, None):
            try:
                name, path, size = _find_image(finder, folders, file, image)
            except SampleError as error:
                problems.append(str(error))
            else:  # files that were joined may list an image twice
                images.setdefault(path, (name, size, []))[2].extend(own)
    entries = [
        Entry(name, path, partial(read, name, path, file, size, own, meaning))
        for path, (name, size, own) in images.items()
    ]
    return Listing(sorted(entries, key=lambda entry: entry.name), problems, Counter({WITHOUT_OBJECTS: without_objects}))


@dataclass(frozen=True)
class _Meaning:
    """What the annotations of a file mean."""

    categories: Mapping[Id | None, str]
    only_crowds: bool  # some tools write each brush mask as a crowd; no set of data consists of crowds alone
    reading: AnnotationReading

    @classmethod
    def of(cls, content: Mapping[str, Any], reading: AnnotationReading, file: Path) -> "_Meaning":
        only_crowds = all(_is_crowd(item) for item in content["annotations"] if isinstance(item, dict))
        return cls(_category_names(content, file), only_crowds, reading)


def read(
    name: str,
    image_path: Path,
    json_path: Path,
    size: Size | None,
    annotations: Sequence[Mapping[str, Any]],
    meaning: _Meaning,
) -> SegmentationSample:
    """An image and its annotated objects.

    `size` is as annotated, None if the file does not say; `annotations` are those of this image. Raises ImageReadError,
    and SampleError: an image of another size.
    """
    objects = ImageObjects.on(name, image_path, size, json_path, meaning.reading)
    for annotation in annotations:
        where = f"{json_path}: annotation {quote(annotation.get('id'))} of {image_path.name}"
        draw = partial(_draw, annotation)
        if _is_crowd(annotation) and not (meaning.only_crowds or meaning.reading.use_crowds):
            objects.ignore(where, draw, CROWD)
            continue
        if _is_crowd(annotation) and not meaning.reading.use_crowds:
            objects.note(ALL_CROWDS, where)
        category = meaning.categories.get(as_id(annotation.get("category_id")))
        if category is None and meaning.categories:
            objects.note(UNKNOWN_CATEGORY, where)
        objects.add(where, draw, category)
    return objects.sample()


def find_for_each_image(root: Path, reading: AnnotationReading) -> Listing | None:
    """Entries of a folder in which each image has a file of its own, as in SA-1B; None if it is another."""
    files = files_below(root, ".json")
    if not any(is_taken(_load_of_one_image, file) for file in files[:_FILES_TO_CHECK]):
        return None
    finder, entries, problems = ImageFinder(root), list[Entry](), list[str]()
    for file in files:
        try:
            name, path, _ = _find_image(finder, _image_folders(root, file), file, _load_of_one_image(file)["image"])
        except SampleError as error:
            problems.append(str(error))
        else:
            entries.append(Entry(name, path, partial(_read_of_one_image, name, path, file, reading)))
    return Listing(entries, problems)


def _read_of_one_image(name: str, image_path: Path, file: Path, reading: AnnotationReading) -> SegmentationSample:
    content = _load_of_one_image(file)
    size = as_size(content["image"].get("height"), content["image"].get("width"))
    return read(name, image_path, file, size, content["annotations"], _Meaning({}, False, reading))


def _load_of_one_image(file: Path) -> dict[str, Any]:
    content = read_json(file)
    kinds = {"image": dict, "annotations": list}
    if not isinstance(content, dict) or any(not isinstance(content.get(key), kind) for key, kind in kinds.items()):
        raise SampleError(f"{file}: not a file of one image, it needs 'image' and a list 'annotations'; remove it")
    return content


@dataclass(frozen=True)
class CocoObject:
    """An annotation of a single object, unchecked and without its image."""

    file_name: str  # of its image, with forward slashes
    where: str  # the beginning of a message about it
    size: tuple[Any, Any]  # height, width of its image, as the file says
    category: str | None  # None: the file names no category of its number
    annotation: Mapping[str, Any]


def objects_by_image(path: Path, problems: list[str]) -> Iterator[CocoObject]:
    """The objects of a COCO file, or of a folder's; a line for each that is of no certain image goes to `problems`.

    Raises UsageError: no COCO file, or unreadable.
    """
    file = (annotation_file(path) or path) if path.is_dir() else path
    content = _load(file)
    categories, (annotations, stray) = _category_names(content, file), _by_image(content, file)
    problems += stray
    for image in content["images"]:
        number = as_id(image.get("id")) if isinstance(image, dict) else None
        if number is None:
            continue
        file_name = str(image.get("file_name")).replace("\\", "/")
        size = as_id(image.get("height")), as_id(image.get("width"))
        for annotation in annotations.get(number, ()):
            category = categories.get(as_id(annotation.get("category_id")))
            if not (_is_crowd(annotation) or is_background(category) or is_ignored(category)):
                where = f"{file}: annotation {quote(annotation.get('id'))} of {quote(file_name)}"
                yield CocoObject(file_name, where, size, category, annotation)


class CocoAnnotations:
    """Collects images and their objects for an annotation file."""

    def __init__(self, *categories: str) -> None:
        """`categories`: class names that are listed whether or not an object has them."""
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._categories = {name: number for number, name in enumerate(categories, 1)}

    def add_image(self, file_name: str, shape: Size) -> None:
        """Add an image of (height, width) `shape`."""
        number = len(self._images) + 1
        self._images.append({"id": number, "file_name": file_name, "height": shape[0], "width": shape[1]})

    def ignore(self, mask: Mask) -> None:
        """Add a region (bool HxW) that is neither object nor background, as a crowd, to the image added last."""
        self.add_object(mask, _IGNORED, is_crowd=True)

    def add_object(self, mask: Mask, category: str, *, is_crowd: bool = False, **more: Any) -> None:
        """Add an object (bool HxW) to the image that was added last; `more` is written beside the entries of COCO."""
        encoded = encode_rle(mask)
        self._annotations.append(
            {
                "id": len(self._annotations) + 1,
                "image_id": len(self._images),
                "category_id": self._categories.setdefault(category, len(self._categories) + 1),
                "segmentation": encoded,
                "area": int(np.count_nonzero(mask)),
                "bbox": [float(value) for value in coco_mask.toBbox(encoded)],
                **more,
                "iscrowd": int(is_crowd),
            }
        )

    def content(self) -> dict[str, Any]:
        """The content of the annotation file, ready for JSON."""
        categories = [{"id": number, "name": name} for name, number in self._categories.items()]
        return {"images": self._images, "annotations": self._annotations, "categories": categories}


def _load(path: Path) -> dict[str, Any]:
    """The parsed file. Raises UsageError."""
    try:
        content = read_json(path)
    except SampleError as error:
        raise UsageError(str(error)) from error
    if not isinstance(content, dict) or any(not isinstance(content.get(key), list) for key in _LISTS):
        raise UsageError(f"{path}: not a COCO instance file, it needs lists 'images' and 'annotations'")
    return content


def _category_names(content: Mapping[str, Any], file: Path) -> dict[Id | None, str]:
    """Names by category id, of those categories that have both. Raises UsageError: two names for one id."""
    items, names = content.get("categories"), dict[Id | None, str]()
    for item in items if isinstance(items, list) else []:
        if (
            isinstance(item, dict)
            and isinstance(item.get("name"), str)
            and (number := as_id(item.get("id"))) is not None
        ):
            other = names.setdefault(number, item["name"])
            if other != item["name"]:
                both = f"{quote(other)!r} and {quote(item['name'])!r}"
                raise UsageError(f"{file}: the categories {both} have the same id {quote(number)}; give each its own")
    return names


def _is_crowd(annotation: Mapping[str, Any]) -> bool:
    values = annotation.get("iscrowd"), annotation.get("ignore")  # the latter as MMDetection writes difficult objects
    return any(value is True or as_id(value) == 1 for value in values)


def _by_image(content: dict[str, Any], file: Path) -> tuple[dict[Id, list[dict[str, Any]]], list[str]]:
    """Annotations by image id, and a line for each that belongs to no image."""
    by_image: dict[Id, list[dict[str, Any]]] = {}
    names: dict[Id, Any] = {}
    shared: set[Id] = set()
    problems = []
    for image in content["images"]:
        number = as_id(image.get("id")) if isinstance(image, dict) else None
        if number is not None:
            by_image[number] = []
            if (other := names.setdefault(number, image.get("file_name"))) != image.get("file_name"):
                both = f"{quote(other)} and {quote(image.get('file_name'))}"
                problems.append(f"{file}: {both} have the same id {quote(number)}; give each its own")
                shared.add(number)
    for annotation in content["annotations"]:
        values = annotation if isinstance(annotation, dict) else {"id": annotation}
        number = as_id(values.get("image_id"))
        if number is not None and number in by_image:
            by_image[number].append(values)
        else:
            ids = f"annotation {quote(values.get('id'))} belongs to image {quote(values.get('image_id'))}"
            problems.append(f"{file}: {ids}, which is not listed")
    return {number: own for number, own in by_image.items() if number not in shared}, problems


def _image_folders(root: Path, file: Path) -> list[Path]:
    """Where the images of a file are looked for: the folder of its subset may have a part of its name."""
    words = file.stem.split("_")
    parts = ["_".join(words[start:]) for start in range(len(words))] + ["_".join(words[:-1]) or ".", words[0]]
    subsets = [above / part for part in parts for above in (root, root / "images")]
    folders = dict.fromkeys([file.parent, root, *subsets, root / "images", root / "data"])
    return [folder for folder in folders if folder.is_dir()]


def _find_image(
    finder: ImageFinder, folders: Sequence[Path], file: Path, image: Mapping[str, Any]
) -> tuple[str, Path, Size | None]:
    """Name, path and size, if it is given, of an image that the file lists. Raises SampleError."""
    file_name = image.get("file_name") or image.get("coco_url")  # LVIS has only the latter
    if not isinstance(file_name, str):
        raise SampleError(f"{file}: an image has no file_name: {quote(image)}")
    try:
        size = as_size(image.get("height"), image.get("width"))
    except ValueError as error:
        raise SampleError(f"{file}: of {file_name!r}, {error}") from error
    path = finder.find(file_name, folders, file)
    if path is None:
        alike = [image for folder in folders for image in images_named(folder, Path(base_name(file_name)).stem)]
        hint = f"; {alike[0]} is there" if alike else ""
        searched = ", ".join(str(folder) for folder in folders)
        raise SampleError(f"{file}: its image {file_name!r} is missing; looked in {searched}{hint}")
    # Below the innermost of the folders: a name is part of the paths that are written.
    names = [path.relative_to(above) for above in map(Path.absolute, folders) if path.is_relative_to(above)]
    name = min(names, key=lambda relative: len(relative.parts)).with_suffix("").as_posix()
    return unicodedata.normalize("NFC", name), path, size


def _draw(annotation: Mapping[str, Any], shape: Size, reasons: list[str]) -> Mask:
    """The mask of an annotation; it may be empty. Raises ValueError or TypeError."""
    mask = segmentation_mask(annotation.get("segmentation"), shape, reasons)
    box = annotation.get("bbox")
    if mask.any() and isinstance(box, list) and len(box) == 4 and all(map(is_number, box)):
        x, y, width, height = box
        given = np.clip([x, y, x + width, y + height], 0, [*shape[::-1], *shape[::-1]])
        drawn = mask_box(mask)
        inner = _area([*np.maximum(drawn, given)[:2], *np.minimum(drawn, given)[2:]])
        union = _area(drawn) + _area(given) - inner
        if inner < _LEAST_OVERLAP * union and np.abs(drawn - given).max() > _ROUNDING:
            reasons.append(ELSEWHERE)
    return mask


def _area(box: Sequence[float] | Array) -> float:
    return float(max(box[2] - box[0], 0) * max(box[3] - box[1], 0))


def segmentation_mask(segmentation: Any, shape: Size, reasons: list[str]) -> Mask:
    """The mask of polygons or of a run-length encoding; it may be empty. Raises ValueError or TypeError."""
    if isinstance(segmentation, dict):
        return decode_rle(segmentation, shape)
    if not segmentation:
        reasons.append(NO_OUTLINE)
        return np.zeros(shape, bool)
    polygons = [_points(polygon) for polygon in _polygons(segmentation)]
    require_pixels(polygons)
    return polygon_mask(polygons, shape, reasons)


def _polygons(segmentation: Any) -> list[Any]:
    """The polygons of a segmentation: a list of them, or one, written as x, y, x, y, ... or as points [x, y]."""
    if not isinstance(segmentation, list):
        raise ValueError("its segmentation is neither a list of polygons nor a run-length encoding")
    if all(is_number(value) for value in segmentation):
        return [segmentation]
    points = [item for item in segmentation if isinstance(item, list) and len(item) == 2 and all(map(is_number, item))]
    return [segmentation] if len(points) == len(segmentation) >= 3 else segmentation


def _points(polygon: Any) -> list[Point]:
    """The points (x, y) of a polygon x, y, x, y, ... or [x, y], [x, y], ... Raises ValueError."""
    flat = polygon
    if isinstance(polygon, list) and polygon and all(isinstance(item, list) for item in polygon):
        flat = [value for item in polygon for value in (item if len(item) == 2 else [None])]
    if not isinstance(flat, list) or len(flat) % 2 or not all(map(is_number, flat)):
        raise ValueError("a polygon is no list of x, y, x, y, ...")
    return list(zip(flat[::2], flat[1::2], strict=True))
