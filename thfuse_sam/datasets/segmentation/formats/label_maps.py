"""Label maps as `.npy` files, the masks of this project::

    images/0001.jpg  masks/0001.npy                   what prepare_data.py writes
    manifest.json    ir/a/0001.npy  vi/a/0001.npy     what precompute_masks.py writes, also in shards; the manifest
                                                      names the images and says how infrared ones are read

0 is no object, k is object k. 255 beside few other numbers is what other programs ignore, unless another is given.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from thfuse_sam.arrays import Array, size_of
from thfuse_sam.datasets.named_images import list_images
from thfuse_sam.datasets.segmentation.formats.listing import Entry, Listing, files_below, no_image, no_mask
from thfuse_sam.datasets.segmentation.formats.mask_values import VOID
from thfuse_sam.datasets.segmentation.formats.objects import drawn_frame, require_size
from thfuse_sam.datasets.segmentation.sample import NOTE, Flaw, SegmentationSample
from thfuse_sam.errors import SampleError
from thfuse_sam.images import MODALITIES, Modality, read_for_sam, upright
from thfuse_sam.masks.format import read_mask, segment_labels
from thfuse_sam.masks.manifest import MANIFEST_NAME, Manifest
from thfuse_sam.masks.source_images import find_image
from thfuse_sam.masks.store import open_masks
from thfuse_sam.masks.tree import MASK_SUFFIX
from thfuse_sam.options.shared import AnnotationReading
from thfuse_sam.thermal import AS_STORED, InfraredReading

_IMAGES, _MASKS = "images", "masks"
_MANY = 128  # objects, of which one may be number VOID
_VOID = f"numbered {VOID} beside few others, ignored"


def find(root: Path, reading: AnnotationReading) -> Listing | None:
    """Entries of either layout, None if a folder has neither. Raises ManifestError or PairError."""
    if (root / MANIFEST_NAME).is_file():
        return _find_in_tree(root, reading)
    images_folder, masks_folder = root / _IMAGES, root / _MASKS
    files = files_below(masks_folder, MASK_SUFFIX)
    if not files or not images_folder.is_dir():
        return None
    masks = {path.relative_to(masks_folder).as_posix()[: -len(MASK_SUFFIX)]: path for path in files}
    images = list_images(images_folder)
    pairs = [(name, image, masks[name]) for name, image in images.items() if name in masks]
    problems = [no_mask(image, masks_folder) for name, image in images.items() if name not in masks]
    problems += [no_image(path, images_folder) for name, path in masks.items() if name not in images]
    entries = [
        Entry(name, image, partial(_read, name, image, partial(read_mask, mask, None), mask, reading.ignore_value))
        for name, image, mask in pairs
    ]
    return Listing(entries, problems)


def _find_in_tree(root: Path, reading: AnnotationReading) -> Listing:
    manifest, masks = Manifest.load(root), open_masks(root)
    how = InfraredReading.of_settings(manifest.signature.generator)
    entries, problems = [], []
    for modality in MODALITIES:
        folders = manifest.folders(modality)
        for name in masks.names(modality):
            location = masks.location(modality, name)
            images = (find_image(folder, name) for folder in folders)
            image = next((image for image in images if image is not None), None)
            if image is None:
                problems.append(f"{location}: its image is in none of the folders that {root / MANIFEST_NAME} names")
            else:
                full_name, load = f"{modality}/{name}", partial(masks.read, modality, name, None)
                read = partial(_read, full_name, image, load, location, reading.ignore_value, modality, how)
                entries.append(Entry(full_name, image, read))
    return Listing(entries, problems)


def _read(
    name: str,
    image_path: Path,
    load_mask: Callable[[], Array],
    location: str | Path,
    ignore_value: int | None,
    modality: Modality = "vi",
    how: InfraredReading = AS_STORED,
) -> SegmentationSample:
    """An image, read as `how` says if it is infrared, and its label map. Raises the errors of both readers."""
    mask = load_mask()
    shape, orientation, flaws = drawn_frame(image_path, size_of(mask), ignore_exif=False)
    require_size(image_path, shape, size_of(mask), location)
    label_map = upright(segment_labels(mask).astype(np.int32), orientation)
    void = VOID if ignore_value is None else ignore_value
    is_void, ignored = label_map == void, None
    others = np.unique(label_map[(label_map > 0) & ~is_void])
    if is_void.any() and (ignore_value is not None or 0 < len(others) < _MANY):
        ignored, label_map = is_void, np.where(is_void, 0, label_map)
        flaws = [*flaws, Flaw(_VOID, str(location), NOTE)] if ignore_value is None else flaws
    if not label_map.any():
        raise SampleError(f"{location}: the mask is empty; remove it or its image")
    image = read_for_sam(image_path, modality, how)
    return SegmentationSample(name, image, label_map, ignored=ignored, flaws=tuple(flaws))
