"""Where the masks of images lie: a tree that mirrors the images' names, one file each.

::

    precomputed_masks/
      manifest.json
      ir/a/0001.npy      the label map of ir/a/0001.png
      ir/a/0001.json     its instances, where they were asked for
      vi/a/0001.npy
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy.typing as npt

from thfuse_sam.errors import OutputError, UsageError
from thfuse_sam.files import PARTIAL_SUFFIX, write_text
from thfuse_sam.images import Modality
from thfuse_sam.masks.format import LabelMap, mask_stamp, read_mask, write_mask
from thfuse_sam.masks.instances import read_instances

MASK_SUFFIX = ".npy"
INSTANCES_SUFFIX = ".json"

_OUTSIDE = {"", ".", ".."}  # parts of a name that would lead out of a folder, or to nowhere


@dataclass(frozen=True)
class MaskTree:
    """A mask tree on disk. Names are images' relative paths without suffix, with forward slashes: "a/0001"."""

    root: Path

    def path(self, modality: Modality, name: str) -> Path:
        """The mask file of an image; always inside the tree. Raises UsageError for a name that would leave it."""
        return path_inside(self.root, modality, name, MASK_SUFFIX)

    def instances_path(self, modality: Modality, name: str) -> Path:
        """The file of an image's instance masks, beside its label map."""
        return path_inside(self.root, modality, name, INSTANCES_SUFFIX)

    def place(self, modality: Modality, name: str) -> str:
        """Where the mask lies, for messages."""
        return str(self.path(modality, name))

    def instances_place(self, modality: Modality, name: str) -> str:
        """Where the instance masks lie, for messages."""
        return str(self.instances_path(modality, name))

    def has(self, modality: Modality, name: str) -> bool:
        """Whether the mask file is there; says nothing about its content."""
        return self.path(modality, name).is_file()

    def read(self, modality: Modality, name: str, shape: tuple[int, int] | None) -> npt.NDArray[Any]:
        """Read a mask of (height, width) `shape`, None for any. Raises MaskReadError (see `format.read_mask`)."""
        return read_mask(self.path(modality, name), shape)

    def has_instances(self, modality: Modality, name: str) -> bool:
        """Whether the file of instance masks is there; says nothing about its content."""
        return self.instances_path(modality, name).is_file()

    def read_instances(self, modality: Modality, name: str, shape: tuple[int, int]) -> list[dict[str, Any]]:
        """Read the instances of an image of (height, width) `shape`. Raises MaskReadError."""
        return read_instances(self.instances_path(modality, name), shape)

    def stamp(self, modality: Modality, name: str) -> tuple[tuple[int, int], int]:
        """(height, width) of a mask from its header, and when it was written (ns). Raises MaskReadError."""
        return mask_stamp(_text_inside(self.root, modality, name, MASK_SUFFIX))

    def write(self, modality: Modality, name: str, mask: LabelMap) -> None:
        """Write a label map atomically. Raises OutputError where the system refuses."""
        write_mask(self.path(modality, name), mask)

    def add(self, modality: Modality, name: str, mask: LabelMap, instances: str | None) -> None:
        """Write a label map, and its instances (content of their file) or remove older ones. Raises OutputError."""
        beside = self.instances_path(modality, name)
        # Instances first: where the label map exists, everything that was asked for does.
        if instances is not None:
            write_text(beside, instances)
        else:
            remove_file(beside)
        self.write(modality, name, mask)

    def remove(self, modality: Modality, name: str) -> None:
        """Remove the mask of an image and its instances, where they exist. Raises OutputError."""
        remove_file(self.path(modality, name))
        remove_file(self.instances_path(modality, name))

    def names(self, modality: Modality) -> list[str]:
        """The names of all finished masks, sorted."""
        return sorted(relative_names(self.root / modality, MASK_SUFFIX))

    def instance_names(self, modality: Modality) -> list[str]:
        """The names of all images with instance masks, sorted."""
        return sorted(relative_names(self.root / modality, INSTANCES_SUFFIX))

    def partial_files(self) -> list[Path]:
        """Files that an interrupted run left half-written, sorted. They are never taken for masks."""
        return partial_files(self.root)


def path_inside(root: Path, modality: Modality, name: str, suffix: str) -> Path:
    """The file `root/modality/name + suffix`. Raises UsageError for a name that would leave the folder."""
    return Path(_text_inside(root, modality, name, suffix))


def require_inside(root: Path, name: str) -> None:
    """Raise UsageError for a name that would leave the mask tree at `root`."""
    outside = not _OUTSIDE.isdisjoint(name.split("/"))
    # Only on Windows do these separate folders or name a drive; elsewhere they are characters like any other.
    if os.name == "nt":
        outside |= "\\" in name or bool(PureWindowsPath(name).drive)
    if outside or "\0" in name:
        raise UsageError(f"mask name {name!r} would leave the mask tree {root}; use a relative path")


def _text_inside(root: Path, modality: Modality, name: str, suffix: str) -> str:
    require_inside(root, name)
    # Text, because path objects would take most of the time of a start on a large tree. Not `with_suffix`, which
    # would cut "scene.v2" to "scene".
    return f"{root}/{modality}/{name}{suffix}"


def relative_names(folder: Path, suffix: str) -> Iterator[str]:
    """Paths below `folder`, with forward slashes and without `suffix`, of the files that end so; no hidden ones."""
    for above, name in _files(folder):
        if name.endswith(suffix) and not name.startswith("."):
            yield above + name[: -len(suffix)]


def partial_files(root: Path) -> list[Path]:
    """Files below `root` that were being written when a run was stopped, sorted."""
    return sorted(root / (above + name) for above, name in _files(root) if name.endswith(PARTIAL_SUFFIX))


def _files(folder: str | Path, above: str = "") -> Iterator[tuple[str, str]]:
    """(folders above it with a slash behind each, name) of every file below `folder`."""
    # Not `rglob`, which takes many times as long: a tree may hold hundreds of thousands of files.
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


def remove_file(path: Path) -> None:
    """Remove a file if it exists. Raises OutputError."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"cannot remove {path}: {error.strerror or error}; check permissions") from error
