"""Looking up images by the names that masks have."""

import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from thfuse_sam.folder_patterns import NAME, parse_folder
from thfuse_sam.images import IMAGE_SUFFIXES

_SUFFIXES = tuple(suffix for lower in IMAGE_SUFFIXES for suffix in (lower, lower.upper(), lower.title()))


def find_image(folder: Path, name: str) -> Path | None:
    """The image called `name` in a folder or pattern (see `folder_patterns`); None if gone."""
    *above, last = name.split("/")
    root, modality_folder, file_name = parse_folder(folder)
    stem = file_name.replace(NAME, last)
    if modality_folder is None:
        return next(images_named(root.joinpath(*above), stem), None)
    # The name leaves out the modality folder, which may lie at any depth below `root`.
    for position in range(len(above) + 1):
        for image in images_named(root.joinpath(*above[:position], modality_folder, *above[position:]), stem):
            return image
    return None


def images_named(folder: Path, stem: str) -> Iterator[Path]:
    """The image files in `folder` that are called `stem`, composed or not, and a suffix of images."""
    above = str(folder)
    if os.path.isdir(above):  # noqa: PTH112, asked for every image of a data set
        stems = (stem,) if stem.isascii() else (stem, unicodedata.normalize("NFD", stem))
        candidates = (os.path.join(above, form + suffix) for form in stems for suffix in _SUFFIXES)  # noqa: PTH118
        yield from (Path(path) for path in candidates if os.path.isfile(path))  # noqa: PTH113
