"""Labelled objects of infrared images, for measuring fused images. One of these, named as the pairs::

    targets/a/0001.txt    YOLO: a line `class x y width height` for each object, relative to the image, centre first,
    targets/classes.txt   or `class x1 y1 x2 y2 x3 y3 ...`, a polygon; class names, one a line (without: the numbers)
    targets.json          COCO: boxes, polygons or run lengths; or the folder of such a file
    targets/a/0001.npy    label maps, 0 is no object, k is object k

Where the folder holds a folder `ir`, that one is read.
"""

import dataclasses
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from thfuse_sam.arrays import Mask, Size
from thfuse_sam.datasets.segmentation.formats import coco
from thfuse_sam.datasets.segmentation.formats.listing import files_below
from thfuse_sam.datasets.segmentation.formats.outlines import TOLERANCE, polygon_mask
from thfuse_sam.datasets.segmentation.sample import mask_box
from thfuse_sam.errors import ThFuseError, UsageError, first_of
from thfuse_sam.images import size_text
from thfuse_sam.masks.format import read_mask, segment_labels
from thfuse_sam.masks.tree import MASK_SUFFIX
from thfuse_sam.metrics.targets import Target

CLASSES = "classes.txt"
NO_CLASS = "object"  # class of the objects of label maps
_SHOWN = 3  # problems that a message names


@dataclasses.dataclass
class TargetSet:
    """The targets of a set of pairs."""

    by_name: dict[str, list[Target]] = dataclasses.field(default_factory=dict)  # of each pair that has any
    left_out: list[str] = dataclasses.field(default_factory=list)  # a line for each label that cannot be used


# What stands somewhere about one image: the pair's name, the place, and what makes targets of it or raises an error.
_Label = tuple[str, str, Callable[[Size], list[Target]]]


def read_targets(path: Path, sizes: Mapping[str, Size]) -> TargetSet:
    """Read the targets of the pairs in `sizes`, which are (height, width) by name.

    Raises UsageError: no such file or folder, none of the layouts above, or no target of any pair.
    """
    if not path.exists():
        raise UsageError(f"`targets` {path}: no such file or folder; give YOLO text files, a COCO .json or label maps")
    targets = TargetSet()
    foreign: dict[str, str] = {}  # one line for each image that is no pair, however many labels it has
    for name, where, read in _labels(path, targets.left_out):
        if name not in sizes:
            foreign.setdefault(name, f"{where}: there is no pair '{name}'")
            continue
        try:
            targets.by_name.setdefault(name, []).extend(read(sizes[name]))
        except (ThFuseError, ValueError, TypeError, OverflowError) as error:
            targets.left_out.append(f"{where}: {str(error).removeprefix(f'{where}: ')}")
    targets.left_out += foreign.values()
    if not any(targets.by_name.values()):
        reason = first_of(targets.left_out, _SHOWN, "; ") or "neither text files nor COCO nor label maps are there"
        raise UsageError(f"`targets` {path}: no target of any pair ({reason}); give labels that are named as the pairs")
    return targets


def _labels(path: Path, left_out: list[str]) -> Iterator[_Label]:
    """The labels of the first layout that a folder has; in a file, those of COCO. Those of no certain image go to
    `left_out`.
    """
    folder = path / "ir" if (path / "ir").is_dir() else path
    if path.is_file() and path.suffix == ".txt":
        raise UsageError(f"`targets` {path}: is the text of one image; give the folder that holds it")
    texts = [] if path.is_file() else [file for file in files_below(folder, ".txt") if file.name != CLASSES]
    if texts:
        classes = next((_lines(each / CLASSES) for each in (folder, path) if (each / CLASSES).is_file()), None)
        for file in texts:
            for number, line in enumerate(_lines(file), 1):
                if words := line.split():
                    name = _name(file.relative_to(folder))
                    yield (name, f"{file}, line {number}", partial(_yolo_targets, words, classes))
    elif path.is_file() or coco.annotation_file(folder) is not None:
        for item in coco.objects_by_image(folder, left_out):
            yield (_name(Path(item.file_name)), item.where, partial(_coco_targets, item))
    else:
        for file in files_below(folder, MASK_SUFFIX):
            yield (_name(file.relative_to(folder)), str(file), partial(_map_targets, file))


def _yolo_targets(words: Sequence[str], classes: Sequence[str] | None, size: Size) -> list[Target]:
    """The target of one line. Raises ValueError."""
    number, values = words[0], [float(word) for word in words[1:]]
    if not number.isdecimal() or (classes is not None and int(number) >= len(classes)):
        raise ValueError(f"class {number} is not in {CLASSES}" if classes else f"class {number} is no whole number")
    category = number if classes is None else classes[int(number)].strip()
    height, width = size
    if len(values) in (4, 5):  # the fifth is a detector's confidence
        x, y, w, h = values[:4]
        corners = (x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height
        return [Target(category, _whole_box(corners, size))]
    if len(values) < 6 or len(values) % 2:
        raise ValueError(f"has {len(values)} values after the class, needs a box of 4 or at least 3 points")
    points = [(x * width, y * height) for x, y in zip(values[::2], values[1::2], strict=True)]
    return [_masked_target(category, _drawn(partial(polygon_mask, [points]), size))]


def _coco_targets(item: coco.CocoObject, size: Size) -> list[Target]:
    """The target of an annotation. Raises ValueError, TypeError or OverflowError."""
    if item.size not in (size, (None, None), (0, 0)):  # some files do not say
        raise ValueError(f"the file says that its image is of another size than its pair, which has {size_text(size)}")
    if item.category is None:
        raise ValueError("its category is not in the file")
    if item.annotation.get("segmentation"):
        draw = partial(coco.segmentation_mask, item.annotation["segmentation"])
        return [_masked_target(item.category, _drawn(draw, size))]
    box = item.annotation.get("bbox")
    if not isinstance(box, list) or len(box) != 4:
        raise ValueError("has neither a segmentation nor a bbox of 4 numbers")
    x, y, width, height = (float(value) for value in box)
    return [Target(item.category, _whole_box((x, y, x + width, y + height), size))]


def _map_targets(file: Path, size: Size) -> list[Target]:
    labels = segment_labels(read_mask(file, size))
    return [_masked_target(NO_CLASS, labels == label) for label in np.unique(labels) if label]


def _drawn(draw: Callable[[Size, list[str]], Mask], size: Size) -> Mask:
    """The mask of an outline. Raises ValueError if it had to be mended: a target is measured whole or not at all."""
    reasons: list[str] = []
    mask = draw(size, reasons)
    if reasons:
        raise ValueError(", ".join(reasons))
    return mask


def _masked_target(category: str, mask: Mask) -> Target:
    left, top, right, bottom = (int(value) for value in mask_box(mask))
    return Target(category, (left, top, right, bottom), mask[top:bottom, left:right].copy())


def _whole_box(corners: tuple[float, float, float, float], size: Size) -> tuple[int, int, int, int]:
    """A box (left, top, right, bottom) in whole pixels of its image. Raises ValueError: outside, or empty."""
    height, width = size
    left, top, right, bottom = corners
    # Written so that it is false for nan.
    if not (min(left, top) >= -TOLERANCE and right <= width + TOLERANCE and bottom <= height + TOLERANCE):
        raise ValueError(f"the box reaches out of the image of {size_text(size)} (width x height)")
    box = max(int(left), 0), max(int(top), 0), min(int(right), width), min(int(bottom), height)
    if box[0] >= box[2] or box[1] >= box[3]:
        raise ValueError("the box covers no pixel")
    return box


def _lines(path: Path) -> list[str]:
    """The lines of a text file; bytes that are no UTF-8 make lines that nothing can be read from."""
    try:
        return path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except OSError as error:
        raise UsageError(f"`targets` {path}: cannot be read ({error.strerror}); make it readable") from error


def _name(relative: Path) -> str:
    """A pair's name, as `pairs.list_images` makes it."""
    return unicodedata.normalize("NFC", relative.as_posix().removesuffix(relative.suffix))
