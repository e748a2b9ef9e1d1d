"""What readers of masks need of the place where masks are kept, and which kind of place it is."""

from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt

from thfuse_sam.images import MODALITIES, Modality
from thfuse_sam.masks.shards import SHARDS_FOLDER, MaskShards
from thfuse_sam.masks.tree import MASK_SUFFIX, MaskTree


class MaskStore(Protocol):
    """Masks by modality and name: `MaskTree` (one file each) or `MaskShards` (many in a tar file).

    With the suffix INSTANCES_SUFFIX, a method is about the instance masks of an image instead of its label map.
    """

    @property
    def root(self) -> Path:
        """The folder that also holds the manifest."""

    def location(self, modality: Modality, name: str, suffix: str = MASK_SUFFIX) -> str:
        """Where the mask lies or would lie, for messages."""

    def has(self, modality: Modality, name: str, suffix: str = MASK_SUFFIX) -> bool:
        """Whether there is a mask; says nothing about its content."""

    def names(self, modality: Modality, suffix: str = MASK_SUFFIX) -> list[str]:
        """The names of all finished masks, sorted."""

    def read(self, modality: Modality, name: str, shape: tuple[int, int] | None) -> npt.NDArray[Any]:
        """The mask of an image of (height, width) `shape`, None for any; see `format.read_mask`.

        Raises MaskReadError.
        """

    def read_instances(self, modality: Modality, name: str, shape: tuple[int, int]) -> list[dict[str, Any]]:
        """The instance masks of an image of (height, width) `shape`. Raises MaskReadError."""

    def shape_and_time(self, modality: Modality, name: str) -> tuple[tuple[int, int], int]:
        """(height, width) of a mask from its header, and when it was written (ns). Raises MaskReadError."""


def has_masks(root: Path) -> bool:
    """Whether `root` looks like a place of masks, of either kind."""
    return any((root / folder).is_dir() for folder in (*MODALITIES, SHARDS_FOLDER))


def open_masks(root: Path) -> MaskTree | MaskShards:
    """The masks at `root`: shards where it has a folder of them, else the tree."""
    return MaskShards(root) if (root / SHARDS_FOLDER).is_dir() else MaskTree(root)
