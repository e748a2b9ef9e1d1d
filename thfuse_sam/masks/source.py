"""Where a data set gets its masks from: a tree made ahead, SAM itself, or nowhere.

No module here imports SAM: with masks made ahead it is not even loaded.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from thfuse_sam.errors import MaskReadError, UsageError
from thfuse_sam.images import Modality, read_for_sam
from thfuse_sam.masks.format import LabelMap
from thfuse_sam.masks.manifest import MANIFEST_NAME, ForeignSources, Manifest
from thfuse_sam.masks.store import has_masks, open_masks
from thfuse_sam.masks.tree import MaskTree

log = logging.getLogger(__name__)


_SHOWN_BROKEN = 20  # masks that are named, of those that cannot be used


@dataclass
class MaskCounts:
    """What a source has handed out since the epoch's start, in this process only.

    Loader workers have sources of their own; across them, sum the samples' `has_ir_mask` and `has_vi_mask`.
    """

    found: int = 0
    missing: int = 0
    broken: int = 0  # unreadable, of another size, or made from an image of another data set


class MaskSource(Protocol):
    """Hands out the mask of an image, at the image's full size."""

    def get(self, modality: Modality, name: str, image_path: Path, shape: tuple[int, int]) -> npt.NDArray[Any] | None:
        """The mask of an image of (height, width) `shape`, as `format.read_mask` returns it; None: placeholder."""

    def start_epoch(self) -> None:
        """Start counting anew."""

    def report(self) -> MaskCounts:
        """What was handed out since the last `start_epoch`."""


class _Counting:
    """The counts that every source keeps."""

    def __init__(self) -> None:
        self._counts = MaskCounts()

    def start_epoch(self) -> None:
        self._counts = MaskCounts()

    def report(self) -> MaskCounts:
        return self._counts


class NoMasks(_Counting):
    """Every image gets the placeholder."""

    def get(self, modality: Modality, name: str, image_path: Path, shape: tuple[int, int]) -> npt.NDArray[Any] | None:
        self._counts.missing += 1
        return None


class PrecomputedMasks(_Counting):
    """Masks made ahead, one file each or in shards. A missing or broken one gives None; why, is logged once for each
    of the first few.

    Args:
        root: the mask tree. Its manifest may be missing: masks may come from another program.
        image_dirs: the data set's folder of each modality, or pattern (see `manifest.find_image`). Needed to notice
            a tree made from other images of the same names.

    Raises:
        UsageError: `root` is no mask tree.
        ManifestError: the manifest is unreadable.
    """

    def __init__(self, root: Path, image_dirs: Mapping[Modality, Path]) -> None:
        super().__init__()
        if not has_masks(root):
            raise UsageError(
                f"`precomputed_masks_dir` {root}: no ir/ or vi/ folder with masks there; run precompute_masks.py first"
            )
        self._store = open_masks(root)
        manifest = Manifest.load(root) if (root / MANIFEST_NAME).is_file() else None
        # A folder that the manifest names needs no look: making the tree has ruled out foreign masks.
        self._foreign = {
            modality: ForeignSources(manifest, modality, folder)
            for modality, folder in image_dirs.items()
            if manifest is not None and not manifest.records(modality, folder)
        }
        self._logged: set[tuple[Modality, str]] = set()  # broken masks
        self._own: set[tuple[Modality, str]] = set()  # masks known to be of this data set

    def get(self, modality: Modality, name: str, image_path: Path, shape: tuple[int, int]) -> npt.NDArray[Any] | None:
        if not self._store.has(modality, name):
            self._counts.missing += 1
            return None
        try:
            self._require_own(modality, name, image_path)
            mask = self._store.read(modality, name, shape)
        except MaskReadError as error:
            self._counts.broken += 1
            if (modality, name) not in self._logged:
                self._logged.add((modality, name))
                if len(self._logged) <= _SHOWN_BROKEN:
                    log.warning("mask not used: %s", error)
                elif len(self._logged) == _SHOWN_BROKEN + 1:
                    log.warning("more masks are not used; the rest are only counted")
            return None
        self._counts.found += 1
        return mask

    def _require_own(self, modality: Modality, name: str, image_path: Path) -> None:
        if modality not in self._foreign or (modality, name) in self._own:
            return
        other = self._foreign[modality].find(name)
        if other is not None:
            raise MaskReadError(
                f"{self._store.place(modality, name)} was made from {other}, not from {image_path}; "
                "run precompute_masks.py for this data set"
            )
        self._own.add((modality, name))


class LiveMasks(_Counting):
    """Masks made when they are asked for, from the full image, exactly as they are made ahead.

    Args:
        make_label_map: a mask generator, from uint8 HxWx3 RGB to a label map HxW.
        tree: where made masks are kept and found again; None: nowhere. Whoever gives a tree makes sure that its
            manifest has the generator's signature.
    """

    def __init__(self, make_label_map: Callable[[npt.NDArray[np.uint8]], LabelMap], tree: MaskTree | None) -> None:
        super().__init__()
        self._make_label_map = make_label_map
        self._tree = tree

    def get(self, modality: Modality, name: str, image_path: Path, shape: tuple[int, int]) -> npt.NDArray[Any] | None:
        mask = self._kept(modality, name, shape)
        if mask is None:
            mask = self._make_label_map(read_for_sam(image_path, modality))
            if mask.shape != shape:
                raise ValueError(f"the generator made a label map of {mask.shape} for an image of {shape}")
            if self._tree is not None:
                self._tree.write(modality, name, mask)
        self._counts.found += 1
        return mask

    def _kept(self, modality: Modality, name: str, shape: tuple[int, int]) -> npt.NDArray[Any] | None:
        if self._tree is None or not self._tree.has(modality, name):
            return None
        try:
            return self._tree.read(modality, name, shape)
        except MaskReadError as error:
            log.warning("mask made anew: %s", error)
            return None
