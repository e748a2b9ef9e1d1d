"""A mask tree in Python."""

import os
from collections.abc import Iterator
from typing import Any

from thfuse_sam.api.inputs import as_path
from thfuse_sam.arrays import Array
from thfuse_sam.errors import MaskReadError, UsageError, shown
from thfuse_sam.images import MODALITIES, Modality
from thfuse_sam.masks.shards import MaskShards
from thfuse_sam.masks.store import MaskStore, open_masks


class MaskTree:
    """The masks that `precompute` wrote to a folder, by modality and name, whichever way they are stored.

    Like a dictionary: `tree["ir", "0001"]` is a label map, and `for modality, name in tree` tells what there is.

    Example:
        >>> import thfuse_sam as th
        >>> tree = th.MaskTree("precomputed_masks")
        >>> tree
        MaskTree('precomputed_masks')
        >>> ("ir", "a/0001") in tree
        False
        >>> tree["ir", "a/0001"]
        Traceback (most recent call last):
        thfuse_sam.errors.MaskReadError: ...
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = as_path(root, "root")
        if self.root.is_file():
            raise UsageError(f"`root` {self.root}: a file; give the folder that `precompute()` writes")
        self._opened: MaskStore | None = None

    def __repr__(self) -> str:
        return f"MaskTree({str(self.root)!r})"

    def __getitem__(self, key: tuple[Modality, str]) -> Array:
        """The label map HxW of the image of ("ir" or "vi", name without suffix). Raises MaskReadError."""
        modality, name = self._checked(key)
        return self._masks().read(modality, name, None)

    def __contains__(self, key: tuple[Modality, str]) -> bool:
        return self._masks().has(*self._checked(key))

    def __iter__(self) -> Iterator[tuple[Modality, str]]:
        return ((modality, name) for modality in MODALITIES for name in self.names(modality))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def names(self, modality: Modality) -> list[str]:
        """The names of the images that have a mask, sorted."""
        return self._masks().names(self._checked((modality, ""))[0])

    def instances(self, modality: Modality, name: str) -> list[dict[str, Any]]:
        """The whole masks of an image, which may overlap, each with what SAM says of it; see `save_instances`.

        Raises MaskReadError, also where none were saved.
        """
        modality, name = self._checked((modality, name))
        store = self._masks()
        return store.read_instances(modality, name, store.shape_and_time(modality, name)[0])

    def _masks(self) -> MaskStore:
        """The masks as they are now; what shards hold is read again only after there were other shards."""
        if not (isinstance(self._opened, MaskShards) and self._opened.is_up_to_date()):
            self._opened = open_masks(self.root)
        return self._opened

    def _checked(self, key: tuple[Modality, str]) -> tuple[Modality, str]:
        if not (isinstance(key, tuple) and len(key) == 2 and key[0] in MODALITIES and isinstance(key[1], str)):
            raise MaskReadError(f"{shown(key)}: no such mask; give ('ir' or 'vi', the image's name without suffix)")
        return key
