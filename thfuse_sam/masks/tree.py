"""Where the masks of images lie: a tree that mirrors the images' names.

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
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy.typing as npt

from thfuse_sam.errors import UsageError
from thfuse_sam.files import PARTIAL_SUFFIX
from thfuse_sam.images import Modality
from thfuse_sam.masks.format import LabelMap, read_mask, write_mask

MASK_SUFFIX = ".npy"
INSTANCES_SUFFIX = ".json"


@dataclass(frozen=True)
class MaskTree:
    """A mask tree on disk. Names are images' relative paths without suffix, with forward slashes: "a/0001"."""

    root: Path

    def path(self, modality: Modality, name: str) -> Path:
        """The mask file of an image; always inside the tree. Raises UsageError for a name that would leave it."""
        return self._inside(modality, name, MASK_SUFFIX)

    def instances_path(self, modality: Modality, name: str) -> Path:
        """The file of an image's instance masks, beside its label map."""
        return self._inside(modality, name, INSTANCES_SUFFIX)

    def has(self, modality: Modality, name: str) -> bool:
        """Whether the mask file is there; says nothing about its content."""
        return self.path(modality, name).is_file()

    def read(self, modality: Modality, name: str, shape: tuple[int, int] | None) -> npt.NDArray[Any]:
        """Read a mask of (height, width) `shape`, None for any. Raises MaskReadError (see `format.read_mask`)."""
        return read_mask(self.path(modality, name), shape)

    def write(self, modality: Modality, name: str, mask: LabelMap) -> None:
        """Write a label map atomically. Raises OutputError where the system refuses."""
        write_mask(self.path(modality, name), mask)

    def names(self, modality: Modality) -> list[str]:
        """The names of all finished masks, sorted."""
        return self._names(modality, MASK_SUFFIX)

    def instance_names(self, modality: Modality) -> list[str]:
        """The names of all images with instance masks, sorted."""
        return self._names(modality, INSTANCES_SUFFIX)

    def partial_files(self) -> list[Path]:
        """Files that an interrupted run left half-written, sorted. They are never taken for masks."""
        return sorted(path for path in _files(self.root) if path.name.endswith(PARTIAL_SUFFIX))

    def _inside(self, modality: Modality, name: str, suffix: str) -> Path:
        parts = name.split("/")
        outside = any(part in ("", ".", "..") for part in parts) or PurePosixPath(name).is_absolute()
        # Only on Windows do these separate folders or name a drive; elsewhere they are characters like any other.
        if os.name == "nt":
            outside |= "\\" in name or bool(PureWindowsPath(name).drive)
        if outside or "\0" in name:
            raise UsageError(f"mask name {name!r} would leave the mask tree {self.root}; use a relative path")
        # Not `with_suffix`, which would cut "scene.v2" to "scene".
        return self.root.joinpath(modality, *parts[:-1], parts[-1] + suffix)

    def _names(self, modality: Modality, suffix: str) -> list[str]:
        folder = self.root / modality
        files = (path for path in _files(folder) if path.name.endswith(suffix) and not path.name.startswith("."))
        return sorted(path.relative_to(folder).as_posix()[: -len(suffix)] for path in files)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())
