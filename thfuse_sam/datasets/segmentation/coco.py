"""COCO instance annotations: one JSON file with polygons or run-length encoded masks for a whole folder::

    annotations.json                     images/*.jpg
    annotations/instances_train.json     train/*.jpg or images/*.jpg
    _annotations.coco.json               *.jpg beside it

Crowd annotations are ignored. Images without an object are left out: COCO lists them on purpose.
(T.-Y. Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014.)
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from thfuse_sam.datasets.segmentation.entries import Found, resolve_inside
from thfuse_sam.datasets.segmentation.raster import decode_rle, polygon_mask
from thfuse_sam.datasets.segmentation.sample import SegmentationSample
from thfuse_sam.errors import SampleError, UsageError
from thfuse_sam.images import read_visible

FILE_NAMES = ("annotations.json", "_annotations.coco.json", "coco.json")
_FOLDER, _PREFIX = "annotations", "instances"


@dataclass(frozen=True)
class CocoEntry:
    """One image of a COCO file with its annotations."""

    name: str
    image_path: Path
    json_path: Path
    size: tuple[int, int]  # (height, width) as annotated
    annotations: tuple[dict[str, Any], ...]
    categories: Mapping[int, str]  # category id -> name

    def read(self) -> SegmentationSample:
        image = read_visible(self.image_path)
        if image.shape[:2] != self.size:
            raise SampleError(
                f"{self.image_path}: is {image.shape[1]}x{image.shape[0]}, {self.json_path} says "
                f"{self.size[1]}x{self.size[0]} (width x height); bring the image to the annotated size"
            )
        masks, names = {}, {}
        for number, annotation in enumerate(self.annotations, 1):
            try:
                masks[number] = _mask(annotation.get("segmentation"), self.size)
            except (ValueError, TypeError, OverflowError) as error:
                where = f"{self.json_path}: annotation {annotation.get('id')} of {self.image_path.name}"
                raise SampleError(f"{where}: {error}") from error
            category = annotation.get("category_id")
            if isinstance(category, int) and category in self.categories:
                names[number] = self.categories[category]
        return SegmentationSample.from_masks(self.name, image, masks, names)


def is_coco(content: Any) -> bool:
    """Whether parsed JSON looks like a COCO instance file."""
    return isinstance(content, dict) and all(isinstance(content.get(key), list) for key in ("images", "annotations"))


def coco_file(root: Path) -> Path | None:
    """The COCO file of a folder, None if it has none. Raises UsageError where it has several."""
    candidates = [root / name for name in FILE_NAMES] + sorted(root.glob(f"{_PREFIX}*.json"))
    folder = root / _FOLDER
    if folder.is_dir():
        candidates += [folder / name for name in FILE_NAMES] + sorted(folder.glob(f"{_PREFIX}*.json"))
    files = [path for path in candidates if path.is_file()]
    if len(files) > 1:
        names = ", ".join(str(path.relative_to(root)) for path in files)
        raise UsageError(f"{root}: several COCO files ({names}); give the one to use in place of the folder")
    return files[0] if files else None


def find_coco(path: Path) -> Found:
    """Entries of a COCO file, or of the folder that holds one. Raises UsageError: no COCO file, or unreadable."""
    file = path if path.is_file() else coco_file(path)
    assert file is not None, "the format was told by this file"
    content = load_coco(file)
    # From a file in `annotations/`, images lie beside that folder.
    root = file.parent.parent if file.parent.name == _FOLDER else file.parent
    categories = {
        item["id"]: item["name"]
        for item in _list(content.get("categories"))
        if isinstance(item, dict) and isinstance(item.get("id"), int) and isinstance(item.get("name"), str)
    }
    by_image, problems = _by_image(content, file)
    entries: list[CocoEntry] = []
    without_objects = 0
    for image in content["images"]:
        if not isinstance(image, dict) or not isinstance(image.get("id"), int):
            problems.append(f"{file}: an image has no number as id: {str(image)[:80]}")
            continue
        annotations = by_image[image["id"]]
        if not annotations:
            without_objects += 1
            continue
        try:
            entries.append(_entry(root, file, image, tuple(annotations), categories))
        except SampleError as error:
            problems.append(str(error))
    return Found(sorted(entries, key=lambda entry: entry.name), problems, without_objects)


def load_coco(path: Path) -> dict[str, Any]:
    """The parsed file. Raises UsageError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not readable as JSON ({error}); give a COCO instance file") from error
    if not is_coco(content):
        raise UsageError(f"{path}: not a COCO instance file, it needs lists 'images' and 'annotations'")
    return dict(content)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _by_image(content: dict[str, Any], file: Path) -> tuple[dict[Any, list[dict[str, Any]]], list[str]]:
    """Annotations that are no crowd by image id, and a line for each that belongs to no image."""
    by_image: dict[Any, list[dict[str, Any]]] = {
        image["id"]: [] for image in content["images"] if isinstance(image, dict) and isinstance(image.get("id"), int)
    }
    problems = []
    for annotation in content["annotations"]:
        image = annotation.get("image_id") if isinstance(annotation, dict) else None
        if not isinstance(image, int) or image not in by_image:
            number = annotation.get("id") if isinstance(annotation, dict) else annotation
            problems.append(
                f"{file}: annotation {str(number)[:80]} belongs to image {str(image)[:80]}, which is not listed"
            )
        elif not annotation.get("iscrowd"):
            by_image[image].append(annotation)
    return by_image, problems


def _entry(
    root: Path,
    file: Path,
    image: Mapping[str, Any],
    annotations: tuple[dict[str, Any], ...],
    categories: Mapping[int, str],
) -> CocoEntry:
    name, size = image.get("file_name"), (image.get("height"), image.get("width"))
    if not isinstance(name, str) or not all(isinstance(side, int) and side > 0 for side in size):
        raise SampleError(f"{file}: an image lacks file_name, height or width: {str(image)[:80]}")
    split = file.stem.removeprefix(_PREFIX).strip("_")
    folders = [file.parent, root, root / "images", *([root / split] if split and split != file.stem else [])]
    found = _find_image(root, folders, name, file)
    relative = Path(name.replace("\\", "/"))
    stem = relative.as_posix()[: -len(relative.suffix)] if relative.suffix else relative.as_posix()
    return CocoEntry(stem, found, file, (int(size[0]), int(size[1])), annotations, categories)  # type: ignore[arg-type]


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
    looked = ", ".join(str(folder) for folder in dict.fromkeys(folders))
    raise SampleError(f"{file}: its image {name!r} is missing; looked in {looked}")


def _mask(segmentation: Any, shape: tuple[int, int]) -> npt.NDArray[np.bool_]:
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
