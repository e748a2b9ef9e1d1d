"""Where a data set gets its masks from: a precomputed tree, SAM itself, or nowhere.

No module of this room imports SAM: with precomputed masks it is not even loaded.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from thfuse_sam.arrays import Array, ImageArray, Size
from thfuse_sam.errors import MaskReadError, UsageError
from thfuse_sam.images import Modality, read_for_sam_and_missing
from thfuse_sam.masks.format import LabelMap
from thfuse_sam.masks.image_records import ImageRecords
from thfuse_sam.masks.manifest import Manifest
from thfuse_sam.masks.state import OWN_TREE, ForeignSources, changed_image
from thfuse_sam.masks.store import has_masks, open_masks
from thfuse_sam.thermal import AS_STORED, InfraredReading

log = logging.getLogger(__name__)

_Infrared = ImageArray | None
_Mask = Array | None

_MAX_WARNINGS = 20  # masks that cannot be used are named in the log, up to this many


class MaskSource(Protocol):
    """Hands out the mask of an image, at the image's full size."""

    def get(self, modality: Modality, name: str, path: Path, shape: Size, infrared: _Infrared = None) -> _Mask:
        """The mask of the image at `path` of (height, width) `shape`, as `format.read_mask` returns it; None: it has no
        usable one.

        `infrared` is the infrared image HxW of the scene, at whose warm places live masks look more closely.
        """


class NoMasks:
    """No image has a mask."""

    def get(self, modality: Modality, name: str, path: Path, shape: Size, infrared: _Infrared = None) -> None:
        return None


class LiveMasks:
    """Masks made when they are asked for, from the whole image, equal to precomputed ones.

    Args:
        make_label_map: maps an image uint8 HxWx3, RGB, and the infrared image HxW of the scene, if that is known, to
            the image's label map HxW.
        reading: how infrared images are read.
    """

    def __init__(
        self, make_label_map: Callable[[ImageArray, ImageArray | None], LabelMap], reading: InfraredReading = AS_STORED
    ) -> None:
        self._make_label_map = make_label_map
        self._reading = reading

    def get(self, modality: Modality, name: str, path: Path, shape: Size, infrared: _Infrared = None) -> LabelMap:
        image, missing = read_for_sam_and_missing(path, modality, self._reading)
        label_map = self._make_label_map(image, infrared)
        if label_map.shape != shape:
            raise ValueError(f"the generator made a label map of {label_map.shape} for an image of {shape}")
        return label_map if missing is None else np.where(missing, label_map.dtype.type(0), label_map)


class PrecomputedMasks:
    """Precomputed masks, one file each or in shards.

    A missing or broken mask gives None. Why a mask is broken is logged once, for the first few broken masks.

    Args:
        root: the mask tree. Its manifest may be missing: masks may come from another program.
        image_dirs: the data set's folder (or pattern, see `source_images.find_image`) of each modality. Needed to
            notice a tree made from other images of the same names.

    Raises:
        UsageError: `root` is no mask tree.
        ManifestError: the manifest or the records of the images are unreadable.
    """

    def __init__(self, root: Path, image_dirs: Mapping[Modality, Path]) -> None:
        if not has_masks(root):
            raise UsageError(
                f"`precomputed_masks_dir` {root}: no ir/ or vi/ folder with masks there; run `precompute()` first"
            )
        self._store = open_masks(root)
        self._foreign = ForeignSources(Manifest.find(root), image_dirs)
        self._records = ImageRecords.load(root)
        self._broken: set[tuple[Modality, str]] = set()
        self._own: set[tuple[Modality, str]] = set()  # masks known to be made from this data set's images

    def get(self, modality: Modality, name: str, path: Path, shape: Size, infrared: _Infrared = None) -> _Mask:
        if not self._store.has(modality, name):
            return None
        try:
            self._require_own(modality, name, path)
            return self._store.read(modality, name, shape)
        except MaskReadError as error:
            if (modality, name) not in self._broken:
                self._broken.add((modality, name))
                if len(self._broken) <= _MAX_WARNINGS:
                    log.warning("mask not used: %s", error)
                elif len(self._broken) == _MAX_WARNINGS + 1:
                    log.warning("more masks are not used; they are not listed")
            return None

    def _require_own(self, modality: Modality, name: str, path: Path) -> None:
        if (modality, name) in self._own:
            return
        foreign_image = self._foreign.find(modality, name, path)
        if foreign_image is not None:
            raise MaskReadError(
                f"{self._store.location(modality, name)} was made from {foreign_image}, not from {path}; {OWN_TREE}"
            )
        if changed_image(self._records, modality, name, path):
            raise MaskReadError(
                f"{self._store.location(modality, name)} was made before {path} changed; run `precompute()` again"
            )
        self._own.add((modality, name))
