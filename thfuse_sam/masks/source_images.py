"""Which images masks were made from: those in the folders that a manifest records, or other ones of the same name."""

import filecmp
import os
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path

from thfuse_sam.folder_patterns import NAME, parse_folder
from thfuse_sam.images import IMAGE_SUFFIXES, Modality
from thfuse_sam.masks.manifest import Manifest

_SUFFIXES = tuple(suffix for lower in IMAGE_SUFFIXES for suffix in (lower, lower.upper(), lower.title()))


class ForeignSources:
    """Finds masks that were made from another data set's image of the same name.

    Two data sets can hold different images under one name ("0001"); the mask of one must not be taken for the other's.

    Args:
        manifest: the manifest of the tree; None: nothing is known of its masks, so none counts as foreign.
        folders: the present data set's folder (or pattern, see `folder_patterns`) of each modality to check.
        recheck: check also a modality whose folder the manifest records. Who only reads masks need not: when they were
            made, foreign ones were ruled out.
    """

    def __init__(self, manifest: Manifest | None, folders: Mapping[Modality, Path], *, recheck: bool = False) -> None:
        self._others: dict[Modality, list[Path]] = {}
        for modality, folder in folders.items():
            recorded, own = manifest.folders(modality) if manifest is not None else [], folder.resolve()
            if recheck or own not in recorded:
                self._others[modality] = [other for other in recorded if other != own]

    def find(self, modality: Modality, name: str, image: Path) -> Path | None:
        """The image of another recorded data set that the existing mask called `name` may have been made from.

        Recorded folders that are gone, and copies of `image`, the present data set's, do not count. None: the mask was
        made from that one.
        """
        for folder in self._others.get(modality, ()):
            other = find_image(folder, name)
            if other is not None and not _same_image(other, image):
                return other
        return None


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


def _same_image(one: Path, other: Path) -> bool:
    """Whether both are one file, or files of equal content."""
    try:
        return one.samefile(other) or filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False
