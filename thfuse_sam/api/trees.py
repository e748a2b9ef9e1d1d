"""A mask tree in Python."""

import os
from pathlib import Path
from typing import Any

import numpy.typing as npt

from thfuse_sam.errors import MaskReadError
from thfuse_sam.images import MODALITIES, Modality
from thfuse_sam.masks.store import open_masks


class MaskTree:
    """The masks that `precompute` wrote to a folder, by modality and name, whichever way they are stored.

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
        self.root = Path(root)

    def __repr__(self) -> str:
        return f"MaskTree({str(self.root)!r})"

    def __getitem__(self, key: tuple[Modality, str]) -> npt.NDArray[Any]:
        """The label map HxW of the image of ("ir" or "vi", name without suffix). Raises MaskReadError."""
        modality, name = self._checked(key)
        return open_masks(self.root).read(modality, name, None)

    def __contains__(self, key: tuple[Modality, str]) -> bool:
        return open_masks(self.root).has(*self._checked(key))

    def names(self, modality: Modality) -> list[str]:
        """The names of the images that have a mask, sorted."""
        return open_masks(self.root).names(modality)

    def instances(self, modality: Modality, name: str) -> list[dict[str, Any]]:
        """The whole masks of an image, which may overlap, each with what SAM says of it; see `save_instances`.

        Raises MaskReadError, also where none were saved.
        """
        store = open_masks(self.root)
        return store.read_instances(modality, name, store.shape_and_time(modality, name)[0])

    def _checked(self, key: tuple[Modality, str]) -> tuple[Modality, str]:
        modality, name = key
        if modality not in MODALITIES:
            raise MaskReadError(f"{modality!r}, {name!r}: no such mask; the first is 'ir' or 'vi'")
        return modality, name
