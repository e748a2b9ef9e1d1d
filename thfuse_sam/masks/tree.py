"""Where the masks of images lie: a tree that mirrors the images' names, one file each.

::

    precomputed_masks/
      manifest.json
      ir/a/0001.npy      the label map of ir/a/0001.png
      ir/a/0001.json     its instances, if they were asked for
      vi/a/0001.npy
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any, ClassVar

from thfuse_sam.arrays import Array, Size
from thfuse_sam.errors import UsageError
from thfuse_sam.files import PARTIAL_SUFFIX, as_output_error, write_text
from thfuse_sam.images import Modality
from thfuse_sam.masks.format import LabelMap, mask_shape_and_time, read_mask, write_mask
from thfuse_sam.masks.instances import read_instances

MASK_SUFFIX = ".npy"
INSTANCES_SUFFIX = ".json"

_OUTSIDE = {"", ".", ".."}  # parts of a name that would lead out of a folder, or to nowhere


@dataclass(frozen=True)
class FileTree:
    """Files under the names of images: their relative paths without suffix, with forward slashes: "a/0001".

    Beside the files of one kind, others may lie that differ in their suffix. Every method that is given a name raises
    UsageError for one that would leave the tree.
    """

    root: Path
    suffix: ClassVar[str]  # suffix of the files that a method is about if it is given no other one

    def path(self, modality: Modality, name: str, suffix: str | None = None) -> Path:
        """The file of an image."""
        return Path(self._path_text(modality, name, suffix))

    def has(self, modality: Modality, name: str, suffix: str | None = None) -> bool:
        """Whether the file exists, whatever its content."""
        return self.path(modality, name, suffix).is_file()

    def names(self, modality: Modality, suffix: str | None = None) -> list[str]:
        """The names of all finished files, sorted."""
        suffix = suffix or self.suffix
        files = _files(self.root / modality)
        return sorted(
            above + name[: -len(suffix)] for above, name in files if name.endswith(suffix) and not name.startswith(".")
        )

    def remove(self, modality: Modality, name: str, suffix: str | None = None) -> None:
        """Remove the file of an image if it exists. Raises OutputError."""
        path = self.path(modality, name, suffix)
        with as_output_error(path):
            path.unlink(missing_ok=True)

    def _path_text(self, modality: Modality, name: str, suffix: str | None = None) -> str:
        require_inside(self.root, name)
        # A string, because making path objects would take most of the time when a run on a large tree starts. Not
        # `with_suffix`, which would cut "scene.v2" to "scene".
        return f"{self.root}/{modality}/{name}{suffix or self.suffix}"


class MaskFiles(FileTree):
    """The masks of a tree as one file each; `store.open_masks` opens a tree whichever way it is stored.

    With the suffix INSTANCES_SUFFIX, a method is about the instance masks of an image instead of its label map.
    """

    suffix = MASK_SUFFIX

    def location(self, modality: Modality, name: str, suffix: str = MASK_SUFFIX) -> str:
        """Where the mask lies, or would lie if it existed, for messages."""
        return str(self.path(modality, name, suffix))

    def read(self, modality: Modality, name: str, shape: Size | None) -> Array:
        """The mask of an image of (height, width) `shape`, None for any; see `read_mask`. Raises MaskReadError."""
        return read_mask(self.path(modality, name), shape)

    def read_instances(self, modality: Modality, name: str, shape: Size) -> list[dict[str, Any]]:
        """The instance masks of an image of (height, width) `shape`. Raises MaskReadError."""
        return read_instances(self.path(modality, name, INSTANCES_SUFFIX), shape)

    def shape_and_time(self, modality: Modality, name: str) -> tuple[Size, int]:
        """(height, width) of a mask from its header, and when it was written (ns). Raises MaskReadError."""
        return mask_shape_and_time(self._path_text(modality, name))

    def write(self, modality: Modality, name: str, mask: LabelMap, instances: str | None = None) -> None:
        """Write a label map and the content of its instance file; None removes an older one. Raises OutputError."""
        # Instances first: where the label map exists, everything that was asked for does.
        if instances is not None:
            write_text(self.path(modality, name, INSTANCES_SUFFIX), instances)
        else:
            self.remove(modality, name, INSTANCES_SUFFIX)
        write_mask(self.path(modality, name), mask)


def require_inside(root: Path, name: str) -> None:
    """Raise UsageError for a name that would leave the mask tree at `root`."""
    outside = not _OUTSIDE.isdisjoint(name.split("/"))
    # Only on Windows do these separate folders or name a drive; elsewhere they are characters like any other.
    if os.name == "nt":
        outside |= "\\" in name or bool(PureWindowsPath(name).drive)
    if outside or "\0" in name:
        raise UsageError(f"mask name {name!r} would leave the mask tree {root}; use a relative path")


def partial_files(root: Path) -> list[Path]:
    """Files below `root` that were being written when a run was stopped, sorted. They are never taken for masks."""
    return sorted(root / (above + name) for above, name in _files(root) if name.endswith(PARTIAL_SUFFIX))


def _files(folder: str | Path, above: str = "") -> Iterator[tuple[str, str]]:
    """(folders above it with a slash behind each, name) of every file below `folder`."""
    # Not `rglob`, which takes many times as long; a tree may hold hundreds of thousands of files.
    try:
        with os.scandir(folder) as entries:
            below = []
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    below.append(entry)
                elif entry.is_file():
                    yield above, entry.name
    except FileNotFoundError:
        return
    for entry in below:
        yield from _files(entry.path, f"{above}{entry.name}/")
