"""Binary masks as image files, one object an image::

imgs/001.jpg     masks/001.png      also image/ + mask/, and images/ + masks/
imgs/b/002.jpg   masks/b/002.png
"""

from pathlib import Path

import numpy as np

from thfuse_sam.datasets.segmentation.formats.listing import Listing, first_folders, pair_mask_images
from thfuse_sam.datasets.segmentation.formats.mask_images import read_binary_mask, require_same_size
from thfuse_sam.datasets.segmentation.sample import SegmentationSample
from thfuse_sam.images import read_visible

_FOLDERS = (("imgs", "masks"), ("image", "mask"), ("images", "masks"))


def detect(root: Path) -> bool:
    """Whether the folders are there."""
    return first_folders(root, _FOLDERS) is not None


def find(root: Path) -> Listing:
    """Images with the mask of their name. Raises PairError: two files with one name."""
    return pair_mask_images(root, _FOLDERS, read)


def read(name: str, image_path: Path, mask_path: Path) -> SegmentationSample:
    """An image and its one object. Raises SampleError and ImageReadError."""
    require_same_size(image_path, mask_path)
    mask = read_binary_mask(mask_path)
    return SegmentationSample(name, read_visible(image_path), mask.astype(np.int32))
