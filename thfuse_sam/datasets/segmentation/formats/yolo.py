"""Polygons in the text files of YOLO's segmentation, one for each image::

    images/0001.jpg        labels/0001.txt           also in further folders, such as images/train/ + labels/train/
    0001.jpg               0001.txt                  or side by side
    data.yaml              names of the classes, in this folder or the one above, or a line each in classes.txt

Each line is an object: its class number and the points x, y of its outline, as fractions of width and height. An image
whose file is empty or missing has no object. (G. Jocher et al., "Ultralytics YOLO", docs.ultralytics.com/datasets.)
"""

from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from thfuse_sam.arrays import Mask, Size
from thfuse_sam.datasets.named_images import list_images
from thfuse_sam.datasets.segmentation.formats.listing import (
    WITHOUT_OBJECTS,
    Entry,
    Listing,
    files_below,
    image_folder,
    no_image,
    subfolder,
)
from thfuse_sam.datasets.segmentation.formats.objects import ImageObjects
from thfuse_sam.datasets.segmentation.formats.outlines import polygon_mask
from thfuse_sam.datasets.segmentation.sample import SegmentationSample
from thfuse_sam.errors import SampleError
from thfuse_sam.images import IMAGE_SUFFIXES
from thfuse_sam.options.shared import AnnotationReading
from thfuse_sam.plain_yaml import read_yaml

_LABELS, _SUFFIX = "labels", ".txt"
_YAML = (".yaml", ".yml")
_NAME_FILES = ("data.yaml", "data.yml", "dataset.yaml")
_NAME_LISTS = ("classes.txt", "labels/classes.txt", "obj.names")  # a name in each line
_NO_LABELS = ("classes", "notes", "readme")  # text files that tools put beside the others
_UNNAMED = "of a class without a name"
_LARGEST = 2.0  # a coordinate beyond it is no fraction


def find(root: Path, reading: AnnotationReading) -> Listing | None:
    """Entries of a folder, None if it is another. Raises PairError: two images with one name."""
    images_folder, folder = image_folder(root), subfolder(root, _LABELS)
    if images_folder is None or folder is None:
        images_folder = folder = root
        if not any(
            path.with_suffix(suffix).is_file() for path in root.glob(f"*{_SUFFIX}") for suffix in IMAGE_SUFFIXES
        ):
            return None
    files = {
        path.relative_to(folder).as_posix().removesuffix(path.suffix): path
        for path in files_below(folder, _SUFFIX)
        if path.name.lower().partition(".")[0] not in _NO_LABELS
    }
    if not files:
        return None
    images, names = list_images(images_folder), class_names(root)
    entries = [
        Entry(name, image, partial(read, name, image, files[name], names, reading))
        for name, image in images.items()
        if name in files
    ]
    problems = [no_image(path, images_folder) for name, path in files.items() if name not in images]
    return Listing(entries, problems, Counter({WITHOUT_OBJECTS: len(images) - len(entries)}))


def read(
    name: str, image_path: Path, file: Path, names: Mapping[int, str], reading: AnnotationReading
) -> SegmentationSample:
    """An image and the objects of its text file. Raises ImageReadError, and SampleError: the file is no text."""
    objects = ImageObjects.on(name, image_path, None, file, reading)
    for number, line in enumerate(_lines(file), 1):
        words = line.replace(",", " ").split()
        if words:
            where, own = f"{file}: line {number}", _class_number(words[0])
            if names and own is not None and own not in names:
                objects.note(_UNNAMED, where)
            category = words[0] if own is None else names.get(own, str(own))
            objects.add(where, partial(_mask, words[1:]), category)
    return objects.sample()


def class_names(root: Path) -> dict[int, str]:
    """Names by class number from the YAML file or the list in `root` or above it; empty if there is none.

    Raises SampleError: the file cannot be read, or says that the labels are key points.
    """
    paths = [folder / name for folder in (root, root.parent) for name in (*_NAME_FILES, *_NAME_LISTS)]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return {}
    if not path.name.endswith(_YAML):
        return {number: line.strip() for number, line in enumerate(_lines(path))}
    try:
        content = read_yaml(path, as_texts=True)  # "no" and "01" are names
    except (OSError, ValueError) as error:
        raise SampleError(f"{path}: not readable as YAML ({error}); mend or remove it") from error
    content = content if isinstance(content, Mapping) else {}
    if "kpt_shape" in content:
        raise SampleError(f"{path}: says that the labels are key points (kpt_shape), which are no outlines")
    names = content.get("names")
    numbered = enumerate(names) if isinstance(names, list) else names.items() if isinstance(names, Mapping) else ()
    return {int(number): str(name) for number, name in numbered if str(number).isdecimal()}


def _class_number(word: str) -> int | None:
    """The number of a class; None: it is a name. Programs that write all numbers alike make 0.000000 of 0."""
    try:
        value = float(word)
    except ValueError:
        return None
    return int(value) if value.is_integer() else None


def _lines(file: Path) -> list[str]:
    """The lines of a text file. Raises SampleError."""
    try:
        return file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise SampleError(f"{file}: not readable as text ({error}); mend or remove it") from error


def _mask(words: list[str], shape: Size, reasons: list[str]) -> Mask:
    """The polygon of a line. Raises ValueError: numbers that make no outline."""
    values = [float(word) for word in words]
    if len(values) == 4:
        raise ValueError("is a box without an outline; give polygons of at least 3 points")
    if len(values) % 2:
        raise ValueError(f"holds {len(values)} coordinates; give x, y of each point")
    if any(not -_LARGEST < value < _LARGEST for value in values):
        raise ValueError("a coordinate is no fraction of the image's width or height")
    points = zip(values[::2], values[1::2], strict=True)
    return polygon_mask([[(x * shape[1], y * shape[0]) for x, y in points]], shape, reasons)
