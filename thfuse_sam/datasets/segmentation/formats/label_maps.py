"""Label maps as `.npy` files, the masks of this project::

    images/0001.jpg  masks/0001.npy                   what prepare_data.py writes
    manifest.json    ir/a/0001.npy  vi/a/0001.npy     what precompute_masks.py writes; the manifest names the images

0 is no object, k is object k.
"""

from functools import partial
from pathlib import Path

import numpy as np

from thfuse_sam.datasets.segmentation.formats.listing import Entry, Listing, pair_with_masks
from thfuse_sam.datasets.segmentation.sample import SegmentationSample
from thfuse_sam.errors import SampleError
from thfuse_sam.images import MODALITIES, Modality, read_for_sam
from thfuse_sam.masks.format import read_mask, segment_labels
from thfuse_sam.masks.manifest import MANIFEST_NAME, Manifest
from thfuse_sam.masks.source_images import find_image
from thfuse_sam.masks.tree import MASK_SUFFIX, MaskTree
from thfuse_sam.options.shared import AnnotationReading

_IMAGES, _MASKS = "images", "masks"


def find(root: Path, reading: AnnotationReading) -> Listing | None:
    """Entries of either layout, None if a folder has neither. Raises ManifestError or PairError."""
    if (root / MANIFEST_NAME).is_file():
        return _find_in_tree(root)
    folder = root / _MASKS
    files = sorted(path for path in folder.rglob(f"*{MASK_SUFFIX}") if not path.name.startswith("."))
    if not files or not (root / _IMAGES).is_dir():
        return None
    masks = {path.relative_to(folder).as_posix()[: -len(MASK_SUFFIX)]: path for path in files}
    return pair_with_masks(root / _IMAGES, folder, masks, read)


def read(name: str, image_path: Path, mask_path: Path, modality: Modality = "vi") -> SegmentationSample:
    """An image and its label map; `modality` says how the image is read. Raises the errors of both readers."""
    image = read_for_sam(image_path, modality)
    label_map = segment_labels(read_mask(mask_path, (image.shape[0], image.shape[1]))).astype(np.int32)
    if not label_map.any():
        raise SampleError(f"{mask_path}: the mask is empty; remove it or its image")
    return SegmentationSample(name, image, label_map)


def _find_in_tree(root: Path) -> Listing:
    manifest = Manifest.load(root)
    tree = MaskTree(root)
    entries, problems = [], []
    for modality in MODALITIES:
        folders = manifest.folders(modality)
        for name in tree.names(modality):
            path = tree.path(modality, name)
            images = (find_image(folder, name) for folder in folders)
            image = next((image for image in images if image is not None), None)
            if image is None:
                problems.append(f"{path}: its image is in none of the folders that {root / MANIFEST_NAME} names")
            else:
                full_name = f"{modality}/{name}"
                entries.append(Entry(full_name, image, partial(read, full_name, image, path, modality)))
    return Listing(entries, problems)
