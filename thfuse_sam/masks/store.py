"""What readers of masks need of the place where masks are kept, and how that place is told."""

from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt

from thfuse_sam.images import MODALITIES, Modality
from thfuse_sam.masks.shards import SHARDS_FOLDER, MaskShards
from thfuse_sam.masks.tree import MaskTree


class MaskStore(Protocol):
    """Masks by modality and name: `MaskTree` (one file each) or `MaskShards` (many in a tar file)."""

    @property
    def root(self) -> Path:
        """The folder that also holds the manifest."""

    def place(self, modality: Modality, name: str) -> str:
        """Where the mask lies or would lie, for messages."""

    def instances_place(self, modality: Modality, name: str) -> str:
        """Where the instance masks lie or would lie, for messages."""

    def has(self, modality: Modality, name: str) -> bool:
        """Whether there is a mask; says nothing about its content."""

    def has_instances(self, modality: Modality, name: str) -> bool:
        """Whether there are instance masks; says nothing about their content."""

    def read(self, modality: Modality, name: str, shape: tuple[int, int] | None) -> npt.NDArray[Any]:
        """The mask of an image of (height, width) `shape`, None for any. Raises MaskReadError."""

    def read_instances(self, modality: Modality, name: str, shape: tuple[int, int]) -> list[dict[str, Any]]:
        """The instance masks of an image of (height, width) `shape`. Raises MaskReadError."""

    def stamp(self, modality: Modality, name: str) -> tuple[tuple[int, int], int]:
        """(height, width) of a mask from its header, and when it was written (ns). Raises MaskReadError."""

    def names(self, modality: Modality) -> list[str]:
        """The names of all masks, sorted."""

    def instance_names(self, modality: Modality) -> list[str]:
        """The names of all images with instance masks, sorted."""

    def partial_files(self) -> list[Path]:
        """Files that an interrupted run left half-written, sorted."""


def has_masks(root: Path) -> bool:
    """Whether `root` looks like a place of masks, of either kind."""
    return any((root / folder).is_dir() for folder in (*MODALITIES, SHARDS_FOLDER))


def open_masks(root: Path) -> MaskTree | MaskShards:
    """The masks at `root`: shards where it has a folder of them, else the tree."""
    return MaskShards(root) if (root / SHARDS_FOLDER).is_dir() else MaskTree(root)
