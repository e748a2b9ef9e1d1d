"""COCO instance annotations: one JSON file with polygons or run-length encoded masks for a whole folder::

    annotations.json                     images/*.jpg
    annotations/instances_train.json     train/*.jpg or images/*.jpg
    _annotations.coco.json               *.jpg beside it

Crowd annotations are ignored. Images without an object are left out: COCO lists them on purpose.
(T.-Y. Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014.)
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt
from pycocotools import mask as coco_mask

from thfuse_sam.datasets.segmentation.formats.annotation_files import quote, read_json, resolve_inside
from thfuse_sam.datasets.segmentation.formats.listing import Entry, Listing
from thfuse_sam.datasets.segmentation.formats.outlines import polygon_mask
from thfuse_sam.datasets.segmentation.sample import SegmentationSample
from thfuse_sam.errors import SampleError, UsageError
from thfuse_sam.images import read_visible, size_text
from thfuse_sam.masks.rle import decode_rle, encode_rle

_FILE_NAMES = ("annotations.json", "_annotations.coco.json", "coco.json")
_FOLDER, _PREFIX = "annotations", "instances"
_LISTS = ("images", "annotations")  # the lists that a COCO file must have


def annotation_file(root: Path) -> Path | None:
    """The COCO file of a folder, None if it has none. Raises UsageError if it has several."""
    candidates = [root / name for name in _FILE_NAMES] + sorted(root.glob(f"{_PREFIX}*.json"))
    folder = root / _FOLDER
    if folder.is_dir():
        candidates += [folder / name for name in _FILE_NAMES] + sorted(folder.glob(f"{_PREFIX}*.json"))
    files = [path for path in candidates if path.is_file()]
    if len(files) > 1:
        names = ", ".join(str(path.relative_to(root)) for path in files)
        raise UsageError(f"{root}: several COCO files ({names}); give the one to use in place of the folder")
    return files[0] if files else None


def find(root: Path) -> Listing | None:
    """Entries of a folder's COCO file, None if it has none. Raises UsageError: several files, or as `find_in`."""
    file = annotation_file(root)
    return None if file is None else find_in(file)


def find_in(file: Path) -> Listing:
    """Entries of a COCO file. Raises UsageError: no COCO file, or unreadable."""
    content = _load(file)
    # If the file lies in a folder `annotations/`, the images lie beside that folder.
    root = file.parent.parent if file.parent.name == _FOLDER else file.parent
    categories = _category_names(content.get("categories"))
    annotations, problems = _by_image(content, file)
    entries: list[Entry] = []
    for image in content["images"]:
        if not isinstance(image, dict) or not isinstance(image.get("id"), int):
            problems.append(f"{file}: an image has no number as id: {quote(image)}")
        elif annotations[image["id"]]:
            try:
                entries.append(_entry(root, file, image, annotations[image["id"]], categories))
            except SampleError as error:
                problems.append(str(error))
    without_objects = sum(not own for own in annotations.values())
    return Listing(sorted(entries, key=lambda entry: entry.name), problems, without_objects)


def read(
    name: str,
    image_path: Path,
    json_path: Path,
    size: tuple[int, int],
    annotations: Sequence[Mapping[str, Any]],
    categories: Mapping[int, str],
) -> SegmentationSample:
    """An image and its annotated objects.

    `size` is (height, width) as annotated, `annotations` are those of this image, `categories` names by category id.
    Raises ImageReadError, and SampleError: an image of another size, or a bad segmentation.
    """
    image = read_visible(image_path)
    if image.shape[:2] != size:
        raise SampleError(
            f"{image_path}: is {size_text(image.shape)}, {json_path} says {size_text(size)} (width x height); "
            "bring the image to the annotated size"
        )
    masks, names = {}, {}
    for number, annotation in enumerate(annotations, 1):
        try:
            masks[number] = segmentation_mask(annotation.get("segmentation"), size)
        except (ValueError, TypeError, OverflowError) as error:
            subject = f"{json_path}: annotation {annotation.get('id')} of {image_path.name}"
            raise SampleError(f"{subject}: {error}") from error
        category = annotation.get("category_id")
        if isinstance(category, int) and category in categories:
            names[number] = categories[category]
    return SegmentationSample.from_masks(name, image, masks, names)


@dataclass(frozen=True)
class CocoObject:
    """An annotation of a single object, unchecked and without its image."""

    file_name: str  # of its image, with forward slashes
    where: str  # the beginning of a message about it
    size: tuple[Any, Any]  # height, width of its image, as the file says
    category: str | None  # None: the file names no category of its number
    annotation: Mapping[str, Any]


def objects_by_image(path: Path) -> Iterator[CocoObject]:
    """The objects of a COCO file, or of a folder's. Raises UsageError: no COCO file, or unreadable."""
    file = (annotation_file(path) or path) if path.is_dir() else path
    content = _load(file)
    categories = _category_names(content.get("categories"))
    annotations, _ = _by_image(content, file)
    for image in content["images"]:
        if not isinstance(image, dict) or not isinstance(image.get("id"), int):
            continue
        file_name, size = str(image.get("file_name")).replace("\\", "/"), (image.get("height"), image.get("width"))
        for annotation in annotations[image["id"]]:
            number = annotation.get("category_id")
            category = categories.get(number) if isinstance(number, int) else None
            where = f"{file}: annotation {quote(annotation.get('id'))} of {quote(file_name)}"
            yield CocoObject(file_name, where, size, category, annotation)


class CocoAnnotations:
    """Collects images and their objects for an annotation file."""

    def __init__(self, *categories: str) -> None:
        """`categories`: class names that are listed whether or not an object has them."""
        self._images: list[dict[str, Any]] = []
        self._annotations: list[dict[str, Any]] = []
        self._categories = {name: number for number, name in enumerate(categories, 1)}

    def add_image(self, file_name: str, shape: tuple[int, int]) -> None:
        """Add an image of (height, width) `shape`."""
        number = len(self._images) + 1
        self._images.append({"id": number, "file_name": file_name, "height": shape[0], "width": shape[1]})

    def add_object(self, mask: npt.NDArray[np.bool_], category: str, **more: Any) -> None:
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
                "iscrowd": 0,
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


def _category_names(categories: Any) -> dict[int, str]:
    """Names by category id, of those categories that have both."""
    return {
        item["id"]: item["name"]
        for item in (categories if isinstance(categories, list) else [])
        if isinstance(item, dict) and isinstance(item.get("id"), int) and isinstance(item.get("name"), str)
    }


def _by_image(content: dict[str, Any], file: Path) -> tuple[dict[int, list[dict[str, Any]]], list[str]]:
    """Annotations of single objects (not of crowds) by image id, and a line for each that belongs to no image."""
    by_image: dict[int, list[dict[str, Any]]] = {
        image["id"]: [] for image in content["images"] if isinstance(image, dict) and isinstance(image.get("id"), int)
    }
    problems = []
    for annotation in content["annotations"]:
        known = isinstance(annotation, dict)
        image = annotation.get("image_id") if known else None
        if not isinstance(image, int) or image not in by_image:
            number = quote(annotation.get("id") if known else annotation)
            problems.append(f"{file}: annotation {number} belongs to image {quote(image)}, which is not listed")
        elif not annotation.get("iscrowd"):
            by_image[image].append(annotation)
    return by_image, problems


def _entry(
    root: Path,
    file: Path,
    image: Mapping[str, Any],
    annotations: Sequence[Mapping[str, Any]],
    categories: Mapping[int, str],
) -> Entry:
    file_name, size = image.get("file_name"), (image.get("height"), image.get("width"))
    if not isinstance(file_name, str) or not _is_size(size):
        raise SampleError(f"{file}: an image lacks file_name, height or width: {quote(image)}")
    split = file.stem.removeprefix(_PREFIX).strip("_")
    folders = [file.parent, root, root / "images", *([root / split] if split and split != file.stem else [])]
    path = _find_image(root, folders, file_name, file)
    relative = Path(file_name.replace("\\", "/")).as_posix()
    name = relative.removesuffix(Path(relative).suffix)
    return Entry(name, path, partial(read, name, path, file, size, annotations, categories))


def _is_size(value: tuple[Any, Any]) -> TypeGuard[tuple[int, int]]:
    return all(isinstance(length, int) and length > 0 for length in value)


def _find_image(root: Path, folders: Sequence[Path], name: str, file: Path) -> Path:
    """The image `name` in the first of `folders` that has it, inside `root`. Raises SampleError."""
    refused = None
    for folder in folders:
        try:
            path = resolve_inside(root, folder, name, file)
        except SampleError as error:  # a path with ".." may leave the root from one folder and not from the next
            refused = error
            continue
        if path.is_file():
            return path
    if refused is not None:
        raise refused
    searched = ", ".join(str(folder) for folder in dict.fromkeys(folders))
    raise SampleError(f"{file}: its image {name!r} is missing; looked in {searched}")


def segmentation_mask(segmentation: Any, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
    """Polygons or run lengths as bool HxW of `shape`. Raises ValueError, TypeError or OverflowError."""
    if isinstance(segmentation, dict):
        mask = decode_rle(segmentation, shape)
        if not mask.any():
            raise ValueError("the mask is empty")
        return mask
    if not isinstance(segmentation, list) or not segmentation:
        raise ValueError("has no segmentation")
    mask = np.zeros(shape, bool)
    for polygon in segmentation:
        if not isinstance(polygon, list) or len(polygon) % 2 or not all(type(x) in (int, float) for x in polygon):
            raise ValueError("a polygon is no list of x, y, x, y, ...")
        mask |= polygon_mask(list(zip(polygon[::2], polygon[1::2], strict=True)), shape)
    return mask
