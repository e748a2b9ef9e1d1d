"""Both ways in which masks are stored: one file for each (`MaskFiles`), or many in a tar file (`MaskShards`)."""

from pathlib import Path

from thfuse_sam.images import MODALITIES
from thfuse_sam.masks.shards import SHARDS_FOLDER, MaskShards
from thfuse_sam.masks.tree import MaskFiles

MaskStore = MaskFiles | MaskShards


def has_masks(root: Path) -> bool:
    """Whether `root` has a folder of masks or of shards."""
    return any((root / folder).is_dir() for folder in (*MODALITIES, SHARDS_FOLDER))


def open_masks(root: Path) -> MaskStore:
    """The masks at `root`: shards if it has a folder of them, else the tree."""
    return MaskShards(root) if (root / SHARDS_FOLDER).is_dir() else MaskFiles(root)
