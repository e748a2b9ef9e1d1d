"""Label maps as `.npy` files, the masks of this project::

    images/0001.jpg  masks/0001.npy                   what prepare_data.py writes
    manifest.json    ir/a/0001.npy  vi/a/0001.npy     what precompute_masks.py writes; the manifest names the images

0 is no object, k is object k.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from thfuse_sam.datasets.pairs import list_images
from thfuse_sam.datasets.segmentation.entries import Found
from thfuse_sam.datasets.segmentation.sample import SegmentationSample
from thfuse_sam.errors import SampleError
from thfuse_sam.images import MODALITIES, Modality, read_for_sam
from thfuse_sam.masks.format import labels, read_mask
from thfuse_sam.masks.manifest import MANIFEST_NAME, Manifest, find_image
from thfuse_sam.masks.tree import MASK_SUFFIX, MaskTree

IMAGES_FOLDER, MASKS_FOLDER = "images", "masks"


@dataclass(frozen=True)
class LabelMapEntry:
    """An image and its label map."""

    name: str
    image_path: Path
    mask_path: Path
    modality: Modality = "vi"  # how the image is read

    def read(self) -> SegmentationSample:
        image = read_for_sam(self.image_path, self.modality)
        label_map = labels(read_mask(self.mask_path, (image.shape[0], image.shape[1]))).astype(np.int32)
        if not label_map.any():
            raise SampleError(f"{self.mask_path}: the mask is empty; remove it or its image")
        return SegmentationSample(self.name, image, label_map)


def is_label_map_folder(root: Path) -> bool:
    """Whether a folder is a mask tree, or `images/` + `masks/` with `.npy` files."""
    if (root / MANIFEST_NAME).is_file():
        return True
    folder = root / MASKS_FOLDER
    return (
        (root / IMAGES_FOLDER).is_dir() and folder.is_dir() and next(folder.rglob(f"*{MASK_SUFFIX}"), None) is not None
    )


def find_label_maps(root: Path) -> Found:
    """Entries of either layout. Raises ManifestError or PairError."""
    return _find_in_tree(root) if (root / MANIFEST_NAME).is_file() else _find_beside_images(root)


def _find_beside_images(root: Path) -> Found:
    images = list_images(root / IMAGES_FOLDER)
    folder = root / MASKS_FOLDER
    files = (path for path in folder.rglob(f"*{MASK_SUFFIX}") if not path.name.startswith("."))
    masks = {path.relative_to(folder).as_posix()[: -len(MASK_SUFFIX)]: path for path in sorted(files)}
    problems = [f"{images[name]}: no mask of the same name in {folder}" for name in images if name not in masks]
    problems += [
        f"{masks[name]}: no image of the same name in {root / IMAGES_FOLDER}" for name in masks if name not in images
    ]
    return Found([LabelMapEntry(name, images[name], masks[name]) for name in images if name in masks], problems)


def _find_in_tree(root: Path) -> Found:
    manifest = Manifest.load(root)
    tree = MaskTree(root)
    entries, problems = [], []
    for modality in MODALITIES:
        folders = manifest.folders(modality)
        for name in tree.names(modality):
            path = tree.path(modality, name)
            image = next((found for folder in folders if (found := find_image(folder, name)) is not None), None)
            if image is None:
                problems.append(f"{path}: its image is in none of the folders that {root / MANIFEST_NAME} names")
            else:
                entries.append(LabelMapEntry(f"{modality}/{name}", image, path, modality))
    return Found(entries, problems)
