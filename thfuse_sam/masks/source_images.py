"""Which images masks were made from: finding those that a manifest records, and telling them from the present ones."""

import filecmp
import os
from collections.abc import Mapping
from pathlib import Path

from thfuse_sam.images import IMAGE_SUFFIXES, Modality
from thfuse_sam.masks.manifest import Manifest

_SUFFIXES = tuple(suffix for lower in IMAGE_SUFFIXES for suffix in (lower, lower.upper()))


class ForeignSources:
    """Finds masks that were made from another data set's image of the same name.

    Two data sets can hold different images under one name ("0001"); the mask of one must not be taken for the other's.

    Args:
        manifest: of the tree; None: nothing is known of its masks, so none counts as foreign.
        folders: the present data set's folder of each modality to look at, or pattern (see `find_image`).
        recheck: look also where the manifest names the folder itself. A reader need not: making the tree has ruled
            out foreign masks.
    """

    def __init__(self, manifest: Manifest | None, folders: Mapping[Modality, Path], *, recheck: bool = False) -> None:
        self._folders = folders
        self._others: dict[Modality, list[Path]] = {}
        for modality, folder in folders.items():
            recorded, own = manifest.folders(modality) if manifest is not None else [], folder.resolve()
            if recheck or own not in recorded:
                self._others[modality] = [other for other in recorded if other != own]

    def find(self, modality: Modality, name: str) -> Path | None:
        """The image of another recorded data set that the existing mask called `name` may have been made from.

        Recorded folders that are gone, and copies of the same image, do not count. None: the mask is ours.
        """
        for folder in self._others.get(modality, ()):
            other = find_image(folder, name)
            if other is not None and not _same_image(other, find_image(self._folders[modality], name)):
                return other
        return None


def find_image(folder: Path, name: str) -> Path | None:
    """The image called `name` in a plain folder, or in the folders of a pattern `root/**/modality`; None if gone."""
    *above, last = name.split("/")
    if "**" not in folder.parts:
        return _with_image_suffix(folder.joinpath(*above), last)
    root, modality_folder = folder.parent.parent, folder.name
    # The name lacks the modality folder; it may have stood at any place above the file.
    for position in range(len(above) + 1):
        found = _with_image_suffix(root.joinpath(*above[:position], modality_folder, *above[position:]), last)
        if found is not None:
            return found
    return None


def _with_image_suffix(folder: Path, stem: str) -> Path | None:
    above = str(folder)
    if not os.path.isdir(above):  # noqa: PTH112, asked for every image of a data set
        return None
    candidates = (os.path.join(above, stem + suffix) for suffix in _SUFFIXES)  # noqa: PTH118
    return next((Path(path) for path in candidates if os.path.isfile(path)), None)  # noqa: PTH113


def _same_image(one: Path, other: Path | None) -> bool:
    if other is None:
        return False
    try:
        return one.samefile(other) or filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False
